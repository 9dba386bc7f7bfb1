"""A core with very many users that is fed as the driver feeds it, turn by turn of the loop, in virtual time.

Every turn is measured: in seconds by `tests.bench.turns`, in steps by `tests/unit/core/test_turns.py`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import msgspec

from director.core.addresses import host_id
from director.core.effects import Answer, Effect, Kick, Persist, Send
from director.core.events import (
    Claimed,
    Event,
    Flush,
    Forget,
    HostChange,
    HostMove,
    Kicked,
    KicksEnded,
    Lookup,
    Persisted,
    Received,
    SessionsListed,
    StoredUsers,
    TimerFired,
)
from director.core.kicktypes import ProxiedSession
from director.core.messages import Hosts, KickRound, MoveRound, NearRound, Ping, Token, Users
from director.core.names import entry
from director.core.readdressing import moved_rows
from director.core.users import MOVING, User, pack
from director.types import Address, LinkId, RequestId, Stamp, UserKey
from director.wire import hotpath
from tests.unit.core.cores import BACKENDS, D2, D3, EXPIRE, START, Played, at, put_in_ring

TOKENS = Token, MoveRound, NearRound, KickRound
Measure = Callable[[Callable[[], list[Effect]]], list[Effect]]
"""Carries out one turn, and measures it."""


class Busy(Played):
    """A director in a ring of three, with the compiled table where there is one. Kicks and writes end in the
    next turn; tokens come back as if the others had nothing to do."""

    made_of: ClassVar[Any] = hotpath.UserTable, hotpath.Assigner

    def __init__(self, measure: Measure, **settings: Any) -> None:
        super().__init__(D2, D3, **settings)
        put_in_ring(self)
        self.kicks = self.answers = 0
        self.agreeing = True
        """Tokens come back."""
        self.mono = 1.0
        self._measure = measure
        self._events: deque[Event] = deque()
        self._ends: list[Kicked] = []
        self._was_timer = False
        self._ping_at = 0.0

    def know(self, keys: Iterable[UserKey], host: Address = BACKENDS[0], *, seen: int = START) -> None:
        """These users are on a host."""
        self.users.merge(pack(User(key, host_id(host), Stamp(START), seen, 0) for key in keys))
        self.users.take_displaced()
        self.users.take_dirty()

    def feed(self, *events: Event) -> None:
        self._events.extend(events)

    def turn(self) -> bool:
        """One event, or the timer that is due, by turns; False: nothing is to be done now."""
        if self._ends:
            self._events.append(KicksEnded(self._ends))
            self._ends = []
        deadline = self.core.next_deadline()
        due = deadline is not None and deadline <= self.mono
        if not due and not self._events:
            return False
        self._was_timer = due and not (self._was_timer and self._events)
        event = TimerFired() if self._was_timer else self._events.popleft()
        for effect in self._measure(lambda: self._one(event)):
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
        return True

    def _one(self, event: Event) -> list[Effect]:
        effects = self.core.handle(event, at(self.mono))
        self.core.next_deadline()
        return effects

    def run(self, seconds: float) -> None:
        """All turns until what was fed is dealt with, and then those of so many seconds; the neighbours give
        signs of life."""
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
    """So many users, in the first 64 buckets, so that these are as full as with 64 times as many."""
    random.seed(number)
    return [UserKey(random.getrandbits(58)) for _ in range(number)]


def records(users: Iterable[UserKey], host: Address, *, ahead: int = 1, flags: int = 0) -> bytes:
    """They are on this host now."""
    return pack(User(key, host_id(host), Stamp(START + ahead), START, flags) for key in users)


def merged(busy: Busy, number: int) -> None:
    """A neighbour says that all users are on another host."""
    users = keys(number)
    busy.know(users)
    busy.feed(Received(LinkId(1), [Users(records(users, BACKENDS[1]))]))
    busy.run(4.0)


def stored(busy: Busy, number: int) -> None:
    """The store says so, in parts as `service/reading.py` brings them."""
    users = keys(number)
    busy.know(users)
    for start in range(0, number, 4500):
        busy.feed(StoredUsers(records(users[start : start + 4500], BACKENDS[1])))
    busy.run(4.0)


def moving(busy: Busy, number: int) -> None:
    """A neighbour says that all users begin to move, and never that they are settled."""
    users = keys(number)
    busy.know(users)
    busy.feed(Received(LinkId(1), [Users(records(users, BACKENDS[1], flags=MOVING))]))
    busy.run(40.0)


def flushed(busy: Busy, number: int) -> None:
    """An operator flushes a host that has all users; the hash puts most elsewhere."""
    busy.know(keys(number))
    busy.feed(Flush(1, BACKENDS[0], max_parallel=10_000))
    busy.core.flushes.max_parallel = 10_000
    busy.run(60.0)


def unchanged(busy: Busy, number: int) -> None:
    """A flush finds all where the hash puts them."""
    for key in keys(number):
        busy.core.assigner.choose(key, b"")
    busy.core.announce()
    busy.feed(Flush(1, None))
    busy.run(3.0)


def forgotten(busy: Busy, number: int) -> None:
    """All users are forgotten, whose sessions end."""
    busy.know(keys(number))
    busy.feed(Forget(1, BACKENDS[0]))
    busy.run(60.0)


def retagged(busy: Busy, number: int) -> None:
    """All users log in after the only host of their pool went to another."""
    users = keys(number)
    busy.know(users)
    busy.feed(HostChange(1, BACKENDS[0], tag="other", retag=True))
    busy.run(2.0)
    for start in range(0, number, 100):
        busy.feed(*(Lookup(RequestId(n), users[n], b"other") for n in range(start, min(start + 100, number))))
        busy.run(0.1)
    busy.run(40.0)


def readdressed(busy: Busy, number: int) -> None:
    """The host of all users has another address."""
    busy.know(keys(number))
    row = busy.core.hosts.rows[BACKENDS[0]]
    named = msgspec.structs.replace(row, hostname="backend1", present_at=1)
    busy.core.hosts.put([named])
    moves = [HostMove("backend1", BACKENDS[0], Address("10.1.0.99"))]
    rows = moved_rows(busy.core.hosts.rows, moves, START + 10)
    busy.feed(Received(LinkId(1), [Hosts(rows)]))
    busy.run(70.0)


def expired(busy: Busy, number: int) -> None:
    """All users, and their names, are gone in one second."""
    users = keys(number)
    busy.know(users, seen=START - 3 * EXPIRE)
    busy.core.names.add(b"".join(entry(key, b"user%d@example.org" % key) for key in users))
    busy.run(3.0)
    assert not len(busy.users)


def near_expiry(busy: Busy, number: int) -> None:
    """All users log in shortly before they expire, and the ring is asked about most of them."""
    users = keys(number)
    busy.know(users, seen=START - EXPIRE + 20)
    for start in range(0, number, 100):
        busy.feed(*(Lookup(RequestId(n), users[n], b"") for n in range(start, min(start + 100, number))))
        busy.run(0.01)
    busy.run(5.0)


def listed(busy: Busy, number: int) -> None:
    """After the start the login processes proxy sessions of users who are elsewhere, or unknown."""
    users = keys(number)
    sessions = [ProxiedSession(b"user%d" % n, BACKENDS[0], key >> 32) for n, key in enumerate(users)]
    busy.know(users[: number // 2], BACKENDS[1])
    busy.feed(SessionsListed(sessions))
    busy.run(4.0)


def waiting(busy: Busy, number: int) -> None:
    """Logins of new users wait for a host change, and are answered when the ring has agreed."""
    busy.agreeing = False
    busy.feed(HostChange(1, BACKENDS[0], weight=50))
    busy.feed(*(Lookup(RequestId(n), key, b"") for n, key in enumerate(keys(number))))
    busy.run(2.0)
    busy.agreeing = True
    busy.run(5.0)
    assert busy.answers == number


def removed(busy: Busy, number: int) -> None:
    """The host of all users is removed, and all log in again."""
    users = keys(number)
    busy.know(users)
    busy.feed(HostChange(1, BACKENDS[0], remove=True))
    busy.run(2.0)
    busy.feed(*(Lookup(RequestId(n), key, b"") for n, key in enumerate(users)))
    busy.run(5.0)


def claimed(busy: Busy, number: int) -> None:
    """The store has settled users, for logins that wait for it."""
    users = keys(number)
    for start in range(0, number, 64):
        part = users[start : start + 64]
        busy.feed(StoredUsers(records(part, BACKENDS[1])), *(Claimed(key, b"") for key in part))
    busy.run(4.0)


SITUATIONS: Mapping[str, Callable[[Busy, int], None]] = {
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
    )
}
