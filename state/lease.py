"""Leases of a store that nobody else sees: kept in the process, by its monotonic clock."""

from __future__ import annotations

import time

import msgspec

from state.base import Lease


class OwnLeases:
    """The leases a process gave itself. They end with it, which is what a lease is for."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[float, Lease]] = {}

    def renew(self, lease: Lease, ttl: float) -> None:
        """Keep `lease` for `ttl` seconds from now."""
        self._held[lease.member] = (time.monotonic() + ttl, lease)

    def release(self, member: str) -> None:
        """Forget the lease of `member`, if there is one."""
        self._held.pop(member, None)

    def members(self) -> list[Lease]:
        """Those that have not lapsed, by member."""
        now = time.monotonic()
        alive = [(until - now, lease) for until, lease in self._held.values() if until > now]
        return sorted(
            (msgspec.structs.replace(lease, remaining=remaining) for remaining, lease in alive),
            key=lambda lease: lease.member,
        )
