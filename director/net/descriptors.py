"""The descriptors of the process: how many are left, and one that is kept spare for operators."""

from __future__ import annotations

import os
import resource

RESERVE = 16
"""Descriptors that login and userdb connections leave to the store, the ring and operators."""
UNLIMITED = 1 << 30
"""The limit of a process without a limit."""


class Descriptors:
    """The descriptors of the process, which all listeners share, and the spare descriptor."""

    def __init__(self, most: int | None = None) -> None:
        """Open the spare descriptor.

        Args:
            most: how many the process may have open; None: its soft limit.
        """
        self.most = soft_limit() if most is None else most
        self._spare, self._open = -1, True
        self.restore_spare()

    def restore_spare(self) -> None:
        """Open the spare descriptor again, if there is a free descriptor."""
        if self._spare < 0 and self._open:
            self._spare = _probe()

    def free_spare(self) -> bool:
        """Close the spare descriptor, so that another connection can be accepted.

        False: it is closed already.
        """
        if self._spare < 0:
            return False
        os.close(self._spare)
        self._spare = -1
        return True

    def left_above(self, descriptor: int) -> int:
        """Return how many descriptors are left at most after `descriptor`: the kernel gives the lowest
        free number."""
        return self.most - 1 - descriptor

    def remaining(self) -> int:
        """Return how many descriptors are left at most, by opening one."""
        probe = _probe()
        if probe < 0:
            return 0
        os.close(probe)
        return self.left_above(probe)

    def close(self) -> None:
        """Close the spare descriptor permanently."""
        self._open = False
        self.free_spare()


def soft_limit() -> int:
    """Return how many descriptors this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


def _probe() -> int:
    """Return a newly opened descriptor of the null device; -1: there is no free descriptor."""
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
