"""Standard input, output and error, if the process starts with any of them closed."""

from __future__ import annotations

import os
import sys


def open_standard() -> None:
    """Open /dev/null for each of the descriptors 0 to 2 that is closed.

    Call this before anything else opens a descriptor. Otherwise a file or socket gets one of these numbers:
    messages would be written into it, and the event loop ends the process when it closes it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # without O_CLOEXEC: children inherit the standard three
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
