"""Hosts as operators see them, with the number of users assigned to each and leaving each."""

from __future__ import annotations

import time

import anyio.lowlevel

from director.core.director import Director
from director.core.placement.addresses import host_id
from director.core.placement.users import BUCKETS
from director.core.protocol.messages import HostRow
from director.records import HostInfo
from director.types import Address, HostId

HOSTS_AT_ONCE = 500
"""Hosts listed in one turn of the loop."""
MOVING_AT_ONCE = 1000
"""Moving users counted in one turn of the loop."""
COUNTED_AT_ONCE = 20_000
"""Users counted in one turn of the loop, approximately; this takes a millisecond."""


class HostInfos:
    def __init__(self, director: Director) -> None:
        self._director, self._hosts, self._users = director, director.hosts, director.users

    async def all(self) -> list[HostInfo]:
        """Return all hosts in the order of their addresses."""
        counts, leaving = await self.counts(), await self._leaving()
        rows = self._hosts.present()
        hosts: list[HostInfo] = []
        for first in range(0, len(rows), HOSTS_AT_ONCE):
            hosts += [self._info(row, counts, leaving) for row in rows[first : first + HOSTS_AT_ONCE]]
            if first + HOSTS_AT_ONCE < len(rows):
                await anyio.lowlevel.checkpoint()
        return hosts

    async def one(self, row: HostRow) -> HostInfo | None:
        """Return one host, or None if it was removed."""
        return self._info(row, await self.counts(), {}) if row.present else None

    async def counts(self) -> dict[HostId, int]:
        """Return the number of unexpired assignments by host. Logins are answered between the slices."""
        unix = int(time.time())
        counts: dict[HostId, int] = {}
        since = {host_id(Address(row.address)): row.present_at for row in self._hosts.rows.values()}
        buckets = max(1, BUCKETS * COUNTED_AT_ONCE // max(COUNTED_AT_ONCE, len(self._users)))
        for first in range(0, BUCKETS, buckets):
            for host, users in self._users.counts(first, first + buckets, unix, since).items():
                counts[host] = counts.get(host, 0) + users
            if buckets < BUCKETS:
                await anyio.lowlevel.checkpoint()
        return counts

    async def _leaving(self) -> dict[HostId, int]:
        """Return the number of moving users by the host that they leave, counted in slices."""
        moving, leaving = list(self._director.moves.moving.by_key.values()), dict[HostId, int]()
        for number, user in enumerate(moving, 1):
            old = user.old.host
            if old != user.host:
                leaving[old] = leaving.get(old, 0) + 1
            if number % MOVING_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
        return leaving

    def _info(self, row: HostRow, counts: dict[HostId, int], leaving: dict[HostId, int]) -> HostInfo:
        return HostInfo(
            address=row.address,
            hostname=row.hostname or None,
            tag=row.tag,
            weight=row.weight,
            up=row.up,
            changed=row.up_at if row.up_at > row.present_at else 0,
            users=counts.get(host_id(Address(row.address)), 0),
            leaving=leaving.get(host_id(Address(row.address)), 0),
            configured=row.address in self._hosts.configured,
        )
