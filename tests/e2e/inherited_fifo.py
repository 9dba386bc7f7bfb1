"""Starts a director with an open FIFO, as systemd does: `python -m tests.e2e.inherited_fifo FIFO serve -c
FILE`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

FIRST_DESCRIPTOR = 3

if __name__ == "__main__":
    path = sys.argv.pop(1)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with suppress(FileExistsError):
        os.mkfifo(path, 0o622)
    opened = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    if opened != FIRST_DESCRIPTOR:
        os.dup2(opened, FIRST_DESCRIPTOR)
        os.close(opened)
    os.set_inheritable(FIRST_DESCRIPTOR, True)
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "notify"}

    from director.cli.main import main

    main()
