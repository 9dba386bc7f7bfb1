"""Operators' operations on users: flush, forget, rebalance and tag change for many users; move, pin and unpin
for one.

A flush walks through the user table in slices, and keeps at most so many users moving at a time. Several
flushes take turns. A flush is done when its last move is done. Each user is moved by a separate round
(`moves.py`), so a flush can be interrupted, or its director can stop, between any two users, and nothing is
left half done.
"""

from __future__ import annotations

from functools import partial

import msgspec

from director.core.moves.kickrounds import KickResult, KickRounds
from director.core.moves.moves import Moves
from director.core.moves.movestate import UserJob
from director.core.placement.assign import Assigner, Backend
from director.core.placement.names import NameTable, entry
from director.core.placement.users import BUCKETS, BY_HAND, LATEST, PINNED, RECORD, User, is_unexpired, unpack
from director.core.protocol.effects import Effect, OperationFailed, Persist, UsersDone
from director.core.protocol.events import InterruptFlush, UsersEvent
from director.core.protocol.kicktypes import Fence, KickWhat
from director.core.protocol.ringtimings import STORE_WAIT
from director.core.tables.hosts import HostTable
from director.errors import OperationError, TryAgain, UnknownName
from director.types import Address, HostId, Now, Stamp, UserKey

SLICE = 1500
"""Users looked at in one turn of the loop by all walks together."""
AT_ONCE = 500
"""Users looked at by a walk before it moves those that are concerned."""
PLACED = 40
"""How many users looked at take as long as one user who is assigned anew, and perhaps moved."""
SCANNED = 64
"""Buckets looked at by a walk in one turn of the loop, however empty they are."""
FORGOTTEN = 500
"""Users that are forgotten at a time. A forgotten user is moved to no host, without the kick delay."""


class MoveUser(UsersEvent, frozen=True):
    """An operator moves a user to a host."""

    key: UserKey
    """The key in the pool of the host's tag."""
    host: Address
    name: bytes = b""
    """The user's name, for listings; empty: unknown."""
    pin: bool = False
    """Whether the user is pinned to the host."""
    early: bool = False
    """Whether the move is reported when every director has confirmed, before the kick delay."""


class UnpinUser(UsersEvent, frozen=True):
    """An operator lets the assignment of a pinned user expire again."""

    key: UserKey


class Flush(UsersEvent, frozen=True):
    """An operator moves the users of a host (None: of all) to the hosts that the hash selects."""

    host: Address | None = None
    tag: str | None = None
    """Only hosts with this tag are flushed; None: all."""
    max_parallel: int | None = None
    old_tag: bytes | None = None
    """The former tag of the host, in whose pool its users are assigned."""
    before: int = 0
    """With `old_tag`: only users with an earlier stamp are moved."""


class Forget(UsersEvent, frozen=True):
    """An operator deletes the assignments of a host's users (None: of all users) and ends their sessions."""

    host: Address | None = None


class KickSessions(UsersEvent, frozen=True):
    """An operator ends sessions on all directors. No user is moved."""

    what: KickWhat
    wait: bool = True
    """Whether the kick waits if as many kicks as allowed are under way; else it is refused."""
    count_only: bool = False
    """Whether the sessions are only counted."""


class _Walk(msgspec.Struct, eq=False):
    """The walk of a flush, or of a forget operation, through the user table."""

    job: UserJob
    hosts: frozenset[HostId]
    parallel: int
    tag: bytes | None = None
    """The pool whose circle selects the new hosts; None: the pool of the user's host."""
    before: int = LATEST
    """Only users with an earlier stamp are moved."""
    forget: bool = False
    """Whether the users are moved to no host, pinned users too."""
    bucket: int = 0
    records: bytes = b""
    """Records of the bucket before `bucket` that were not looked at yet."""
    found: list[UserKey] = msgspec.field(default_factory=list)
    """Users that are concerned and were not moved yet."""


class _Fenced(msgspec.Struct):
    """A change of records that is done when every director has it."""

    job: UserJob
    number: int
    until: float
    fenced: bool = False


class UserJobs:
    def __init__(
        self,
        hosts: HostTable,
        assigner: Assigner,
        names: NameTable,
        moves: Moves,
        kick_rounds: KickRounds,
        max_parallel: int,
    ) -> None:
        self._hosts, self._assigner, self._users, self._names = hosts, assigner, assigner.users, names
        self._moves, self._kick_rounds, self.max_parallel = moves, kick_rounds, max_parallel
        self._walks: list[_Walk] = []
        self._jobs: list[UserJob] = []
        self._fences: list[_Fenced] = []
        self._effects: list[Effect] = []
        self._numbers = 1 << 62

    def __len__(self) -> int:
        """Return how many operations are under way."""
        return len(self._jobs)

    def progress(self, operation: int) -> UserJob | None:
        """Return the state of an operation; None: it has ended, or does not exist."""
        return next((job for job in self._jobs if job.operation == operation), None)

    # ---- operators

    def handle(self, event: UsersEvent, now: Now) -> None:
        match event:
            case MoveUser():
                self.move(event, now)
            case UnpinUser():
                self.unpin(event, now)
            case Flush():
                self.flush(event, now)
            case Forget():
                self.forget(event, now)
            case KickSessions():
                self.kick(event, now)
            case _:
                raise AssertionError(event)

    def move(self, event: MoveUser, now: Now) -> None:
        row = self._hosts.get(event.host)
        if row is None:
            self._fail(event.operation, UnknownName, f"{event.host}: no such backend host")
            return
        if self._busy(event):
            return
        target = self._hosts.id_of(event.host)
        job = self._new_job(event.operation, early=event.early)
        self._remember(event.key, event.name)
        self._moves.begin(event.key, target, job, now, pin=event.pin)

    def unpin(self, event: UnpinUser, now: Now) -> None:
        """Unpin a user. The assignment stays, and can expire again."""
        if self._busy(event):
            return
        user = self._users.get(event.key)
        job = self._new_job(event.operation)
        if user is None or not user.flags & PINNED:
            job.counts.unchanged += 1
            return
        decided = Stamp(min(max(int(now.unix), user.decided + 1), LATEST))
        seen = max(int(now.unix), user.seen)
        self._users.put(User(user.key, user.host, decided, seen, user.flags & ~PINNED | BY_HAND))
        job.counts.moved += 1
        self._fence(job, now)

    def _busy(self, event: MoveUser | UnpinUser) -> bool:
        """Whether the user is being moved. If so, the operation is refused."""
        if not self._moves.is_moving(event.key):
            return False
        self._fail(
            event.operation, TryAgain, "the user is being moved already; retry when the move has ended"
        )
        return True

    def flush(self, event: Flush, now: Now) -> None:
        """Move the users of one host, or of all, to the hosts that the hash selects."""
        hosts = self._hosts_for(event.operation, event.host, event.tag)
        if hosts is None:
            return
        parallel = event.max_parallel or self.max_parallel
        walk = _Walk(self._new_job(event.operation, complete=False), hosts, parallel)
        if event.old_tag is not None:
            walk.tag, walk.before = event.old_tag, event.before
        self._walks.append(walk)

    def forget(self, event: Forget, now: Now) -> None:
        """Delete the assignments of the users of one host, or of all, and end their sessions."""
        hosts = self._hosts_for(event.operation, event.host, None)
        if hosts is not None:
            job = self._new_job(event.operation, complete=False)
            job.at_once = True
            self._walks.append(_Walk(job, hosts, FORGOTTEN, forget=True))

    def kick(self, event: KickSessions, now: Now) -> None:
        if self._kick_rounds.full and not event.wait:
            self._fail(
                event.operation, TryAgain, "users.max_parallel_kicks kicks are under way already; retry later"
            )
            return
        job = self._new_job(event.operation, complete=False)
        self._kick_rounds.begin(event.what, partial(_kicked, job), now, count_only=event.count_only)

    def interrupt(self, event: InterruptFlush) -> None:
        """Move no more users for an operation. Moves under way are finished."""
        for walk in list(self._walks):
            if walk.job.operation == event.operation:
                self._walks.remove(walk)
                walk.job.complete = True

    # ---- time

    @property
    def has_work(self) -> bool:
        """Whether the next turn of the loop has something to do."""
        return bool(self._effects) or any(self._can_go_on(walk) for walk in self._walks)

    def next_deadline(self) -> float | None:
        return min((fenced_job.until for fenced_job in self._fences if not fenced_job.fenced), default=None)

    def stored(self, number: int, now: Now) -> None:
        for fenced_job in self._fences:
            if fenced_job.number == number:
                fenced_job.until = now.mono

    def turn(self, now: Now) -> None:
        """Do one slice of the walks, which take turns."""
        room = SLICE
        for walk in list(self._walks):
            if room > 0 and self._can_go_on(walk):
                self._walks.remove(walk)
                self._walks.append(walk)
                room = self._move_some(walk, room, now)
        for fenced_job in self._fences:
            if not fenced_job.fenced and now.mono >= fenced_job.until:
                fenced_job.fenced = True
                self._kick_rounds.begin(Fence(), partial(self._confirmed, fenced_job), now)

    def ends(self) -> list[Effect]:
        """Return the results of operations, for the operators."""
        effects, self._effects = self._effects, []
        for job in [job for job in self._jobs if job.over]:
            self._jobs.remove(job)
            assert job.operation is not None
            moved = job.counts.moved + (len(job.under_way) if job.early else 0)
            # a copy, because an operation that is reported early still counts its users
            effects.append(UsersDone(job.operation, msgspec.structs.replace(job.counts, moved=moved)))
        return effects

    def _can_go_on(self, walk: _Walk) -> bool:
        limit = FORGOTTEN if walk.forget else self.max_parallel
        return self._moves.led < limit and len(walk.job.under_way) < walk.parallel

    def _move_some(self, walk: _Walk, room: int, now: Now) -> int:
        """Continue a walk. Returns how many users the other walks may still look at."""
        scanned = 0
        while self._can_go_on(walk) and room > 0 and scanned < SCANNED:
            if walk.found:
                self._move_one(walk, walk.found.pop(), now)
                room -= PLACED
            elif walk.records:
                end = AT_ONCE * RECORD.size
                records, walk.records = walk.records[:end], walk.records[end:]
                room -= len(records) // RECORD.size
                walk.found = [user.key for user in unpack(records) if self._concerned(walk, user, now)]
            elif walk.bucket >= BUCKETS:
                self._walks.remove(walk)
                walk.job.complete = True
                break
            else:
                walk.records = self._users.bucket(walk.bucket)
                walk.bucket += 1
                scanned += 1
        return room

    def _concerned(self, walk: _Walk, user: User, now: Now) -> bool:
        if user.host not in walk.hosts or user.decided >= walk.before:
            return False
        return is_unexpired(user, int(now.unix), self._users.expire) and not self._hosts.host_removed(user)

    def _move_one(self, walk: _Walk, key: UserKey, now: Now) -> None:
        user = self._users.get(key)
        if user is None or not self._concerned(walk, user, now):
            return
        pinned = bool(user.flags & PINNED)
        if walk.forget:
            walk.job.counts.unpinned += pinned
            self._moves.begin(key, HostId(0), walk.job, now)
            return
        if pinned and walk.tag is None:
            walk.job.counts.pinned += 1
            return
        row = self._hosts.by_id(user.host)
        tag = walk.tag if walk.tag is not None or row is None else row.tag.encode()
        fresh = self._assigner.place(key >> 32, tag or b"")
        target = fresh.id if isinstance(fresh, Backend) else HostId(0)
        if target == user.host:
            walk.job.counts.unchanged += 1
        else:
            walk.job.counts.unpinned += pinned
            self._moves.begin(key, target, walk.job, now)

    def _fence(self, job: UserJob, now: Now) -> None:
        """Let an operation end only when the store has its records and every director has done the kicks that
        the records cause."""
        job.complete = False
        self._numbers += 1
        self._fences.append(_Fenced(job, self._numbers, now.mono + STORE_WAIT))
        self._effects.append(Persist(self._numbers, None))

    def _confirmed(self, fenced_job: _Fenced, result: KickResult) -> None:
        self._fences.remove(fenced_job)
        _kicked(fenced_job.job, result)

    def _hosts_for(self, operation: int, host: str | None, tag: str | None) -> frozenset[HostId] | None:
        """Return the hosts of an operation, as they are now. A host that is added later is not concerned.

        Args:
            operation: fails if there is no such host.
            host: address of the only host; None: all hosts.
            tag: only hosts of this pool; None: all pools.
        """
        rows = [row for row in self._hosts.present() if tag is None or row.tag == tag]
        if host is not None:
            rows = [row for row in rows if row.address == host]
            if not rows:
                self._fail(operation, UnknownName, f"{host}: no such backend host")
                return None
        return frozenset(self._hosts.id_of(row.address) for row in rows)

    def _remember(self, key: UserKey, name: bytes) -> None:
        if name and self._assigner.remember_names:
            self._names.add(entry(key, name))

    def _new_job(self, operation: int, *, complete: bool = True, early: bool = False) -> UserJob:
        job = UserJob(operation, complete=complete, early=early)
        self._jobs.append(job)
        return job

    def _fail(self, operation: int, error: type[OperationError], reason: str) -> None:
        self._effects.append(OperationFailed(operation, error, reason))


def _kicked(job: UserJob, result: KickResult) -> None:
    """Take the result of a kick on all directors as the result of the operation."""
    job.counts.kicked += result.kicked
    job.counts.timed_out += result.late
    job.counts.add_not_reached(result.not_reached)
    job.counts.not_counted = sorted(result.not_counted)
    job.complete = True
