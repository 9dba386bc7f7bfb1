"""What operators do to users and to the list of directors: moves, pins, flushes, kicks, tags, `ring add`.

Each returns when the whole ring has confirmed it, with counts. Long ones can be started, followed and
interrupted by an id. Which director an operator asks does not matter.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import msgspec

from director.core.checks import wrong_kick
from director.core.director import Director
from director.core.placement.addresses import canonical
from director.core.placement.hashing import UserHash
from director.core.placement.users import BUCKET_SHIFT, PINNED, unpack
from director.core.protocol.events import (
    Flush,
    Forget,
    HostChange,
    KickSessions,
    MemberChange,
    MoveUser,
    UnpinUser,
)
from director.core.protocol.kicktypes import ByField, ByName, HashOnHosts, KickWhat
from director.core.protocol.messages import HostRow
from director.core.protocol.order import join_member, split_member
from director.core.tables.hosts import HostTable
from director.errors import BadRequest, OperationError, Refused, TryAgain, UnknownName
from director.records import Change, MoveCounts, MoveInfo, Problem, RingInfo, UsersChange
from director.service.configuration.servers import addresses_of
from director.service.driver import Driver
from director.service.lifecycle.handover import UnderWay
from director.service.operations.knownusers import KnownUsers
from director.service.operations.pools import Pools, pool_name, which_tag, wrong_pool
from director.service.operations.previews import preview, previewed
from director.service.pendingoperations import UsersEvent
from director.service.persistence.persist import Persistence
from director.service.resolution.resolver import answer_of
from director.types import Address, HostId, MemberId, UserKey
from state.base import AuditEntry

REMEMBERED = 100
"""Ended operations that can still be asked for."""
RESOLVE_WITHIN = 5.0
"""Seconds the name of a director may take."""
LISTS = ("ring", "missing", "stopped")
"""Fields of RingInfo that list directors."""
LARGEST_HASH = 0xFFFFFFFF
HASH_DIGITS = len(str(LARGEST_HASH))


class _Followed:
    """An operation that can be asked for by its id."""

    def __init__(self, number: int, kind: str, target: str, event: UsersEvent | None = None) -> None:
        self.number, self.kind, self.target = number, kind, target
        self.event = event
        self.reason = ""
        self.before = UsersChange()
        """What predecessors in this process have done of it."""
        self.total: int | None = None
        self.started = int(time.time())
        self.ended: int | None = None
        self.result: UsersChange | None = None
        self.problem: Problem | None = None
        self.error: OperationError | None = None
        self.over = anyio.Event()

    def does(self, kind: str, target: str, event: UsersEvent) -> bool:
        """Whether this is under way and does what is asked for, as fast as it was begun."""
        mine = self.event
        if self.ended is not None or (self.kind, self.target) != (kind, target) or mine is None:
            return False
        if isinstance(mine, Flush) and isinstance(event, Flush) and event.max_parallel is None:
            mine = msgspec.structs.replace(mine, max_parallel=None)
        return mine == event


class UserOperations(ABC):
    """The part of `Operations` that moves and kicks users."""

    def __init__(self, driver: Driver, persistence: Persistence, user_hash: UserHash) -> None:
        self._driver, self._persistence, self._user_hash = driver, persistence, user_hash
        self._director: Director = driver.director
        self._hosts = driver.director.hosts
        self._users = driver.director.users
        self._known = KnownUsers(self._users, self._hosts, lambda: self._director.loading)
        self._pools = Pools(self._hosts, self._counts, self._table_with)
        self._followed: dict[str, _Followed] = {}
        self._taken_over: list[_Followed] = []
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Carry out what is only started, until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            task_status.started()
            await anyio.sleep_forever()

    # ---- one user

    async def move_user(
        self,
        user: str,
        host: str,
        tag: str | None = "",
        *,
        numeric_is_hash: bool = True,
        pin: bool = False,
        early: bool = False,
        new: bool = True,
        reason: str,
        dry_run: bool = False,
    ) -> UsersChange:
        """Move a user. tag: None is the pool of the host, unless the user is known in another one only.
        early: say so before the kick delay is over. new: also one that nobody has seen."""
        row, key, name = self._to_move(user, host, tag, numeric_is_hash, new)
        if dry_run:
            return self._preview_move(key, row)
        event = MoveUser(0, key, Address(row.address), name, pin, early)
        done = await self._driver.operators.change_users(event)
        what = "pin" if pin else "move"
        stored = await self._user_stored(what, user, key)
        self._audit(what, user, reason, f"host={row.address} moved={done.moved}")
        return _change(done, stored=stored, host=self._host_of(key))

    async def start_move(
        self,
        user: str,
        host: str,
        tag: str = "",
        *,
        numeric_is_hash: bool = True,
        pin: bool = False,
        new: bool = True,
        reason: str,
    ) -> MoveInfo:
        row, key, name = self._to_move(user, host, tag, numeric_is_hash, new)
        event = MoveUser(0, key, Address(row.address), name, pin)
        return self._start("pin" if pin else "move", user, event, reason)

    def _to_move(
        self, user: str, host: str, tag: str | None, numeric_is_hash: bool, new: bool
    ) -> tuple[HostRow, UserKey, bytes]:
        """The host, the user's key in its pool, and his name where it is known."""
        row = self._known_host(host)
        if tag not in (None, row.tag):
            raise wrong_pool(row, tag or "")
        if numeric_is_hash and is_hash(user):
            found, name = self._key_of_hash(int(user), row.tag), b""
            if found is None:
                raise self._known.without_name(user, new)
            key = found
            its_tag = self._tag_of(key)
            if its_tag not in (None, row.tag):
                raise wrong_pool(row, its_tag or "")
        else:
            name = self._user_hash.cut(_bytes(user))
            key = self._user_hash.key(name, row.tag.encode())
            elsewhere = self._tags_of(name) if tag is None and not self._known.knows(key) else []
            if elsewhere:
                raise wrong_pool(row, elsewhere[0])
        if not new:
            self._known.check(user, key)
        return row, key, name

    async def unpin_user(
        self, user: str, tag: str = "", *, numeric_is_hash: bool = True, reason: str, dry_run: bool = False
    ) -> UsersChange:
        """Let a pinned user expire, and be flushed, like everybody."""
        key: UserKey | None
        if numeric_is_hash and is_hash(user):
            key = self._key_of_hash(int(user), tag)
            key = None if key is not None and self._tag_of(key) not in (None, tag) else key
        else:
            key = self._user_hash.key(self._user_hash.cut(_bytes(user)), tag.encode())
        record = self._users.get(key) if key is not None else None
        if key is None or record is None or not record.flags & PINNED or self._hosts.gone(record):
            raise UnknownName(f"{user}: not pinned{self._pinned_elsewhere(user, tag, numeric_is_hash)}")
        if dry_run:
            return UsersChange(dry_run=True, host=self._host_of(key))
        done = await self._driver.operators.change_users(UnpinUser(0, key))
        stored = await self._user_stored("unpin", user, key)
        self._audit("unpin", user, reason, f"unpinned={done.moved}")
        return _change(done, stored=stored, host=self._host_of(key))

    async def kick(
        self,
        *,
        user: str | None = None,
        numeric_is_hash: bool = False,
        field: str | None = None,
        value: str | None = None,
        hash: int | None = None,
        wait: bool = True,
        reason: str,
        dry_run: bool = False,
    ) -> UsersChange:
        """End sessions by name, by another field of theirs, or by the user's hash; on all directors."""
        what: KickWhat
        if user is not None and numeric_is_hash and is_hash(user):
            hash, user = int(user), None
        if user is not None:
            what, target = ByName(_bytes(user)), user
        elif field is not None and value is not None:
            what, target = ByField(field, _bytes(value)), f"{field}={value}"
        elif hash is not None:
            what = HashOnHosts(hash, [row.address for row in self._hosts.rows.values()])
            target = str(hash)
        else:
            raise BadRequest("give a user, a field with its value, or a hash")
        problem = wrong_kick(what)
        if problem is not None:
            raise BadRequest(problem)
        known = self._is_assigned(user, hash)
        done = await self._driver.operators.change_users(KickSessions(0, what, wait, dry_run))
        if dry_run:
            return UsersChange(
                kicked=None if done.not_counted else done.kicked,
                timed_out=None,
                known=known or bool(done.kicked or done.not_counted),
                dry_run=True,
                counted=done.kicked,
                not_counted=[str(member) for member in done.not_counted],
            )
        self._audit("kick", target, reason, f"sessions={done.kicked}")
        found = done.kicked or done.timed_out or done.not_reached
        return msgspec.structs.replace(_change(done), known=known or bool(found))

    def _is_assigned(self, user: str | None, hash32: int | None) -> bool:
        """Whether a user is assigned, in whatever pool. True where a field is asked for instead."""
        if hash32 is not None:
            return self._known.knows_hash(hash32)
        if user is None:
            return True
        name = self._user_hash.cut(_bytes(user))
        tags = {row.tag for row in self._hosts.present()}
        return any(self._known.knows(self._user_hash.key(name, tag.encode())) for tag in tags)

    # ---- many users

    async def flush(
        self,
        host: str | None,
        *,
        tag: str | None = None,
        max_parallel: int | None = None,
        reason: str,
        dry_run: bool = False,
        force: bool = False,
    ) -> UsersChange:
        """Move the users of a host (None: of all) to where the hash puts them. force: to nowhere, too."""
        target, event = self._flush(host, tag, max_parallel)
        if not force:
            await self._pools.check_flush(event, f"flush of {target}")
        if dry_run:
            return await self._preview(event.host, tag, everybody=False)
        return await self._carried_out("flush", target, event, reason)

    async def start_flush(
        self,
        host: str | None,
        *,
        tag: str | None = None,
        max_parallel: int | None = None,
        reason: str,
        force: bool = False,
    ) -> MoveInfo:
        target, event = self._flush(host, tag, max_parallel)
        if not force:
            await self._pools.check_flush(event, f"flush of {target}")
        return self._start("flush", target, event, reason)

    async def rebalance(
        self, tag: str | None, max_parallel: int | None, *, reason: str, dry_run: bool = False
    ) -> UsersChange:
        """Move all users to where the hash puts them, except who is pinned."""
        target, event = self._flush(None, tag, max_parallel)
        await self._pools.check_flush(event, f"rebalance of {target}", can_force=False)
        if dry_run:
            return await self._preview(None, tag, everybody=False)
        return await self._carried_out("rebalance", target, event, reason)

    async def start_rebalance(self, tag: str | None, max_parallel: int | None, *, reason: str) -> MoveInfo:
        target, event = self._flush(None, tag, max_parallel)
        await self._pools.check_flush(event, f"rebalance of {target}", can_force=False)
        return self._start("rebalance", target, event, reason)

    async def forget(self, host: str | None, *, reason: str, dry_run: bool = False) -> UsersChange:
        """Forget the users of a host (None: of all), and end their sessions."""
        target, event = self._forget(host)
        if dry_run:
            return await self._preview(event.host, None, everybody=True)
        return await self._carried_out("forget", target, event, reason)

    async def start_forget(self, host: str | None, *, reason: str) -> MoveInfo:
        return self._start("forget", *self._forget(host), reason)

    async def set_tag(
        self, address: str, tag: str, *, reason: str, dry_run: bool = False, force: bool = False
    ) -> Change:
        """Give a host another tag; its users of the old one are moved as by a flush.

        force: also where they have no host to go to."""
        change = HostChange(0, Address(self._known_host(address).address), tag=tag, retag=True)
        if not force:
            await self._pools.check_change(change, "tag")
        before, made = self._known_host(address), await self._change(change, "tag", reason, dry_run)
        if before.tag == tag:
            one = None if dry_run else self._tag_under_way(before)
            return made if one is None else msgspec.structs.replace(made, users=await self._outcome(one))
        if dry_run:
            users = await self._preview(Address(before.address), None, everybody=True)
            return msgspec.structs.replace(made, users=users)
        event = self._flush_of_tag(before)
        users = await self._carried_out("tag", before.address, event, reason)
        return msgspec.structs.replace(made, users=users)

    async def start_set_tag(self, address: str, tag: str, *, reason: str, force: bool = False) -> MoveInfo:
        """The tag is changed when this returns; its users are moved behind it."""
        before = self._known_host(address)
        one = self._tag_under_way(before) if before.tag == tag else None
        if one is not None:
            return msgspec.structs.replace(self._info(one), joined=True)
        change = HostChange(0, Address(before.address), tag=tag, retag=True)
        if not force:
            await self._pools.check_change(change, "tag")
        made = await self._change(change, "tag", reason, False)
        begun = self._start("tag", before.address, self._flush_of_tag(before), reason)
        return msgspec.structs.replace(begun, change=made)

    def _tag_under_way(self, row: HostRow) -> _Followed | None:
        """What moves the users of the host's former tag."""
        for one in self._followed.values():
            if one.ended is None and (one.kind, one.target) == ("tag", row.address):
                return one
        return None

    def _flush_of_tag(self, before: HostRow) -> Flush:
        """What moves the users a host had under its old tag."""
        row = self._known_host(before.address)
        return Flush(0, Address(row.address), old_tag=before.tag.encode(), before=row.tag_at)

    def _flush(self, host: str | None, tag: str | None, max_parallel: int | None) -> tuple[str, Flush]:
        if max_parallel is not None and max_parallel < 1:
            raise BadRequest(f"{max_parallel} users at a time would never end: give 1 or more")
        row = self._known_host(host) if host is not None else None
        target = row.address if row is not None else "all" if tag is None else f"all of tag {tag!r}"
        return target, Flush(0, Address(row.address) if row else None, tag, max_parallel)

    def _forget(self, host: str | None) -> tuple[str, Forget]:
        row = self._known_host(host) if host is not None else None
        return row.address if row else "all", Forget(0, Address(row.address) if row else None)

    # ---- following

    def moves(self) -> list[MoveInfo]:
        """What is under way, and what has ended lately."""
        return [self._info(one) for one in reversed(self._followed.values())]

    def move_info(self, id: str) -> MoveInfo:
        return self._info(self._find(id))

    async def interrupt(self, id: str) -> None:
        """Begin with no more users; those under way are finished, and it ends with its counts."""
        self._driver.operators.interrupt(self._find(id).number)

    def _find(self, id: str) -> _Followed:
        if id not in self._followed:
            raise UnknownName(f"{id}: no such operation; ended ones are remembered for a while only")
        return self._followed[id]

    def _info(self, one: _Followed) -> MoveInfo:
        job = self._director.flushes.progress(one.number)
        result, before = one.result or one.before, one.before
        return MoveInfo(
            id=str(one.number),
            kind=one.kind,
            target=one.target,
            started=one.started,
            ended=one.ended,
            total=one.total,
            moved=before.moved + job.counts.moved if job else result.moved,
            in_progress=len(job.under_way) if job else 0,
            timed_out=(before.timed_out or 0) + job.counts.timed_out if job else result.timed_out or 0,
            kicked=(before.kicked or 0) + job.counts.kicked if job else result.kicked or 0,
            result=one.result,
            problem=one.problem,
        )

    def _start(self, kind: str, target: str, event: UsersEvent, reason: str) -> MoveInfo:
        """Carry it out in the background, or join the one that does so already."""
        assert self._tasks is not None
        joined = self._joined(kind, target, event, reason)
        if joined is not None:
            return msgspec.structs.replace(self._info(joined), joined=True)
        one = self._follow(kind, target, event)
        self._tasks.start_soon(self._carry_out_quietly, one, event, reason)
        return self._info(one)

    async def _carried_out(self, kind: str, target: str, event: UsersEvent, reason: str) -> UsersChange:
        """Carry it out, or wait for the one that does so already."""
        joined = self._joined(kind, target, event, reason)
        if joined is None:
            return await self._carry_out(self._follow(kind, target, event), event, reason)
        return await self._outcome(joined)

    async def _outcome(self, one: _Followed) -> UsersChange:
        """What an operation that was joined comes to in the end."""
        await one.over.wait()
        if one.error is not None:
            raise one.error
        assert one.result is not None
        return one.result

    def _joined(self, kind: str, target: str, event: UsersEvent, reason: str) -> _Followed | None:
        """What is under way and does the same: a second one would say that there is nothing left to do."""
        if not isinstance(event, Flush | Forget):
            return None
        for one in self._followed.values():
            if one.does(kind, target, event):
                self._audit(kind, target, reason, f"joined={one.number}")
                return one
        return None

    def _follow(self, kind: str, target: str, event: UsersEvent) -> _Followed:
        one = _Followed(self._driver.operators.new_operation(), kind, target, event)
        self._followed[str(one.number)] = one
        ended = [id for id, other in self._followed.items() if other.ended is not None]
        for id in ended[:-REMEMBERED]:
            del self._followed[id]
        return one

    async def _carry_out_quietly(self, one: _Followed, event: UsersEvent, reason: str) -> None:
        with suppress(OperationError):  # it is kept, for whoever asks
            await self._carry_out(one, event, reason)

    # ---- replacement of the program

    def hand_over(self) -> list[UnderWay]:
        """What a successor is to begin again."""
        return [
            UnderWay(
                number=one.number,
                kind=one.kind,
                target=one.target,
                started=one.started,
                total=one.total,
                reason=one.reason,
                flush=one.event if isinstance(one.event, Flush) else None,
                forget=one.event if isinstance(one.event, Forget) else None,
                moved=info.moved,
                timed_out=info.timed_out,
                kicked=info.kicked,
            )
            for one in self._followed.values()
            for info in [self._info(one)]
            # whoever waited for one by himself was sent away
            if one.result is None and one.problem is None and isinstance(one.event, Flush | Forget)
        ]

    def ended(self) -> list[MoveInfo]:
        """What has ended lately, the oldest first."""
        return [self._info(one) for one in self._followed.values() if one.ended is not None]

    def take_over(self, ended: Iterable[MoveInfo], under_way: Iterable[UnderWay], last: int) -> None:
        """List what a predecessor has left; `go_on` begins again with what was under way. last: number of an
        operation."""
        self._driver.operators.go_on_behind(last)
        for info in ended:
            one = _Followed(int(info.id), info.kind, info.target)
            one.started, one.ended, one.total = info.started, info.ended, info.total
            one.before = UsersChange(moved=info.moved, timed_out=info.timed_out, kicked=info.kicked)
            one.result, one.problem = info.result, info.problem
            one.over.set()
            self._followed[info.id] = one
        for left in under_way:
            one = _Followed(left.number, left.kind, left.target)
            one.started, one.total, one.reason = left.started, left.total, left.reason
            one.event = left.flush or left.forget
            one.before = UsersChange(moved=left.moved, timed_out=left.timed_out, kicked=left.kicked)
            self._followed[str(one.number)] = one
            self._taken_over.append(one)

    def go_on(self) -> None:
        """The ring is in sync: users can be moved."""
        assert self._tasks is not None
        for one in self._taken_over:
            assert one.event is not None
            self._tasks.start_soon(self._carry_out_quietly, one, one.event, one.reason)
        self._taken_over.clear()

    async def _carry_out(self, one: _Followed, event: UsersEvent, reason: str) -> UsersChange:
        one.event, one.reason = event, reason
        try:
            if isinstance(event, Flush) and event.old_tag is None and one.total is None:
                one.total = (await self._preview(event.host, event.tag, everybody=False)).moved
            done = await self._driver.operators.change_users(event, one.number)
        except OperationError as exc:
            one.problem = Problem(title=str(exc), status=409, exit_code=exc.exit_code)
            one.error = exc
            raise
        else:
            unstored = self._persistence.unstored
            key = event.key if isinstance(event, MoveUser) else None
            buckets = None if key is None else [key >> BUCKET_SHIFT]
            stored = await unstored.users_stored(one.kind, one.target, buckets)
            one.result = made = _added(_change(done, stored=stored), one.before)
            detail = f"moved={made.moved} sessions={made.kicked} timed_out={made.timed_out}"
            self._audit(one.kind, one.target, reason, detail)
            return one.result
        finally:
            one.ended = int(time.time())
            one.over.set()

    # ---- the ring

    async def add_member(
        self, address: str, port: int | None, *, reason: str, dry_run: bool = False
    ) -> RingInfo:
        """Add a director to the list; all others dial it from now on, whatever their configuration says."""
        if not self._director.identity.secret:
            raise Refused("this director has no ring: set ring.servers and ring.secret_file first")
        member, name = await self._meant(address, port)
        return await self._change_member(member, name, reason, dry_run)

    async def remove_member(
        self, address: str, port: int | None, *, reason: str, dry_run: bool = False
    ) -> RingInfo:
        """Take a director out of the list; it is told, and refuses logins from then on."""
        listed = self._director.members.listed()
        member, name = await self._meant(address, port)
        if port is None and not name:
            same = [one for one in listed if split_member(one)[0] == split_member(member)[0]]
            member = same[0] if same else member
        if member not in listed:
            raise UnknownName(f"{name or member}: no such director")
        if listed == [member]:
            raise Refused(
                f"{name or member} is the only director of the ring: it would refuse all logins; stop it, or "
                "add another one first"
            )
        return await self._change_member(member, name, reason, dry_run, remove=True)

    async def _change_member(
        self, member: MemberId, name: str, reason: str, dry_run: bool, *, remove: bool = False
    ) -> RingInfo:
        if dry_run:
            return self._ring_with(member, remove=remove)
        await self._driver.operators.change_member(MemberChange(0, member, remove, name))
        what = "ring remove" if remove else "ring add"
        stored = await self._persistence.unstored.documents_stored(what, name or member)
        self._audit(what, name or member, reason, "")
        return msgspec.structs.replace(self.ring(), stored=stored)

    def _ring_with(self, member: MemberId, *, remove: bool) -> RingInfo:
        """The ring as it would be listed with the director, or without it."""
        ring = self.ring()
        if remove:
            lists = {name: [one for one in getattr(ring, name) if one != member] for name in LISTS}
            rows = [one for one in ring.members if join_member(Address(one.address), one.port) != member]
            return msgspec.structs.replace(ring, members=rows, **lists)
        if member in (*ring.ring, *ring.missing):
            return ring
        return msgspec.structs.replace(ring, missing=[*ring.missing, member])

    async def _meant(self, host: str, port: int | None) -> tuple[MemberId, str]:
        """A director by its address or name; who it is, and its `name:port` where it was given by name."""
        own_port = split_member(self._director.me)[1]
        if is_ip(host):
            return _member(host, port or own_port), ""
        host = host.rstrip(".").lower()
        for name, member in self._director.members.names.items():
            known, _, known_port = name.rpartition(":")
            if known == host and port in (None, int(known_port)):
                return member, name
        with anyio.move_on_after(RESOLVE_WITHIN):
            answer = await anyio.to_thread.run_sync(answer_of, host, addresses_of, abandon_on_cancel=True)
            if isinstance(answer, str):
                raise UnknownName(f"{host}: cannot be resolved ({answer}); give an address")
            if len(answer) > 1:
                raise BadRequest(f"{host} has {len(answer)} addresses; give one: {', '.join(answer)}")
            return _member(answer[0], port or own_port), f"{host}:{port or own_port}"
        raise TryAgain(f"{host}: not resolved within {RESOLVE_WITHIN:.0f} s; give an address")

    @abstractmethod
    def ring(self) -> RingInfo:
        """The directors and the connections with them."""

    @abstractmethod
    async def _change(self, change: HostChange, what: str, reason: str, dry_run: bool) -> Change:
        """Have a host changed, and keep it in the audit."""

    @abstractmethod
    async def _counts(self) -> dict[HostId, int]:
        """Live users by host."""

    @abstractmethod
    def _table_with(self, change: HostChange) -> HostTable:
        """The table with the change. Raises what the change itself would raise."""

    # ---- helpers

    def _audit(self, what: str, target: str, reason: str, detail: str) -> None:
        entry = AuditEntry(
            at=time.time(), who=self._director.me, what=what, target=target, detail=detail, reason=reason
        )
        self._persistence.audit(entry)

    async def _user_stored(self, what: str, user: str, key: UserKey) -> bool:
        """Whether the record of a user is in the store within a moment."""
        return await self._persistence.unstored.users_stored(what, user, [key >> BUCKET_SHIFT])

    def _known_host(self, host: str) -> HostRow:
        row = self._hosts.get(as_address(host))
        if row is None:
            raise UnknownName(f"{host}: no such backend host")
        return row

    def _key_of_hash(self, hash32: int, tag: str) -> UserKey | None:
        """The user with this hash; of several the one with a host of this tag. None: there is no record."""
        known = list(unpack(self._users.with_hash(hash32)))
        for user in known:
            row = self._hosts.by_id(user.host)
            if row is not None and row.tag == tag:
                return user.key
        return known[0].key if known else None

    def _tag_of(self, key: UserKey) -> str | None:
        """The tag of the host of a record; None: it has none."""
        record = self._users.get(key)
        row = self._hosts.by_id(record.host) if record is not None else None
        return row.tag if row is not None else None

    def _tags_of(self, name: bytes) -> list[str]:
        """The pools in which a user of this name is known."""
        tags = sorted({row.tag for row in self._hosts.present()})
        return [tag for tag in tags if self._known.knows(self._user_hash.key(name, tag.encode()))]

    def _pinned_elsewhere(self, user: str, tag: str, numeric_is_hash: bool) -> str:
        """Which tag to give for a user that is pinned in another pool; empty: the user is pinned in none."""
        if numeric_is_hash and is_hash(user):
            records = list(unpack(self._users.with_hash(int(user))))
        else:
            name = self._user_hash.cut(_bytes(user))
            keys = [self._user_hash.key(name, other.encode()) for other in self._tags_of(name)]
            records = [record for record in map(self._users.get, keys) if record is not None]
        tags = [self._tag_of(record.key) for record in records if record.flags & PINNED]
        other = next((one for one in tags if one not in (None, tag)), None)
        if other is None:
            return ""
        return f" in the {pool_name(tag)}, but in the {pool_name(other)}: {which_tag(other)}"

    def _host_of(self, key: UserKey) -> str | None:
        user = self._users.get(key)
        row = self._hosts.by_id(user.host) if user is not None else None
        return row.address if row is not None else None

    def _preview_move(self, key: UserKey, row: HostRow) -> UsersChange:
        if self._director.moves.is_moving(key):
            raise TryAgain("the user is being moved already; wait for it to end")
        stays = self._host_of(key) == row.address
        return preview(moved=int(not stays), unchanged=int(stays), host=row.address)

    async def _preview(self, host: Address | None, tag: str | None, *, everybody: bool) -> UsersChange:
        """How many users a flush would move (everybody: a forgetting)."""
        return await previewed(self._director, host, tag, everybody=everybody)


def _change(done: MoveCounts, *, stored: bool = True, host: str | None = None) -> UsersChange:
    return UsersChange(**msgspec.structs.asdict(done), stored=stored, host=host)


def _added(made: UsersChange, before: UsersChange) -> UsersChange:
    return msgspec.structs.replace(
        made,
        moved=before.moved + made.moved,
        unpinned=before.unpinned + made.unpinned,
        kicked=(before.kicked or 0) + (made.kicked or 0),
        timed_out=(before.timed_out or 0) + (made.timed_out or 0),
    )


def _bytes(name: str) -> bytes:
    """A user name may be any bytes; what is no UTF-8 has come through as surrogates."""
    return name.encode("utf-8", "surrogateescape")


def is_hash(user: str) -> bool:
    """Whether a user is named by his hash, where nobody says that it is a name."""
    return user.isascii() and user.isdigit() and len(user) <= HASH_DIGITS and int(user) <= LARGEST_HASH


def _member(address: str, port: int) -> MemberId:
    return join_member(as_address(address), port)


def is_ip(text: str) -> bool:
    try:
        canonical(text)
    except ValueError:
        return False
    return True


def as_address(text: str) -> Address:
    """An address as all directors write it. Raises BadRequest where it is none."""
    try:
        return canonical(text)
    except ValueError as exc:
        raise BadRequest(f"{text!r} is not an IP address") from exc
