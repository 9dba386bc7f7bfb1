"""Standard input, output and error, where the starting process has closed them."""

from __future__ import annotations

import os
import sys


def open_standard() -> None:
    """Open those of descriptors 0 to 2 that are closed on /dev/null.

    To be called before anything else opens a descriptor: the event loop ends the process when it is to close
    one of these, and a message would be written into whatever file or socket has got its number.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # without O_CLOEXEC, as all of them are
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
