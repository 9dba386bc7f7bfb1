"""Runs a director as another user without further groups: `python -m tests.e2e.unprivileged UID serve
...`."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    user = int(sys.argv[1])
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    os.execv(sys.executable, [sys.executable, "-m", "director", *sys.argv[2:]])
