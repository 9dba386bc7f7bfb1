"""The core of persistence: what is read, written and claimed, and when. Pure: events in, effects out.

At the start, everything in the store is loaded while logins are answered already. From then on, changes are
written write-behind. A store that was unreachable is compared with memory on its return. No login waits for
any of this, except logins of users who have to be read or claimed.

The driver carries out the effects in their order, answers each `Ask` with `StoreAnswered` or `StoreFailed`,
and sends `TimeReached` at `next_deadline()`. In the service the driver uses a `StateStore`; in the simulator,
a store that fails at will.
"""

from __future__ import annotations

from collections.abc import Callable

from director.core.admission import MEMORY
from director.core.director import Director
from director.core.protocol.events import ClaimFailed
from director.stored.claims import Claims
from director.stored.connection import ConnectionState
from director.stored.pace import Clock
from director.stored.procedures import Procedures, StoreSetup
from director.stored.routines import Routines
from director.stored.runner import Runner
from director.stored.storecalls import Opened, Procedure, Stopped, StoreEffect, Tell
from director.stored.storeevents import (
    Abort,
    AuditAdded,
    BucketsChanged,
    ClaimAsked,
    HostsApplied,
    HostsChanged,
    MembersChanged,
    Open,
    PersistAsked,
    ReadAsked,
    Run,
    SecretsChanged,
    SnapshotDue,
    Stop,
    StoreAnswered,
    StoreEvent,
    StoreFailed,
    TakeOver,
    TimeReached,
    WriteSoon,
)
from director.types import Now
from state.base import StoreError


class PersistenceCore:
    def __init__(
        self, director: Director, setup: StoreSetup, uniform: Callable[[float, float], float]
    ) -> None:
        """Begin with a closed store.

        Args:
            uniform: returns a random number between two others.
        """
        self._clock = Clock()
        self._effects: list[StoreEffect] = []
        self._runner = Runner(self._clock, self._effects)
        self._director, self._setup = director, setup
        self.steps = Procedures(director, setup, self._clock, self._runner, self._effects)
        self._routines = Routines(self.steps, self._runner, uniform)
        self.connection, self.documents = self.steps.connection, self.steps.documents
        self.reader, self.writer, self.usual = self.steps.reader, self.steps.writer, self.steps.usual
        self.claims = Claims(director, self.reader, self.steps.failed)

    # ---- state

    @property
    def is_up(self) -> bool:
        return self.connection.is_up

    @property
    def loaded(self) -> bool:
        """Whether everything that the store had at the start, or on its return, is in memory."""
        return self.steps.loaded

    @property
    def loaded_part(self) -> float:
        """Return how much of what the store had at the start is in memory, 0 to 1."""
        return 1.0 if self.loaded else self.reader.progress

    @property
    def has_written_all(self) -> bool:
        """Whether nothing is known to be left to write."""
        return not (self.writer.queued or self.steps.audit or not self.documents.stored)

    @property
    def awaits_changes(self) -> bool:
        """Whether `BucketsChanged` has to be handed over, because users or the ring may have changed."""
        dirty = self._director.users.dirty_count > 0
        if dirty and not self.writer.has_noted_changes:
            return True
        return not self.steps.work.is_set and (dirty or self.usual.has_changed())

    def lag(self, now: Now) -> float:
        """Return the seconds since the oldest change of a user that is not known to be stored."""
        self._clock.now = now
        return self.writer.lag

    # ---- events

    def handle(self, event: StoreEvent, now: Now) -> list[StoreEffect]:
        """Handle one event. Returns the effects, in their order."""
        self._clock.now = now
        match event:
            case StoreAnswered(number, answer):
                self._runner.answered(number, answer)
            case StoreFailed(number, error):
                self._runner.failed(number, error)
            case TimeReached():
                self._runner.advance()
            case BucketsChanged():
                self._buckets_changed()
            case HostsChanged():
                self.documents.hosts.changed()
                self.steps.documents_changed()
            case MembersChanged():
                self.documents.members.changed()
                self.steps.documents_changed()
            case HostsApplied(applied):
                if self.documents.set_applied(applied):
                    self.steps.documents_changed()
            case PersistAsked():
                self._persist(event)
            case ReadAsked(buckets):
                self.reader.want(buckets)
            case ClaimAsked(key, record):
                if self.is_up:
                    self.claims.add(key, record)
                else:
                    self._effects.append(Tell(ClaimFailed(key)))
            case AuditAdded(entry):
                self.steps.audit.append(entry)
                self.steps.work.set()
            case _:
                self._happened(event)
        effects = self._effects[:]
        self._effects.clear()
        return effects

    def _happened(self, event: StoreEvent) -> None:
        """Handle the less frequent events."""
        match event:
            case Open():
                self._runner.start(self._open())
            case TakeOver():
                self._take_over(event)
            case Run():
                self._run()
            case Abort():
                self._runner.interrupt()
            case Stop():
                self._runner.start(self._stop())
            case SecretsChanged():
                self.steps.ours.change(self._director.identity)
                self.steps.claim_due = self._setup.shared
                self.steps.documents_changed()
            case WriteSoon():
                self.steps.urgent.set()
            case SnapshotDue():
                self._collect()

    def next_deadline(self) -> float | None:
        """Return the monotonic time at which `TimeReached` is due; 0: immediately; None: nothing waits for a
        time."""
        return self._runner.next_deadline()

    def _buckets_changed(self) -> None:
        self.writer.note_changes()
        if self._director.users.dirty_count or self.usual.has_changed():
            self.steps.work.set()

    def _persist(self, event: PersistAsked) -> None:
        if not self.is_up:
            return  # the part that waits has a time-out
        if event.number < 0:  # an operator has pinned or moved the user
            self._routines.names_due = True
        self.writer.ask(event.number, event.buckets)
        self.steps.work.set()
        self.steps.urgent.set()

    def _collect(self) -> None:
        """Queue changes while the store is unreachable. Otherwise the routine that writes does so."""
        if not self.is_up:
            self.writer.collect()
            self.writer.collect_names()

    # ---- start and end

    def _open(self) -> Procedure[None]:
        try:
            yield from self.steps.open()
        except StoreError as exc:
            self.connection.lost()
            self._effects.append(Opened(exc))
        else:
            self._effects.append(Opened(None))

    def _take_over(self, event: TakeOver) -> None:
        """Continue a predecessor's work: the store is joined as after an absence, while logins are
        answered."""
        self.steps.begun = self._clock.mono
        for table in self.documents.tables:
            if table.name in event.tables:
                news = table.take_at_once(event.tables[table.name], MEMORY)
                self._effects += [] if news is None else [Tell(news)]
        self.steps.loaded_users = len(self._director.users)
        self.steps.audit.extend(event.audit)
        self.connection.lost()

    def _run(self) -> None:
        if self._setup.shared:
            self._runner.start(self._routines.keep_lease())
            self._runner.start(self._routines.watch_partial())
            self._runner.start(self.claims.run())
        else:
            self._runner.start(self._routines.watch_file())
        if self._director.loading:
            self._runner.start(self.steps.load())
            self._runner.start(self.steps.load_wanted())
        self._runner.start(self._routines.write_changes())

    def _stop(self) -> Procedure[None]:
        yield from self.steps.stop()
        if self.connection.state is not ConnectionState.CLOSED:
            self.connection.enter(ConnectionState.CLOSED)
        self._effects.append(Stopped())
