"""Operators' changes of backend hosts: add, set weight, take up and down, tag, remove.

Each method returns when every director has the change. `reason`, `dry_run`, `follow` and errors: as in
`users`. `force` also makes changes that leave users without a usable host.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from director.core.director import Director
from director.core.moves.jobs import Flush
from director.core.protocol.events import HostChange, HostMove, HostsMoved
from director.core.protocol.messages import HostRow
from director.core.tables.hosts import HostTable, is_usable
from director.core.tables.movedhosts import ends_without_address
from director.records import Change, MoveInfo
from director.service.operations.arguments import as_address, known_host
from director.service.operations.audit import Audit
from director.service.operations.hostinfo import HostInfos
from director.service.operations.pools import NO_HOST_LEFT, Pools, pool_name, table_with
from director.service.operations.previews import pinned_on, previewed
from director.service.operations.trackedjobs import TrackedJobs
from director.service.pendingoperations import PendingOperations
from director.service.persistence.unstored import Unstored
from director.types import Address

NAME_MOVED = "its name has another address"
"""The reason that the audit shows."""


class HostOperations:
    def __init__(
        self,
        director: Director,
        pending_operations: PendingOperations,
        jobs: TrackedJobs,
        infos: HostInfos,
        pools: Pools,
        unstored: Unstored,
        audit: Audit,
    ) -> None:
        self._pending_operations, self._jobs, self._infos = pending_operations, jobs, infos
        self._pools, self._unstored, self._audit = pools, unstored, audit
        self._director, self._hosts = director, director.hosts

    async def set(
        self,
        address: str,
        tag: str | None,
        weight: int | None,
        *,
        reason: str,
        dry_run: bool = False,
        hostname: str = "",
        force: bool = False,
    ) -> Change:
        """Add a host, or set the weight of a host that exists. The tag of a host that exists does not change.

        Args:
            tag: None if no tag is given; the empty tag is a given tag.
        """
        where = as_address(address)
        change = HostChange(0, where, add=True, tag=tag, weight=weight, hostname=hostname)
        if weight == 0 and not force:
            await self._pools.check_change(change, "weight 0")
        return await self._change(change, "add", reason, dry_run)

    async def update(
        self,
        address: str,
        weight: int,
        *,
        reason: str,
        dry_run: bool = False,
        tag: str | None = None,
        force: bool = False,
    ) -> Change:
        """Set the weight of a host. If `tag` is given and is not the host's tag, the change is refused."""
        change = HostChange(0, as_address(address), tag=tag, weight=weight)
        if weight == 0 and not force:
            await self._pools.check_change(change, "weight 0")
        return await self._change(change, "update", reason, dry_run)

    async def set_up(self, address: str, up: bool, *, reason: str, dry_run: bool = False) -> Change:
        change = HostChange(0, as_address(address), up=up)
        return await self._change(change, "up" if up else "down", reason, dry_run)

    async def remove(
        self, address: str, *, reason: str, dry_run: bool = False, force: bool = False
    ) -> Change:
        """Remove a host, forget its users and end their sessions."""
        where = as_address(address)
        change = HostChange(0, where, remove=True)
        if not force:
            await self._pools.check_change(change, "removal")
        made = await self._change(change, "remove", reason, dry_run)
        if not dry_run:
            return made
        tag = known_host(self._hosts, address).tag
        users = await previewed(self._director, where, None, everybody=True)
        return msgspec.structs.replace(
            made,
            users=users,
            unpinned=users.unpinned,
            without_host=not table_with(self._hosts, change).usable().get(tag),
        )

    # ---- tags

    async def set_tag(
        self,
        address: str,
        tag: str,
        *,
        reason: str,
        dry_run: bool = False,
        force: bool = False,
        follow: bool = False,
    ) -> Change | MoveInfo:
        """Give a host another tag, and move the users of its old tag as a flush does.

        With `follow` the method does not wait for these moves.
        """
        change = HostChange(0, Address(known_host(self._hosts, address).address), tag=tag, retag=True)
        if not force:
            await self._pools.check_change(change, "tag")
        before = known_host(self._hosts, address)
        made = await self._change(change, "tag", reason, dry_run)
        if dry_run and before.tag != tag:
            users = await previewed(self._director, Address(before.address), None, everybody=True)
            return msgspec.structs.replace(made, users=users)
        job = self._jobs.under_way("tag", before.address) if before.tag == tag else None
        if dry_run or (before.tag == tag and job is None and not follow):
            return made
        if job is not None:
            done = self._jobs.joined_info(job) if follow else await job.outcome()
        else:
            event = self._flush_of_tag(before)
            done = await self._jobs.carry_out("tag", before.address, event, reason, follow=follow)
            if isinstance(done, MoveInfo):
                return msgspec.structs.replace(done, change=made)
        return done if isinstance(done, MoveInfo) else msgspec.structs.replace(made, users=done)

    def _flush_of_tag(self, before: HostRow) -> Flush:
        """Return the flush that moves the users assigned to the host under its old tag."""
        row = known_host(self._hosts, before.address)
        return Flush(0, Address(row.address), old_tag=before.tag.encode(), before=row.tag_at)

    # ---- the configuration file

    async def apply(self, change: HostChange, what: str, reason: str) -> None:
        """Carry out a change of the configuration file. Users of a former tag are moved in the background."""
        before = self._hosts.get(change.address)
        await self._change(change, what, reason, dry_run=False)
        after = self._hosts.get(change.address)
        if change.retag and before and after and before.tag != after.tag:
            event = self._flush_of_tag(before)
            await self._jobs.carry_out("tag", before.address, event, reason, follow=True)

    async def move_hosts(self, moves: Sequence[HostMove]) -> None:
        """Give backends their new addresses. Their settings and their users move with them."""
        rows = [self._hosts.rows[move.before] for move in moves]
        await self._pending_operations.carry_out(HostsMoved(0, moves, rows))
        names = ", ".join(move.name for move in moves)
        await self._unstored.documents_stored("host_address_changed", names)
        for move, row in zip(moves, rows, strict=True):
            if self._hosts.rows[move.before] != row:
                after = "" if ends_without_address(move) else move.after
                self._audit.add(
                    "host_address_changed", move.name, NAME_MOVED, f"before={move.before} after={after}"
                )

    async def _change(self, change: HostChange, what: str, reason: str, dry_run: bool) -> Change:
        before = self._hosts.get(change.address)
        if dry_run:
            table = table_with(self._hosts, change)
            row, stored, pins = table.rows[change.address], False, 0
        else:
            table = self._hosts
            pins = await pinned_on(self._director, change.address) if change.remove and before else 0
            row = await self._pending_operations.carry_out(change)
            stored = await self._unstored.documents_stored(what, str(change.address))
            if row != before:
                detail = f"weight={row.weight} tag={row.tag} up={row.up} present={row.present}"
                detail += f" unpinned={pins}" if change.remove else ""
                self._audit.add(what, str(change.address), reason, detail)
        return Change(
            host=await self._infos.one(row),
            stored=stored,
            dry_run=dry_run,
            warning=_last_host(before, table),
            unpinned=pins,
        )


def _last_host(before: HostRow | None, after: HostTable) -> str:
    """Return a warning if the change leaves the host's pool without a usable host; else the empty text."""
    if before is None or not is_usable(before) or after.usable().get(before.tag):
        return ""
    return f"the {pool_name(before.tag)} has no usable host left: {NO_HOST_LEFT}"
