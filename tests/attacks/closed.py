"""`python -m tests.attacks.closed serve ...`: the director without standard input, output and error."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    os.closerange(0, 3)
    os.execv(sys.executable, [sys.executable, "-m", "director", *sys.argv[1:]])
