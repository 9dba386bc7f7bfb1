"""Leases and locks of a store that nobody else sees: kept in the process, by its monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from state.base import HeldLock, Lease, check_task


class OwnLeases:
    """The leases a process gave itself. They end with it, which is what a lease is for."""

    def __init__(self) -> None:
        self._leases: dict[str, tuple[float, Lease]] = {}

    def renew(self, lease: Lease, ttl: float) -> bool:
        """Keep `lease` for `ttl` seconds from now. Whether the member had one."""
        now = time.monotonic()
        until, _ = self._leases.get(lease.member, (now, lease))
        self._leases[lease.member] = (now + ttl, lease)
        return until > now

    def release(self, member: str) -> None:
        """Forget the lease of `member`, if there is one."""
        self._leases.pop(member, None)

    def members(self) -> list[Lease]:
        """Those that have not lapsed, by member."""
        now = time.monotonic()
        alive = [(until - now, lease) for until, lease in self._leases.values() if until > now]
        return sorted(
            (msgspec.structs.replace(lease, remaining=remaining) for remaining, lease in alive),
            key=lambda lease: lease.member,
        )


class OwnHeldLock(msgspec.Struct, frozen=True):
    """A hold that cannot be lost."""

    generation: int
    lost: bool = False


class OwnLocks:
    """Locks of a process that is the only one with this store: between its own tasks."""

    def __init__(self) -> None:
        self._leases: set[str] = set()
        self._generation = 0

    @contextmanager
    def hold(self, task: str) -> Iterator[HeldLock | None]:
        """None where another task of this process has it: to wait for ourselves would help nobody."""
        check_task(task)
        if task in self._leases:
            yield None
            return
        self._generation += 1
        self._leases.add(task)
        try:
            yield OwnHeldLock(self._generation)
        finally:
            self._leases.discard(task)
