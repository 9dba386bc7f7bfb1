"""Checks of pools: users stay in the pool of their tag, so a change must not leave a pool without a host."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Sequence

from director.core.moves.jobs import Flush
from director.core.placement.addresses import host_id
from director.core.protocol.events import HostChange
from director.core.protocol.messages import HostRow
from director.core.tables.changes import problem_with
from director.core.tables.hosts import HostTable, is_usable
from director.errors import Refused
from director.service.clock import unix_time
from director.types import Address, HostId, Stamp

NO_HOST_LEFT = "its new users wait 30 s and fail temporarily"
"""The effect of a pool without a usable host, for messages."""


def pool_name(tag: str) -> str:
    return f"pool {tag}" if tag else "pool without a tag"


def which_tag(tag: str) -> str:
    """Return which option to give for a user of this pool."""
    return f"give --tag {shlex.quote(tag)}" if tag else "give no tag"


def wrong_pool(row: HostRow, tag: str) -> Refused:
    """Return the error for a user of the pool of `tag` who cannot be moved to this host."""
    pool = pool_name(row.tag)
    return Refused(
        f"{row.address} is in the {pool}, the user in the {pool_name(tag)}: users stay in their pool; "
        f"to move the user of the {pool}, {which_tag(row.tag)}"
    )


def table_with(hosts: HostTable, change: HostChange) -> HostTable:
    """Return the table as it is after the change. Raises the same errors as the change itself."""
    problem = problem_with(hosts, change)
    if problem is not None:
        error, text = problem
        raise error(text)
    table = HostTable(hosts.configured.values())
    table.merge(hosts.rows.values())
    table.change(
        change.address,
        Stamp(int(unix_time())),
        remove=change.remove,
        tag=change.tag,
        weight=change.weight,
        up=change.up,
    )
    return table


class Pools:
    """Refuses changes that would leave users without a host."""

    def __init__(
        self,
        hosts: HostTable,
        counts: Callable[[], Awaitable[dict[HostId, int]]],
    ) -> None:
        """counts: returns the number of unexpired assignments by host."""
        self._hosts, self._counts = hosts, counts

    async def check_flush(self, event: Flush, what: str, *, can_force: bool = True) -> None:
        """Raise Refused if users of this flush have no host to move to."""
        rows = [row for row in self._hosts.present() if event.host in (None, row.address)]
        rows = [row for row in rows if event.tag in (None, row.tag)]
        await self._check(rows, self._hosts, what, can_force)

    async def check_change(self, change: HostChange, what: str) -> None:
        """Raise Refused if users of this host have no host to move to after the change."""
        before = self._hosts.get(change.address)
        if before is None or (change.retag and change.tag == before.tag):
            return
        if not (change.retag or change.remove) and not is_usable(before):
            return
        await self._check([before], table_with(self._hosts, change), f"{what} of {before.address}", True)

    async def _check(self, rows: Sequence[HostRow], after: HostTable, what: str, can_force: bool) -> None:
        usable = after.usable()
        stuck = [row for row in rows if not usable.get(row.tag)]
        if not stuck:
            return
        counts = await self._counts()
        users = {row: counts.get(host_id(Address(row.address)), 0) for row in stuck}
        number = sum(users.values())
        if not number:
            return
        pools = sorted({row.tag for row in stuck if users[row]})
        none = " and the ".join(map(pool_name, pools)) + (" has" if len(pools) == 1 else " have")
        forced = ", or give --force" if can_force else ""
        raise Refused(
            f"{what}: {number} user{'' if number == 1 else 's'} would be left without a host: the {none} "
            f"no other usable host; `director up` or add one first{forced}"
        )
