"""Drives the persistence core of a simulated director on its store, as `director/service/persistence` does
on a real store, in virtual time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from director.core.protocol.events import Event, StoredHosts, StoredMembers, StoredUsers
from director.stored.persistence import PersistenceCore
from director.stored.procedures import StoreSetup
from director.stored.storecalls import Ask, Call, LoadBuckets, Note, Opened, Pause, Stopped, StoreEffect, Tell
from director.stored.storeevents import (
    Abort,
    BucketsChanged,
    Open,
    Run,
    Stop,
    StoreAnswered,
    StoreEvent,
    StoreFailed,
    TakeOver,
    TimeReached,
)
from director.types import Now
from state.base import StoreError
from tests.simulation.store import URL

if TYPE_CHECKING:
    from tests.simulation.world import Node

CALL = (0.0002, 0.004)
"""Seconds that a call to the store takes, from and to."""
AFTER_STOP = StoredUsers | StoredHosts | StoredMembers
"""The only events for a director that has stopped: its last write is the result of merging memory and
store."""


class Persistence:
    """The persistence of one run of a director."""

    def __init__(self, node: Node, lease_ttl: float) -> None:
        self._node, self._world, self._store = node, node.world, node.store
        self._life = node.incarnation
        setup = StoreSetup(
            url=URL,
            shared=self._store.shared,
            has_snapshot=False,
            lease_ttl=lease_ttl,
            incarnation=node.incarnation,
            ping_timeout=5.0,
            place="here",
        )
        self._chance = self._world.chance(node, node)
        self.core = PersistenceCore(node.core, setup, self._chance.uniform)
        self._events: deque[StoreEvent] = deque()
        self._answers: list[StoreEvent] = []
        """Answers that came while the director was suspended."""
        self._busy = False
        self._at_once = False
        """Whether the store answers without delay, because no login is served yet."""
        self._timer: float | None = None
        self.stopping = False

    # ---- the life

    def begin(self, memory: Sequence[Event] | None) -> None:
        """Begin before the director starts.

        `memory`: the records of a predecessor; None: there is no predecessor.
        """
        if memory is None:
            self._at_once = True
            self.feed(Open())
            self.feed(TimeReached())
            self._at_once = False
        else:
            self.feed(TakeOver({}, []))

    def run(self) -> None:
        self.feed(Run())

    def stop(self) -> None:
        """Write all unstored records. The director ends after it."""
        self.stopping = True
        self.feed(Abort())
        self.feed(Stop())

    def buckets_changed(self) -> None:
        if self.core.awaits_changes:
            self.feed(BucketsChanged())

    def resume(self) -> None:
        """Handle the answers that the store has given meanwhile, and all overdue work."""
        answers, self._answers = self._answers, []
        self._timer = None
        for answer in answers:
            self.feed(answer)
        self.feed(TimeReached())

    # ---- driving the core

    @property
    def _runs(self) -> bool:
        return self._node.up and self._node.incarnation == self._life

    def feed(self, event: StoreEvent) -> None:
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events and self._runs:
                now = Now(self._world.now, self._node.unix)
                for effect in self.core.handle(self._events.popleft(), now):
                    self._carry_out(effect)
        finally:
            self._busy = False
        self._arm()

    def _carry_out(self, effect: StoreEffect) -> None:
        match effect:
            case Ask(number, Tell(event)):
                self._node.handle(event)
                self._events.append(StoreAnswered(number, None))
            case Ask(number, Note(line)):
                self._world.log(self._node, line.event, line.fields)
                self._events.append(StoreAnswered(number, None))
            case Ask(number, Pause()):
                self._events.append(StoreAnswered(number, None))
            case Ask(number, call):
                self._ask(number, call)
            case Tell(event):
                self._node.handle(event)
            case Note(line):
                self._world.log(self._node, line.event, line.fields)
            case Opened(error):
                assert error is None, error
            case Stopped():
                self._node.crash()
            case _:
                pass  # the simulation has no snapshot, and no test reads unstored records

    def _ask(self, number: int, call: Call) -> None:
        if self._at_once:
            self._events.append(self._answer(number, call))
            return

        def arrive() -> None:
            if not self._runs:
                return
            answer = self._answer(number, call)
            if self._node.suspended:
                self._answers.append(answer)
            else:
                self.feed(answer)

        takes = self._chance.uniform(*CALL) * self._world.store_takes
        if isinstance(call, LoadBuckets) and call.begins and call.space == "users":
            takes += self._world.load_takes
        self._world.after(takes, arrive)

    def _answer(self, number: int, call: Call) -> StoreEvent:
        try:
            return StoreAnswered(number, self._store.carry_out(call, self._world.now))
        except StoreError as exc:
            return StoreFailed(number, exc)

    def _arm(self) -> None:
        deadline = self.core.next_deadline()
        if deadline is None or not self._runs:
            return
        at = max(deadline, self._world.now + 0.0001)
        if self._timer is not None and self._world.now < self._timer <= at:
            return
        self._timer = at

        def fire() -> None:
            if self._runs and not self._node.suspended and self._timer == at:
                self._timer = None
                self.feed(TimeReached())

        self._world.after(at - self._world.now, fire)
