"""Leases and locks of a store that is not shared: they are kept in the process, by its monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from state.base import HeldLock, Lease, check_task


class OwnLeases:
    """The leases that this process wrote itself. They end with the process."""

    def __init__(self) -> None:
        self._leases: dict[str, tuple[float, Lease]] = {}

    def renew(self, lease: Lease, ttl: float) -> bool:
        """Keep `lease` for `ttl` seconds from now. Returns whether the member held a lease until now."""
        now = time.monotonic()
        until, _ = self._leases.get(lease.member, (now, lease))
        self._leases[lease.member] = (now + ttl, lease)
        return until > now

    def release(self, member: str) -> None:
        """End the lease of `member`, if it holds one."""
        self._leases.pop(member, None)

    def members(self) -> list[Lease]:
        """Return the leases that have not expired, in the order of their members."""
        now = time.monotonic()
        unexpired = [(until - now, lease) for until, lease in self._leases.values() if until > now]
        return sorted(
            (msgspec.structs.replace(lease, remaining=remaining) for remaining, lease in unexpired),
            key=lambda lease: lease.member,
        )


class OwnHeldLock(msgspec.Struct, frozen=True):
    """A lock that cannot be lost."""

    generation: int
    lost: bool = False


class OwnLocks:
    """Locks between the tasks of a process that uses its store alone."""

    def __init__(self) -> None:
        self._tasks: set[str] = set()
        """Those whose lock is held."""
        self._generation = 0

    @contextmanager
    def hold(self, task: str) -> Iterator[HeldLock | None]:
        """Hold the lock while the block runs; None: another task of this process holds it."""
        check_task(task)
        if task in self._tasks:
            yield None
            return
        self._generation += 1
        self._tasks.add(task)
        try:
            yield OwnHeldLock(self._generation)
        finally:
            self._tasks.discard(task)
