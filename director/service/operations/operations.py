"""What can be asked of a running director, and what can be changed: behind admin socket, API and metrics.

Reading answers from memory at once. A change returns when every director has it, and says whether it is
stored.
"""

from __future__ import annotations

import platform
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from typing import Protocol

import anyio.lowlevel
import anyio.to_thread
import msgspec

from director.core.placement.addresses import host_id
from director.core.placement.assign import Gate, Wait
from director.core.placement.hashing import UserHash
from director.core.placement.names import entries_in
from director.core.placement.users import BUCKET_SHIFT, BUCKETS, PINNED, User, is_alive, unpack
from director.core.placement.vhosts import Circle
from director.core.protocol.events import HostChange, HostMove, HostsMoved
from director.core.protocol.messages import HostRow
from director.core.protocol.order import member_order, split_member
from director.core.ring.link import Neighbour
from director.core.ring.partition import Standing
from director.core.tables.changes import problem_with
from director.core.tables.hosts import BackendSetting, HostTable, is_usable
from director.core.tables.movedhosts import is_parked_at
from director.records import (
    Alarm,
    Change,
    ConfiguredHost,
    Dump,
    HostInfo,
    MemberInfo,
    Plan,
    ReloadInfo,
    RingInfo,
    StatusInfo,
    UserInfo,
    UserStatus,
)
from director.service.clock import unix_time
from director.service.driver import Driver
from director.service.lifecycle.credentials import Credentials
from director.service.logwriter import LogWriter
from director.service.metrics import (
    Counted,
    Durations,
    HostSample,
    Snapshot,
    carry_on,
    counted,
    render,
)
from director.service.operations.alarms import differing, reload_alarms, ring_alarms
from director.service.operations.dump import host_commands, pin_command
from director.service.operations.planning import planned
from director.service.operations.pools import NO_HOST_LEFT, pool_name
from director.service.operations.previews import pinned_on
from director.service.operations.useroperations import UserOperations, as_address, is_hash
from director.service.persistence.persist import Persistence
from director.types import Address, HostId, MemberId, Stamp
from director.version import VERSION
from director.wire import hotpath
from state.base import AuditEntry

WAITS = {
    Wait.HINT: "memory",
    Wait.RING: "ring",
    Wait.NO_HOST: "host",
    Wait.MOVING: "move",
    Wait.NEAR: "expiry",
    Wait.RETAGGED: "tag",
    Wait.HELD: "expiry",
    Wait.UNREAD: "store",
    Wait.READDRESSED: "address",
}
"""What a login waits for, by the word the API has for it."""
NAME_MOVED = "its name has another address"
"""In the audit, as the reason."""
COUNTED = 64
"""Buckets searched for pins in one turn of the loop."""
HOSTS_AT_ONCE = 500
"""Hosts listed in one turn of the loop."""
MOVING_AT_ONCE = 1000
"""Users on the move counted in one turn of the loop."""
COUNTED_AT_ONCE = 20_000
"""About so many users are counted in one turn: a millisecond."""
BATCH = 1000
"""Users of one batch of a listing."""
BLIP = 5.0
"""Seconds without sync that do not make a director unready: known users are answered meanwhile."""


class Reloads(Protocol):
    """Who reads the configuration again, and has the program replaced."""

    def info(self) -> ReloadInfo: ...

    async def ask(self, *, exec: bool, dry_run: bool) -> ReloadInfo: ...


class Listened(Protocol):
    """What listeners count."""

    pauses: dict[str, int]
    refused: dict[tuple[str, str], int]

    def connections(self) -> dict[str, int]: ...


class Operations(UserOperations):
    def __init__(
        self,
        driver: Driver,
        persistence: Persistence,
        user_hash: UserHash,
        started: float,
        warm_seconds: Callable[[], float],
        before: Counted | None = None,
        log_writer: LogWriter | None = None,
    ) -> None:
        """before: what predecessors in this process have counted."""
        super().__init__(driver, persistence, user_hash)
        self._before = before or Counted()
        self._log_writer = log_writer
        self._log_dropped_before = log_writer.dropped if log_writer else 0
        self.reloads: Reloads | None = None
        """Given before the director serves anything."""
        self.listeners: Listened | None = None
        """Given too, where there are any."""
        self.sockets_kept_by: Callable[[], str] = str
        self.credentials: Credentials | None = None
        """What holds the sockets while this director does not run (StatusInfo)."""
        self._started, self._warm_seconds = started, warm_seconds
        self._syncs, self._kicks = Durations(), Durations()
        self._configured = cache(self._configured_circle)

    # ---- reading

    async def status(self) -> StatusInfo:
        hosts = await self.hosts()
        return StatusInfo(
            version=VERSION,
            me=self._director.me,
            started=int(self._started),
            hosts=hosts,
            users=sum(host.users for host in hosts),
            ring=self.ring(),
            store=self._persistence.info(),
            alarms=self.alarms(),
            sockets_kept_by=self.sockets_kept_by(),
        )

    async def hosts(self) -> list[HostInfo]:
        counts, leaving = await self._counts(), await self._leaving()
        rows = self._hosts.present()
        hosts: list[HostInfo] = []
        for first in range(0, len(rows), HOSTS_AT_ONCE):
            hosts += [self._host_info(row, counts, leaving) for row in rows[first : first + HOSTS_AT_ONCE]]
            if first + HOSTS_AT_ONCE < len(rows):
                await anyio.lowlevel.checkpoint()
        return hosts

    def configured_changed(self) -> None:
        """The hosts of the configuration file are others now."""
        self._configured.cache_clear()

    def reload_info(self) -> ReloadInfo:
        """What became of the last reload."""
        assert self.reloads is not None
        return self.reloads.info()

    async def reload(self, *, exec: bool, reason: str, dry_run: bool = False) -> ReloadInfo:
        """Read the configuration again; exec: have the program replaced in place, which goes on behind it."""
        assert self.reloads is not None
        info = await self.reloads.ask(exec=exec, dry_run=dry_run)
        if not dry_run:
            what = "reload --exec" if exec else "reload"
            detail = info.problem or " ".join(info.applied)
            self._audit(what, self._director.me, reason, detail)
        return info

    def removed_hosts(self) -> list[str]:
        """Hosts of the configuration file that an operator has removed."""
        return [str(address) for address in self._hosts.removed()]

    def plan(self, hosts: Sequence[ConfiguredHost], unresolved: Sequence[ConfiguredHost] = ()) -> Plan:
        """What a start of this director with these hosts in its configuration would change. unresolved: names
        in it that have no address now."""
        settings = [BackendSetting(as_address(h.address), h.hostname, h.tag, h.weight) for h in hosts]
        unknown = [BackendSetting(Address(""), h.hostname, h.tag, h.weight) for h in unresolved]
        return self.plan_settings(settings, unknown)

    def plan_settings(self, settings: Sequence[BackendSetting], unresolved: Sequence[BackendSetting]) -> Plan:
        """The same of settings as the configuration has them."""
        applied = self._persistence.documents.applied
        return planned(self._director.me, self._hosts, applied, settings, unresolved, int(unix_time()))

    async def dump(self) -> Dump:
        """The commands that rebuild hosts and pins. Reads the users in slices."""
        commands = host_commands(self._hosts)
        for number in range(BUCKETS):
            pinned = [user for user in unpack(self._users.bucket(number)) if user.flags & PINNED]
            names = dict(entries_in(self._director.names.bucket(number))) if pinned else {}
            for user in pinned:
                host = self._live_host(user)
                if host is not None:
                    commands.append(
                        pin_command(user.key, names.get(user.key), host, self._tag_of(user.key) or "")
                    )
            if number % COUNTED == 0:
                await anyio.lowlevel.checkpoint()
        return Dump(commands=commands)

    def ring(self) -> RingInfo:
        director = self._director
        order = sorted(director.ring.servers, key=member_order)
        return RingInfo(
            me=director.me,
            synced=director.synced,
            ring=[m for m in order if m in director.barrier.ring],
            missing=[m for m in order if m not in director.barrier.ring],
            waiting_logins=len(director.pending),
            members=[info for member in order for info in self._member_infos(member)],
            stopped=[m for m in order if self._has_stopped(m)],
            removed=director.ring.removed,
            moves_in_progress=len(director.moves),
            waiting_for=self._waiting_for(),
        )

    def _waiting_for(self) -> dict[str, int]:
        """Why logins wait (RingInfo)."""
        names = WAITS | {Wait.RING: "majority"} if self._director.standing is Standing.WAIT else WAITS
        found: dict[str, int] = {}
        for wait, count in self._director.pending.reasons().items():
            found[names[wait]] = found.get(names[wait], 0) + count
        return found

    def user_status(self, user: str, tag: str = "", numeric_is_hash: bool = True) -> UserStatus:
        name = user.encode("utf-8", "surrogateescape")
        if numeric_is_hash and is_hash(user):
            hash32 = int(user)
            record = self._by_hash(hash32, tag)
        else:
            key = self._user_hash.key(self._user_hash.cut(name), tag.encode("utf-8", "surrogateescape"))
            hash32 = key >> 32
            record = self._users.get(key)
        host = self._live_host(record)
        hashed = self._director.assigner.place(hash32, tag.encode("utf-8", "surrogateescape"))
        return UserStatus(
            user=user,
            tag=tag,
            hash=hash32,
            current=host,
            expires=record.seen + self._users.expire if record is not None and host is not None else None,
            hashed=hashed.address if hashed else None,
            configured=self._configured(tag).host(hash32),
            pinned=host is not None and record is not None and bool(record.flags & PINNED),
        )

    async def users(self, host: str | None = None, after: str = "") -> AsyncIterator[list[UserInfo]]:
        """Assignments in order of their key, in batches; `after` (16 hex digits) leaves out keys up to it."""
        wanted = as_address(host) if host else None
        start = int(after, 16) + 1 if after else 0
        batch: list[UserInfo] = []
        for number in range(start >> BUCKET_SHIFT, BUCKETS):
            records = [user for user in unpack(self._users.bucket(number)) if user.key >= start]
            if records:
                names = self._director.names.names(number)
                for record in records:
                    address = self._live_host(record)
                    if address is not None and wanted in (None, address):
                        batch.append(_user_info(record, address, self._users.expire, names.get(record.key)))
            if len(batch) >= BATCH:
                yield batch
                batch = []
            if number % 2 == 0:
                await anyio.lowlevel.checkpoint()
        if batch:
            yield batch

    def alive(self) -> bool:
        return True

    def ready(self) -> tuple[bool, str]:
        """Whether logins can be answered, and why not."""
        director = self._director
        barrier = director.barrier
        if director.ring.removed:
            return False, (
                f"removed from the ring: logins are refused; `director ring add {director.me}` on another "
                "director takes it back"
            )
        if director.assigner.gate is Gate.CLOSED:
            return False, "memory is not compared with the ring or the store yet"
        if director.standing is Standing.WAIT:
            return False, "the smaller part of a cut ring: new users wait"
        if not barrier.synced and barrier.waiting_since is not None:
            waited = time.monotonic() - barrier.waiting_since
            if waited > BLIP:
                return False, f"ring not synced for {waited:.0f} s: new users wait"
        return True, "ready"

    # ---- changing

    async def set_host(
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
        """Add a host, or set the weight of one that is there; its tag cannot be changed so. tag: None is not
        given, the empty one is."""
        where = as_address(address)
        change = HostChange(0, where, add=True, tag=tag, weight=weight, hostname=hostname)
        if weight == 0 and not force:
            await self._pools.check_change(change, "weight 0")
        return await self._change(change, "add", reason, dry_run)

    async def update_host(
        self,
        address: str,
        weight: int,
        *,
        reason: str,
        dry_run: bool = False,
        tag: str | None = None,
        force: bool = False,
    ) -> Change:
        """Set the weight of a host. force: 0 also where its users are left without a host."""
        change = HostChange(0, as_address(address), tag=tag, weight=weight)
        if weight == 0 and not force:
            await self._pools.check_change(change, "weight 0")
        return await self._change(change, "update", reason, dry_run)

    async def set_up(self, address: str, up: bool, *, reason: str, dry_run: bool = False) -> Change:
        return await self._change(
            HostChange(0, as_address(address), up=up), "up" if up else "down", reason, dry_run
        )

    async def remove_host(
        self, address: str, *, reason: str, dry_run: bool = False, force: bool = False
    ) -> Change:
        """Remove a host. force: also where its users are left without one."""
        where = as_address(address)
        change = HostChange(0, where, remove=True)
        if not force:
            await self._pools.check_change(change, "removal")
        if not dry_run:
            return await self._change(change, "remove", reason, dry_run)
        users = await self._preview(where, None, everybody=True)
        return msgspec.structs.replace(
            await self._change(change, "remove", reason, dry_run),
            users=users,
            unpinned=users.unpinned,
            without_host=not self._table_with(change).usable().get(self._known_host(address).tag),
        )

    async def apply(self, change: HostChange, what: str, reason: str) -> None:
        """Carry out what the configuration file says; the users of a former tag are moved behind it."""
        before = self._hosts.get(change.address)
        await self._change(change, what, reason, dry_run=False)
        after = self._hosts.get(change.address)
        if change.retag and before and after and before.tag != after.tag:
            self._start("tag", before.address, self._flush_of_tag(before), reason)

    async def move_hosts(self, moves: Sequence[HostMove]) -> None:
        """Backends have other addresses: all that was said of them, and their users, go with them."""
        rows = [self._hosts.rows[move.before] for move in moves]
        await self._driver.operators.move_hosts(HostsMoved(0, moves, rows))
        names = ", ".join(move.name for move in moves)
        await self._persistence.unstored.documents_stored("backend_moved", names)
        for move, row in zip(moves, rows, strict=True):
            if self._hosts.rows[move.before] != row:
                after = "" if is_parked_at(move) else move.after
                self._audit("backend_moved", move.name, NAME_MOVED, f"before={move.before} after={after}")

    async def _change(self, change: HostChange, what: str, reason: str, dry_run: bool) -> Change:
        before = self._hosts.get(change.address)
        if dry_run:
            table = self._table_with(change)
            row = table.rows[change.address]
            return Change(
                host=self._host_info(row, await self._counts()) if row.present else None,
                stored=False,
                dry_run=True,
                warning=self._last_host(before, table),
            )
        pins = await pinned_on(self._director, change.address) if change.remove and before else 0
        row = await self._driver.operators.change_host(change)
        stored = await self._persistence.unstored.documents_stored(what, str(change.address))
        if row != before:
            self._persistence.audit(
                AuditEntry(
                    at=time.time(),
                    who=self._director.me,
                    what=what,
                    target=str(change.address),
                    detail=f"weight={row.weight} tag={row.tag} up={row.up} present={row.present}"
                    + (f" unpinned={pins}" if change.remove else ""),
                    reason=reason,
                )
            )
        return Change(
            host=self._host_info(row, await self._counts()) if row.present else None,
            stored=stored,
            warning=self._last_host(before, self._hosts),
            unpinned=pins,
        )

    @staticmethod
    def _last_host(before: HostRow | None, after: HostTable) -> str:
        """A warning where the change of a host has left its pool without a usable one."""
        if before is None or not is_usable(before) or after.usable().get(before.tag):
            return ""
        return f"the {pool_name(before.tag)} has no usable host left: {NO_HOST_LEFT}"

    def _table_with(self, change: HostChange) -> HostTable:
        """The table with the change. Raises what the change itself would raise."""
        problem = problem_with(self._hosts, change)
        if problem is not None:
            error, text = problem
            raise error(text)
        table = HostTable(self._hosts.configured.values())
        table.merge(self._hosts.rows.values())
        table.change(
            change.address,
            Stamp(int(unix_time())),
            remove=change.remove,
            tag=change.tag,
            weight=change.weight,
            up=change.up,
        )
        return table

    def alarms(self) -> list[Alarm]:
        """Of the files of this director, of a reload that failed, and of directors that differ from it."""
        files = self.credentials.alarms() if self.credentials else []
        return [
            *files,
            *(reload_alarms(self.reloads.info()) if self.reloads else []),
            *ring_alarms(self._director),
        ]

    # ---- metrics

    async def metrics(self) -> bytes:
        # In a thread: with thousands of hosts the page is long.
        return await anyio.to_thread.run_sync(render, self._snapshot(await self.hosts()))

    def counted(self) -> Counted:
        """For a successor."""
        return counted(self._snapshot([]))

    def _snapshot(self, hosts: Sequence[HostInfo]) -> Snapshot:
        director, driver, persistence = self._director, self._driver, self._persistence
        users: dict[str, int] = {}
        for host in hosts:
            users[host.tag] = users.get(host.tag, 0) + host.users
        ring = self.ring()
        lag, driver.counts.loop_lag = driver.counts.loop_lag, 0.0
        while director.barrier.durations:
            self._syncs.add(director.barrier.durations.popleft())
        while director.kicks.durations:
            self._kicks.add(director.kicks.durations.popleft())
        counters, snapshot = director.counters, persistence.info().snapshot
        page = Snapshot(
            version=VERSION,
            python=platform.python_version(),
            compiled=hotpath.COMPILED,
            lookups=driver.lookups(),
            users=users,
            hosts=[HostSample(h.address, h.tag, h.up and h.weight > 0, h.weight, h.users) for h in hosts],
            conflicts=counters.conflicts,
            false_departures=counters.false_departures,
            stamps_clipped=dict(counters.stamps_clipped),
            moves={
                "moved": counters.moves_done,
                "superseded": counters.moves_superseded,
                "timed_out": counters.moves_timed_out,
            },
            moves_in_progress=len(director.moves),
            flush_programs={
                "done": counters.programs_done,
                "failed": counters.programs_failed,
                "stopped": counters.programs_stopped,
            },
            kicks={
                "done": counters.kicks_done,
                "failed": counters.kicks_failed,
                "timed_out": counters.kicks_timed_out,
            },
            sessions_kicked=counters.sessions_kicked,
            kick_durations=self._kicks,
            near_expiry_rounds=counters.near_rounds,
            claims=counters.claims,
            waiting_refused=counters.waiting_refused,
            not_remembered=director.assigner.not_remembered,
            dropped_early=counters.dropped_early,
            users_limit=director.barrier.limit,
            ring_members={"in_ring": len(ring.ring), "missing": len(ring.missing)},
            ring_synced=ring.synced,
            ring_syncs=self._syncs,
            ring_messages={
                **{(kind, "in"): count for kind, count in counters.messages_in.items()},
                **{(kind, "out"): count for kind, count in driver.sockets.messages_out.items()},
            },
            ring_forged={"frame": driver.sockets.frames_forged, "proof": counters.proofs_refused},
            certificate_ends=self.credentials.seen.ends if self.credentials else {},
            secrets_readable=len(self.credentials.seen.readable) if self.credentials else 0,
            files_unusable=len(self.credentials.seen.unusable) if self.credentials else 0,
            differences={what: len(members) for what, members in differing(director).items()},
            unstored=len(persistence.unstored.changes()),
            store_up=persistence.up,
            store_queue=persistence.queued,
            store_lag=persistence.lag,
            store_errors=dict(persistence.errors),
            store_swept=dict(persistence.sweeping.swept),
            store_sweeper=persistence.sweeping.holds,
            snapshot_up=snapshot.up if snapshot else None,
            snapshot_written=snapshot.written if snapshot else None,
            sockets_kept=bool(self.sockets_kept_by()),
            warm_start_seconds=self._warm_seconds(),
            warm_start_users=persistence.loaded_users,
            warm_start_part=persistence.loaded_part,
            clock_skew={n.name(): n.skew for n in director.ring.live_links()},
            bugs=driver.counts.bugs,
            log_dropped=self._log_writer.dropped - self._log_dropped_before if self._log_writer else 0,
            loop_lag=lag,
        )
        if self.listeners is not None:
            page.accept_pauses = dict(self.listeners.pauses)
            page.connections_refused = dict(self.listeners.refused)
            page.connections = self.listeners.connections()
        carry_on(page, self._before)
        return page

    # ---- helpers

    async def _counts(self) -> dict[HostId, int]:
        """Live users by host, counted in slices between which logins are answered."""
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
        """Users on the move by the host they leave, counted in slices."""
        moving, leaving = list(self._director.moves.moving.values()), dict[HostId, int]()
        for number, one in enumerate(moving, 1):
            old = one.old.host
            if old != one.host:
                leaving[old] = leaving.get(old, 0) + 1
            if number % MOVING_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
        return leaving

    def _host_info(
        self, row: HostRow, counts: dict[HostId, int], leaving: dict[HostId, int] | None = None
    ) -> HostInfo:
        return HostInfo(
            address=row.address,
            hostname=row.hostname or None,
            tag=row.tag,
            weight=row.weight,
            up=row.up,
            changed=row.up_at if row.up_at > row.present_at else 0,
            users=counts.get(host_id(Address(row.address)), 0),
            leaving=(leaving or {}).get(host_id(Address(row.address)), 0),
            configured=row.address in self._hosts.configured,
        )

    def _live_host(self, record: User | None) -> str | None:
        """The host of a record that has not expired and whose host is (still) there."""
        if record is None or not is_alive(record, int(time.time()), self._users.expire):
            return None
        record = self._hosts.heir(record) or record
        row = self._hosts.by_id(record.host)
        return row.address if row is not None and record.decided >= row.present_at else None

    def _by_hash(self, hash32: int, tag: str) -> User | None:
        """A live record with this 32-bit hash on a host with this tag."""
        for record in unpack(self._users.with_hash(hash32)):
            if self._live_host(record) is not None:
                row = self._hosts.by_id(record.host)
                if row is not None and row.tag == tag:
                    return record
        return None

    def _configured_circle(self, tag: str) -> Circle:
        settings = self._hosts.configured.values()
        return Circle([(s.address, s.weight) for s in settings if s.tag == tag])

    def _member_infos(self, member: MemberId) -> list[MemberInfo]:
        director = self._director
        address, port = split_member(member)
        name = director.members.name_of(member).rpartition(":")[0] or None
        failed = int(director.ring.failed_at.get(member, 0))
        if member == director.me:
            return [
                MemberInfo(
                    address=address,
                    port=port,
                    name=name,
                    kind="self",
                    status=self._own_status(),
                    sync_ms=director.barrier.took_ms,
                )
            ]
        links = [n for n in director.ring.links.values() if n.peer == member]
        if not links:
            status = "stopped" if self._has_stopped(member) else ""
            return [MemberInfo(address=address, port=port, name=name, last_failed=failed, status=status)]
        infos = (self._link_info(n, address, port, failed) for n in links)
        return [msgspec.structs.replace(info, name=name) for info in infos]

    def _has_stopped(self, member: MemberId) -> bool:
        """Whether a listed director has said good-bye and is out of the ring."""
        return member in self._director.ring.departed and member not in self._director.barrier.ring

    def _own_status(self) -> str:
        barrier = self._director.barrier
        if barrier.synced:
            return "ring synced"
        if barrier.synced_at is None:
            return "ring handshaking"
        return f"ring syncing - last sync {int(time.monotonic() - barrier.synced_at)} secs ago"

    def _link_info(self, neighbour: Neighbour, address: str, port: int, failed: int) -> MemberInfo:
        director, socket = self._director, self._driver.sockets.links.get(neighbour.link)
        if neighbour is director.ring.right:
            kind = "right"
        elif neighbour is director.ring.left:
            kind = "left"
        else:
            kind = "out" if neighbour.dialled else "in"
        if neighbour.state.value == "full":
            status = "synced" if director.synced else "syncing"
        else:
            status = f"handshaking - {neighbour.state.value}"
        return MemberInfo(
            address=address,
            port=port,
            kind=kind,
            last_failed=failed,
            status=status,
            sync_ms=neighbour.ping_ms or 0,
            bytes_in=socket.bytes_in if socket else 0,
            bytes_out=socket.bytes_out if socket else 0,
            buffered=socket.buffered if socket else 0,
            buffered_peak=socket.peak if socket else 0,
            last_read=socket.last_read if socket else 0,
            last_write=socket.last_write if socket else 0,
        )


def _user_info(record: User, host: str, expire: int, name: str | None) -> UserInfo:
    return UserInfo(
        hash=record.key >> 32,
        key=f"{record.key:016x}",
        host=host,
        expires=record.seen + expire,
        name=name,
        pinned=bool(record.flags & PINNED),
    )
