"""A core with very many users that is fed as the driver feeds it, turn by turn of the loop, in virtual time.

Every turn is measured: in seconds by `tests.bench.turns`, in steps by `tests/unit/core/test_turns.py`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from director.core.addresses import host_id
from director.core.effects import Answer, Effect, Kick, Persist, Reading, Send
from director.core.events import Event, Kicked, KicksEnded, Persisted, Received, StoredUsers, TimerFired
from director.core.messages import MoveRound, Ping, Users
from director.core.users import MOVING, User, pack
from director.types import Address, LinkId, Stamp, UserKey
from director.wire import hotpath
from tests.unit.core.cores import BACKENDS, D2, D3, START, Played, at, put_in_ring

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
        self.mono = 1.0
        self._measure = measure
        self._events: deque[Event] = deque()
        self._ends: list[Kicked] = []

    def know(self, keys: Iterable[UserKey], host: Address = BACKENDS[0], *, seen: int = START) -> None:
        """These users are on a host."""
        self.users.merge(pack(User(key, host_id(host), Stamp(START), seen, 0) for key in keys))
        self.users.take_displaced()
        self.users.take_dirty()

    def feed(self, *events: Event) -> None:
        self._events.extend(events)

    def turn(self) -> bool:
        """One event, or the timer that is due; False: nothing is to be done now."""
        if self._ends:
            self._events.append(KicksEnded(self._ends))
            self._ends = []
        if not self._events:
            deadline = self.core.next_deadline()
            if deadline is None or deadline > self.mono:
                return False
        event = self._events.popleft() if self._events else TimerFired()
        for effect in self._measure(lambda: self._one(event)):
            match effect:
                case Kick(number):
                    self.kicks += 1
                    self._ends.append(Kicked(number, 1))
                case Persist(number):
                    self._events.append(Persisted(number))
                case Answer():
                    self.answers += 1
                case Send(_, messages):
                    for message in messages:
                        if isinstance(message, MoveRound):
                            message.passed[:] = [self.core.me, D2, D3]
                            self._events.append(Received(LinkId(2), [message]))
                case Reading():
                    pass
        return True

    def _one(self, event: Event) -> list[Effect]:
        effects = self.core.handle(event, at(self.mono))
        self.core.next_deadline()
        return effects

    def until(self, mono: float) -> list[Effect]:
        """All turns until then; the neighbours give signs of life."""
        while self.mono < mono:
            while self.turn():
                self.mono += 0.0005
            self.mono += 0.05
            self.feed(*(Received(link, [Ping(0)]) for link in self.core.ring.links))
        return []


def keys(number: int) -> list[UserKey]:
    """So many users."""
    random.seed(number)
    return [UserKey(random.getrandbits(64)) for _ in range(number)]


def records(users: Iterable[UserKey], host: Address, *, ahead: int = 1, flags: int = 0) -> bytes:
    """They are on this host now."""
    return pack(User(key, host_id(host), Stamp(START + ahead), START, flags) for key in users)


def merged(busy: Busy, number: int) -> None:
    """A neighbour says that all users are on another host."""
    users = keys(number)
    busy.know(users)
    busy.feed(Received(LinkId(1), [Users(records(users, BACKENDS[1]))]))
    busy.until(4.0)


def stored(busy: Busy, number: int) -> None:
    """The store says so, in parts as `service/reading.py` brings them."""
    users = keys(number)
    busy.know(users)
    for start in range(0, number, 4500):
        busy.feed(StoredUsers(records(users[start : start + 4500], BACKENDS[1])))
    busy.until(4.0)


def moving(busy: Busy, number: int) -> None:
    """A neighbour says that all users begin to move, and never that they are settled."""
    users = keys(number)
    busy.know(users)
    busy.feed(Received(LinkId(1), [Users(records(users, BACKENDS[1], flags=MOVING))]))
    busy.until(40.0)


SITUATIONS: Mapping[str, Callable[[Busy, int], None]] = {
    "merged": merged,
    "stored": stored,
}
