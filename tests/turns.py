"""A core with very many users that gets events as in the service, turn by turn of the loop, in virtual time.

Every turn is measured: in seconds by `tests.bench.turns`, in steps by `tests/unit/core/test_turns.py`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import msgspec

from director.core.moves.jobs import Flush, Forget
from director.core.placement.addresses import host_id
from director.core.placement.names import entry
from director.core.placement.users import BUCKET_SHIFT, MOVING, User, pack
from director.core.protocol.effects import Answer, Effect, Kick, Persist, Send
from director.core.protocol.events import (
    Claimed,
    Event,
    HostChange,
    HostMove,
    Kicked,
    KicksEnded,
    Lookup,
    Persisted,
    Received,
    SessionsListed,
    Started,
    StoredUsers,
    TimerFired,
)
from director.core.protocol.kicktypes import ProxiedSession
from director.core.protocol.messages import Hosts, KickRound, MoveRound, NearRound, Ping, Token, Users
from director.core.tables.movedhosts import moved_rows
from director.service.lifecycle.handover import Memory
from director.service.lifecycle.replacement import load_users, name_parts, take_names
from director.stored.bucketreader import BucketReader, in_parts
from director.stored.storecalls import Tell
from director.types import Address, LinkId, RequestId, Stamp, UserKey
from director.wire import hotpath
from state.base import Bucket, Space, version_of
from tests.unit.core.cores import BACKENDS, D2, D3, EXPIRE, START, Played, at, put_in_ring

TOKENS = Token, MoveRound, NearRound, KickRound
FULL = 1500
"""Users in a bucket."""
Measure = Callable[[Callable[[], list[Effect]]], list[Effect]]
"""Runs one turn, and measures it."""


class Busy(Played):
    """A director in a ring of three, with the compiled table if there is one.

    Kicks and writes end in the next turn. Tokens return as if the other directors had nothing to do.
    """

    made_of: ClassVar[Any] = hotpath.UserTable, hotpath.Assigner
    names_of: ClassVar[Any] = hotpath.NameTable

    def __init__(self, measure: Measure, **settings: Any) -> None:
        super().__init__(D2, D3, started=False, **settings)
        self.kicks = self.answers = 0
        self.agreeing = True
        """Whether tokens return."""
        self.mono = 1.0
        self._measure = measure
        self._events: deque[Event] = deque()
        self._ends: list[Kicked] = []
        self._effects: list[Effect] = []
        """Effects of events that came from outside of the core in this turn."""
        self._was_timer = False
        self._ping_at = 0.0

    def start(self) -> Busy:
        """Start the director, in the ring."""
        self.handle(Started(), 0)
        return put_in_ring(self)

    def assign(self, keys: Iterable[UserKey], host: Address = BACKENDS[0], *, seen: int = START) -> None:
        """Assign these users to a host."""
        self.users.merge(pack(User(key, host_id(host), Stamp(START), seen, 0) for key in keys))
        self.users.take_displaced()
        self.users.take_dirty()

    def feed(self, *events: Event) -> None:
        self._events.extend(events)

    def turn(self) -> bool:
        """Handle one event or the due timer, in alternation. Returns False if nothing is due."""
        if self._ends:
            self._events.append(KicksEnded(self._ends))
            self._ends = []
        deadline = self.core.next_deadline()
        due = deadline is not None and deadline <= self.mono
        if not due and not self._events:
            return False
        self._was_timer = due and not (self._was_timer and self._events)
        event = TimerFired() if self._was_timer else self._events.popleft()
        self._carry_out(self._measure(lambda: self._handle(event)))
        return True

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Kick(number):
                    self.kicks += 1
                    self._ends.append(Kicked(number, 1))
                case Persist(number):
                    self._events.append(Persisted(number))
                case Answer():
                    self.answers += 1
                case Send(_, messages) if self.agreeing:
                    for message in messages:
                        if isinstance(message, TOKENS) and message.origin == self.core.me:
                            back = msgspec.structs.replace(message, passed=[self.core.me, D2, D3])
                            self._events.append(Received(LinkId(2), [back]))

    def beside(self, work: Callable[[], object]) -> None:
        """Run a turn in which the service does some work outside of the core."""

        def turn() -> list[Effect]:
            work()
            self.core.next_deadline()
            effects, self._effects = self._effects, []
            return effects

        self._carry_out(self._measure(turn))
        self.run(0.0)

    def take(self, event: Event) -> None:
        """Handle an event in the present turn. Its effects happen in the next turns."""
        self._effects += self.core.handle(event, at(self.mono))

    def take_in(self, reader: BucketReader, space: Space, buckets: Sequence[Bucket]) -> None:
        """Handle one part of the store's data in the present turn."""
        for call in reader.take(space, buckets):
            assert isinstance(call, Tell), call
            self.take(call.event)

    def _handle(self, event: Event) -> list[Effect]:
        effects = self.core.handle(event, at(self.mono))
        self.core.next_deadline()
        return effects

    def run(self, seconds: float) -> None:
        """Run all turns until all events are handled, and then the turns of `seconds`.

        The neighbours send pings meanwhile.
        """
        while self._events:
            self._step()
        until = self.mono + seconds
        while self.mono < until:
            self._step()

    def _step(self) -> None:
        self.mono += 0.0001 if self.turn() else 0.05
        if self.mono >= self._ping_at:
            self._ping_at = self.mono + 0.5
            self._events.extendleft(Received(link, [Ping(0)]) for link in self.core.ring.links)


def keys(number: int) -> list[UserKey]:
    """Return `number` users in so few buckets that these are as full as with 6 million users."""
    random.seed(number)
    buckets = -(-number // FULL)
    return [UserKey(random.randrange(buckets << BUCKET_SHIFT)) for _ in range(number)]


def name_of(key: UserKey) -> bytes:
    return b"user%d@example.org" % key


def login(request: int, key: UserKey, tag: bytes = b"") -> Lookup:
    return Lookup(RequestId(request), key, tag, name_of(key))


def records(users: Iterable[UserKey], host: Address, *, ahead: int = 1, flags: int = 0) -> bytes:
    """Return records of users that are assigned to `host` now."""
    return pack(User(key, host_id(host), Stamp(START + ahead), START, flags) for key in users)


def merged(busy: Busy, number: int) -> None:
    """A neighbour says that all users are on another host."""
    users = keys(number)
    busy.assign(users)
    busy.feed(Received(LinkId(1), [Users(records(users, BACKENDS[1]))]))
    busy.run(4.0)


def stored(busy: Busy, number: int) -> None:
    """The store says that all users are on another host, in parts as `stored/bucketreader.py` reads them."""
    users = keys(number)
    busy.assign(users)
    for start in range(0, number, 4500):
        busy.feed(StoredUsers(records(users[start : start + 4500], BACKENDS[1])))
    busy.run(4.0)


def moving(busy: Busy, number: int) -> None:
    """A neighbour says that all users begin to move, and never that their moves have ended."""
    users = keys(number)
    busy.assign(users)
    busy.feed(Received(LinkId(1), [Users(records(users, BACKENDS[1], flags=MOVING))]))
    busy.run(40.0)


def flushed(busy: Busy, number: int) -> None:
    """An operator flushes a host that has all users. The hash selects other hosts for most."""
    busy.assign(keys(number))
    busy.feed(Flush(1, BACKENDS[0], max_parallel=10_000))
    busy.core.jobs.max_parallel = 10_000
    busy.run(60.0)


def unchanged(busy: Busy, number: int) -> None:
    """A flush finds all users on the hosts that the hash selects."""
    for key in keys(number):
        busy.core.assigner.choose(key, b"")
    busy.core.announce()
    busy.feed(Flush(1, None))
    busy.run(3.0)


def forgotten(busy: Busy, number: int) -> None:
    """All assignments are deleted, and the users' sessions end."""
    busy.assign(keys(number))
    busy.feed(Forget(1, BACKENDS[0]))
    busy.run(60.0)


def retagged(busy: Busy, number: int) -> None:
    """All users log in after the only host of their pool went to another pool."""
    users = keys(number)
    busy.assign(users)
    busy.feed(HostChange(1, BACKENDS[0], tag="other", retag=True))
    busy.run(2.0)
    for start in range(0, number, 100):
        busy.feed(*(login(n, users[n], b"other") for n in range(start, min(start + 100, number))))
        busy.run(0.1)
    busy.run(40.0)


def readdressed(busy: Busy, number: int) -> None:
    """The host of all users gets another address."""
    busy.assign(keys(number))
    row = busy.core.hosts.rows[BACKENDS[0]]
    named = msgspec.structs.replace(row, hostname="backend1", present_at=1)
    busy.core.hosts.put([named])
    moves = [HostMove("backend1", BACKENDS[0], Address("10.1.0.99"))]
    rows = moved_rows(busy.core.hosts.rows, moves, START + 10)
    busy.feed(Received(LinkId(1), [Hosts(rows)]))
    busy.run(70.0)


def expired(busy: Busy, number: int) -> None:
    """All assignments, and the users' names, expire in one second."""
    users = keys(number)
    busy.assign(users, seen=START - 3 * EXPIRE)
    busy.core.names.add(b"".join(entry(key, name_of(key)) for key in users))
    busy.run(3.0)
    assert not len(busy.users)


def near_expiry(busy: Busy, number: int) -> None:
    """All users log in shortly before their assignments expire, and the ring is asked about most of them."""
    users = keys(number)
    busy.assign(users, seen=START - EXPIRE + 20)
    for start in range(0, number, 100):
        busy.feed(*(login(n, users[n]) for n in range(start, min(start + 100, number))))
        busy.run(0.01)
    busy.run(5.0)


def listed(busy: Busy, number: int) -> None:
    """After the start the login processes have sessions of users who are assigned to another host, or
    unassigned."""
    users = keys(number)
    sessions = [ProxiedSession(b"user%d" % n, BACKENDS[0], key >> 32) for n, key in enumerate(users)]
    busy.assign(users[: number // 2], BACKENDS[1])
    busy.feed(SessionsListed(sessions))
    busy.run(4.0)


def waiting(busy: Busy, number: int) -> None:
    """Logins of new users wait for a host change, and are answered when the ring is in sync."""
    busy.agreeing = False
    busy.feed(HostChange(1, BACKENDS[0], weight=50))
    busy.feed(*(login(n, key) for n, key in enumerate(keys(number))))
    busy.run(2.0)
    busy.agreeing = True
    busy.run(5.0)
    assert busy.answers == number


def removed(busy: Busy, number: int) -> None:
    """The host of all users is removed, and all users log in again."""
    users = keys(number)
    busy.assign(users)
    busy.feed(HostChange(1, BACKENDS[0], remove=True))
    busy.run(2.0)
    busy.feed(*(login(n, key) for n, key in enumerate(users)))
    busy.run(5.0)


def claimed(busy: Busy, number: int) -> None:
    """The store has answered claims for logins that wait."""
    users = keys(number)
    for start in range(0, number, 64):
        part = users[start : start + 64]
        busy.feed(StoredUsers(records(part, BACKENDS[1])), *(Claimed(key, b"") for key in part))
    busy.run(4.0)


def imported(busy: Busy, number: int) -> None:
    """An import has put unassigned users into the store, with their names.

    The store is read while logins are answered, as at the start, or in an incomplete ring.
    """
    reader = BucketReader(busy.core.names)
    for space, buckets in stored_buckets(keys(number), BACKENDS[1]).items():
        for part in in_parts(buckets):
            busy.beside(partial(busy.take_in, reader, space, part))
    busy.run(4.0)
    assert len(busy.users) == number


def imported_elsewhere(busy: Busy, number: int) -> None:
    """An import has put all users on another host into the store, and their sessions are ended."""
    users = keys(number)
    busy.assign(users)
    reader = BucketReader(busy.core.names)
    for part in in_parts(stored_buckets(users, BACKENDS[1])["users"]):
        busy.beside(partial(busy.take_in, reader, "users", part))
    busy.run(4.0)
    assert busy.kicks >= number


def replaced(busy: Busy, number: int) -> None:
    """The program was replaced in place: the predecessor's memory was taken over, and is compared with the
    store.

    Every tenth user is moving. The users are merged before the director serves or has a link, and that turn
    is not measured here: see `tests.bench.turns`.
    """
    buckets = stored_buckets(keys(number), BACKENDS[1])
    users_blob = b"".join(bucket.blob for bucket in buckets["users"])
    moving = records(keys(number)[::10], BACKENDS[1], ahead=2, flags=MOVING)
    memory = Memory(users_blob + moving, b"".join(bucket.blob for bucket in buckets["names"]))
    load_users(busy.core, memory, busy.take)
    busy.start()
    sizes = [len(bucket.blob) for bucket in buckets["names"]]
    for part in name_parts(memory, sizes):
        busy.beside(partial(take_names, busy.core.names, part))
    reader = BucketReader(busy.core.names)
    for part in in_parts(buckets["users"]):
        busy.beside(partial(busy.take_in, reader, "users", part))
    busy.run(40.0)
    assert len(busy.users) == number


def stored_buckets(users: Iterable[UserKey], host: Address) -> dict[Space, list[Bucket]]:
    """Return the buckets of a store in which these users are on `host`."""
    blobs: dict[Space, dict[int, list[bytes]]] = {"users": {}, "names": {}}
    for key in sorted(users):
        bucket = key >> BUCKET_SHIFT
        blobs["users"].setdefault(bucket, []).append(records([key], host))
        blobs["names"].setdefault(bucket, []).append(entry(key, name_of(key)))
    return {
        space: [
            Bucket(space, bucket, version_of(blob), blob)
            for bucket, blob in ((bucket, b"".join(parts)) for bucket, parts in of_it.items())
        ]
        for space, of_it in blobs.items()
    }


IN_SERVICE: Mapping[str, Callable[[Busy, int], None]] = {
    situation.__name__: situation
    for situation in (
        merged,
        stored,
        moving,
        flushed,
        unchanged,
        forgotten,
        retagged,
        readdressed,
        removed,
        expired,
        near_expiry,
        listed,
        waiting,
        claimed,
        imported,
        imported_elsewhere,
    )
}
"""Situations of a director that serves in a ring."""


def _started(situation: Callable[[Busy, int], None]) -> Callable[[Busy, int], None]:
    return lambda busy, number: situation(busy.start(), number)


SITUATIONS: Mapping[str, Callable[[Busy, int], None]] = {
    **{name: _started(situation) for name, situation in IN_SERVICE.items()},
    "replaced": replaced,
}
"""All situations, by name. Each gets a director that has not started yet, and a number of users."""
