"""A director as process 1 of a PID namespace, as in a container: `python -m tests.e2e.contained serve -c F`.

If it is killed, all processes in the namespace die.
"""

from __future__ import annotations

import os
import shutil
import sys

if __name__ == "__main__":
    unshare = shutil.which("unshare") or "unshare"
    inside = [sys.executable, "-m", "director", *sys.argv[1:]]
    os.execv(unshare, [unshare, "--pid", "--fork", "--kill-child", *inside])
