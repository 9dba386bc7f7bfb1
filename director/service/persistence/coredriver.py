"""Feeds the persistence core with events, and carries out its effects in their order."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc

from director.core.protocol.events import Event
from director.service.persistence.snapshot import SnapshotFile
from director.service.persistence.storecaller import StoreCaller
from director.stored.persistence import PersistenceCore
from director.stored.storecalls import (
    Ask,
    Call,
    Connected,
    Drop,
    FillFromSnapshot,
    LoadSnapshot,
    Note,
    NoteForSnapshot,
    Opened,
    ReadSnapshotCopies,
    Stopped,
    StoreEffect,
    Tell,
    WriteSnapshot,
)
from director.stored.storeevents import (
    Abort,
    Open,
    Stop,
    StoreAnswered,
    StoreEvent,
    StoreFailed,
    TimeReached,
)
from director.types import Now
from state.base import StoreError


class CoreDriver:
    def __init__(
        self,
        core: PersistenceCore,
        caller: StoreCaller,
        snapshot: SnapshotFile | None,
        tell: Callable[[Event], None],
        connected: Callable[[], None],
    ) -> None:
        """
        Args:
            tell: takes the events for the director.
            connected: called when the store is reachable again.
        """
        self._core, self._caller, self._snapshot = core, caller, snapshot
        self._tell, self._connected = tell, connected
        self._events: deque[StoreEvent] = deque()
        self._busy = False
        self._tasks: anyio.abc.TaskGroup | None = None
        """Runs the calls; set while `carrying_out` is active."""
        self._asked: dict[int, anyio.CancelScope] = {}
        """Scopes of the calls that run, by number."""
        self._woken = anyio.Event()
        """Set when the core has an earlier deadline than `_deadline`."""
        self._deadline: float | None = None
        """The deadline that `_keep_time` waits for."""
        self._moved: anyio.Event | None = None
        """Set after each event; None: no `until` waits for it."""
        self._error: StoreError | None = None
        self._ended = False
        """Whether the opening or stopping has ended; `_error` has its error."""

    def feed(self, event: StoreEvent) -> None:
        """Hand an event to the core and carry out the effects."""
        self._events.append(event)
        if self._busy:
            return  # an effect of the current event has caused this event: it is handled afterwards
        self._busy = True
        try:
            while self._events:
                for effect in self._core.handle(self._events.popleft(), now()):
                    self._carry_out(effect)
        finally:
            self._busy = False
        deadline = self._core.next_deadline()
        if deadline is not None and (self._deadline is None or deadline < self._deadline):
            self._woken.set()
        if self._moved is not None:
            self._moved.set()

    def _carry_out(self, effect: StoreEffect) -> None:
        match effect:
            case Ask(number, Tell(event)):
                self._tell(event)
                self._events.append(StoreAnswered(number, None))
            case Ask(number, call):
                assert self._tasks is not None, "a call needs a running task group"
                self._asked[number] = anyio.CancelScope()
                self._tasks.start_soon(self._answer, number, call, self._asked[number])
            case Drop(number):
                scope = self._asked.pop(number, None)
                if scope is not None:  # None: the director has failed over what it was told
                    scope.cancel()
            case Tell(event):
                self._tell(event)
            case Note(line):
                self._caller.note(line)
            case NoteForSnapshot(space, numbers):
                if self._snapshot is not None:
                    self._snapshot.changed(space, numbers)
            case WriteSnapshot():
                if self._snapshot is not None:
                    self._snapshot.documents_changed()
            case Connected():
                self._connected()
            case Opened(error):
                self._error, self._ended = error, True
            case Stopped():
                self._ended = True

    async def _answer(self, number: int, call: Call, scope: anyio.CancelScope) -> None:
        with scope:
            try:
                event: StoreEvent = StoreAnswered(number, await self._answer_to(call))
            except StoreError as exc:
                event = StoreFailed(number, exc)
        if not scope.cancel_called:
            del self._asked[number]
            self.feed(event)

    async def _answer_to(self, call: Call) -> object:
        match call:
            case LoadSnapshot(reason):
                return self._snapshot is not None and await self._snapshot.load(reason)
            case FillFromSnapshot(space, numbers):
                if self._snapshot is not None:
                    await self._snapshot.take_in(space, numbers)
                return None
            case ReadSnapshotCopies(name):
                return [] if self._snapshot is None else await self._snapshot.copies(name)
        return await self._caller.answer(call)

    @asynccontextmanager
    async def carrying_out(self) -> AsyncIterator[anyio.abc.TaskGroup]:
        """Carry out calls and keep the core's deadlines while the block runs."""
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._keep_time)
            yield self._tasks
            self._tasks.cancel_scope.cancel()

    async def _keep_time(self) -> None:
        while True:
            self._woken = anyio.Event()
            self._deadline = deadline = self._core.next_deadline()
            with anyio.move_on_after(math.inf if deadline is None else deadline - time.monotonic()):
                await self._woken.wait()
            deadline = self._core.next_deadline()
            if deadline is not None and deadline <= time.monotonic():
                self.feed(TimeReached())

    async def ends(self, event: Open | Stop) -> StoreError | None:
        """Feed an event and wait until opening or stopping has ended. Returns the error, or None."""
        self._error, self._ended = None, False
        try:
            async with self.carrying_out():
                self.feed(event)
                await self.until(lambda: self._ended, math.inf)
        finally:
            self.feed(Abort())
        return self._error

    async def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Wait until `holds` returns True after an event, for `seconds` at most. Returns whether it does."""
        with anyio.move_on_after(seconds):
            while not holds():
                if self._moved is None or self._moved.is_set():
                    self._moved = anyio.Event()
                await self._moved.wait()
        return holds()


def now() -> Now:
    return Now(time.monotonic(), time.time())
