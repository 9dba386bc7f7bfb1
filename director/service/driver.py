"""The only caller of `core.director`: feeds it events, carries out its effects and keeps its timer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping

import anyio
import anyio.abc

from director.core.director import Director
from director.core.protocol.effects import (
    Answer,
    Claim,
    Close,
    CountSessions,
    Departed,
    Dial,
    Effect,
    FetchBuckets,
    Kick,
    Level,
    ListSessions,
    LogEvent,
    OperationDone,
    OperationFailed,
    Persist,
    Refuse,
    RunFlush,
    Seal,
    Send,
    SetReading,
    StopFlush,
    StoreHosts,
    StoreMembers,
    Unseal,
    UsersDone,
)
from director.core.protocol.events import (
    Stopping,
    StoredHosts,
    StoredMembers,
    StoredUsers,
    TableChanged,
    TimerFired,
)
from director.core.protocol.messages import RingMessage
from director.service.clock import unix_time
from director.service.endpoints.lookups import Lookups
from director.service.kicks.flushprograms import FlushPrograms
from director.service.kicks.kicker import Kicker
from director.service.log import LimitedLog, Log
from director.service.loginrelay import LoginRelay
from director.service.mailbox import Mailbox
from director.service.pendingoperations import PendingOperations
from director.service.persistence.persist import Persistence
from director.service.ringsockets import RingSockets
from director.types import LinkId, Now

LEAVE_WITHIN = 1.5
"""Seconds that the ring has to close without this director; the core gives up a little earlier."""


class Driver:
    def __init__(
        self,
        director: Director,
        mailbox: Mailbox,
        log: Log,
        *,
        ring: RingSockets,
        logins: LoginRelay,
        lookups: Lookups,
        kicker: Kicker,
        programs: FlushPrograms,
        pending_operations: PendingOperations,
        store: Persistence,
    ) -> None:
        self._director, self._mailbox, self._events = director, mailbox, mailbox.events
        self._ring, self._logins, self._lookups = ring, logins, lookups
        self._kicker, self._programs, self._pending_operations, self._store = (
            kicker,
            programs,
            pending_operations,
            store,
        )
        self._log, self._limited = log, LimitedLog(log)
        self._loop = asyncio.get_running_loop()
        self._departed = anyio.Event()
        self._in_turn = False
        """Whether the core has handled an event in this turn of the loop."""
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._tasks: anyio.abc.TaskGroup | None = None
        self._stopped = False
        mailbox.read_by(self)

    # ---- running

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the tasks that connect to neighbours, until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self.stop()
                self._tasks = None

    async def leave(self) -> None:
        """Leave the ring, and continue to work meanwhile; takes `LEAVE_WITHIN` seconds at most."""
        self._mailbox.handle(Stopping())
        with anyio.move_on_after(LEAVE_WITHIN):
            await self._departed.wait()

    def stop(self) -> None:
        """Finish this turn and accept no more events. If there is time, call `leave` before."""
        if self._stopped:
            return
        self.end_turn()
        self._carry_out(self._director.ring.stop("the director stops"))
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._ring.stop()

    # ---- events

    def read(self) -> None:
        """Feed the waiting events to the core, one at a time, and carry out its effects."""
        if self._stopped:
            self._read_stored()
            return
        if self._busy:
            return  # an effect of the current event has caused this event: it is handled afterwards
        self._busy, moved = True, False
        try:
            while self._events and not self._stopped:
                now = Now(time.monotonic(), unix_time())
                same_turn, self._in_turn = self._in_turn, True
                effects = self._director.handle(self._events.popleft(), now, same_turn=same_turn)
                if not same_turn:
                    self._loop.call_soon(self._next_turn)
                self._carry_out(effects)
                moved = moved or self._director.deadline_changed
        finally:
            self._busy = False
            if self._events and not self._stopped:  # an event failed: the others must not wait for a new one
                self._loop.call_soon(self._mailbox.handle, TimerFired())
            if moved:
                self._plan()
        self._store.buckets_changed()

    def _read_stored(self) -> None:
        """Merge what was read from the store after the stop, for the last write. Effects are dropped."""
        while self._events:
            event = self._events.popleft()
            if isinstance(event, StoredUsers | StoredHosts | StoredMembers):
                self._director.handle(event, Now(time.monotonic(), unix_time()))

    def _next_turn(self) -> None:
        self._in_turn = False

    def _plan(self) -> None:
        """Set the timer to the core's next deadline."""
        if self._stopped:
            return
        deadline = self._director.next_deadline()
        if deadline is None or (self._timer is not None and self._timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._mailbox.handle(TimerFired())

    # ---- turns of the loop

    def end_turn(self) -> None:
        """Send the records of this turn, then write their answers (docs/ring.md, rule 5)."""
        try:
            if self._busy or self._events:
                self._mailbox.handle(TableChanged())
            elif not self._stopped:
                self._announce()
        finally:
            self._logins.write_late()

    def _announce(self) -> None:
        """Announce the records of this turn without an event, because nearly every turn ends so.

        Events that the sending causes are handled afterwards.
        """
        self._busy = True
        try:
            self._carry_out(self._director.announce())
        finally:
            self._busy = False
        if self._events:
            self._mailbox.handle(TimerFired())
        self._store.buckets_changed()

    # ---- effects

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        """Carry out effects in their order. Consecutive sends to a link are one frame."""
        frames: dict[LinkId, list[RingMessage]] = {}
        for effect in effects:
            if isinstance(effect, Send):
                frames.setdefault(effect.link, []).extend(effect.messages)
                continue
            self._send_all(frames)
            self._do(effect)
        self._send_all(frames)

    def _send_all(self, frames: dict[LinkId, list[RingMessage]]) -> None:
        """Send the collected messages and empty `frames`."""
        if frames:
            sending = list(frames.items())
            frames.clear()
            for number, messages in sending:
                self._ring.send(number, messages)

    def _do(self, effect: Effect) -> None:
        """Carry out an effect that is not `Send`."""
        match effect:
            case Answer(request, key, backend):
                self._logins.answered(request, key, backend)
                self._lookups.answered(request, key, backend)
            case Refuse(request, reason):
                self._logins.refused(request, reason)
                self._lookups.refused(request, reason)
            case Close(number):
                self._ring.close(number)
            case SetReading(number, on):
                self._ring.read(number, on=on)
            case Seal(number, keys):
                self._ring.seal(number, keys)
            case Unseal(number, key):
                self._ring.unseal(number, key)
            case Dial():
                if self._tasks is not None:
                    self._tasks.start_soon(self._ring.dial, effect)
            case Kick(number, what):
                self._kicker.kick(number, what)
            case CountSessions(number, what):
                self._kicker.count(number, what)
            case Claim(key, record):
                self._store.claim(key, record)
            case OperationDone(number, row):
                self._pending_operations.done(number, row)
            case UsersDone(number, counts):
                self._pending_operations.done(number, counts)
            case OperationFailed(number, error, reason):
                self._pending_operations.failed(number, error, reason)
            case LogEvent(level, event, fields):
                self._say(level, event, fields)
            case _:
                self._do_rarely(effect)

    def _do_rarely(self, effect: Effect) -> None:
        match effect:
            case StoreHosts():
                self._store.hosts_changed()
            case StoreMembers():
                self._store.members_changed()
            case Persist(number, buckets):
                self._store.persist(number, buckets)
            case FetchBuckets(buckets):
                self._store.read_first(buckets)
            case RunFlush(number):
                self._programs.start(number, effect)
            case StopFlush(number):
                self._programs.stop(number)
            case ListSessions():
                self._kicker.tell_sessions()
            case Departed():
                self._departed.set()

    def _say(self, level: Level, event: str, fields: Mapping[str, object]) -> None:
        match level:
            case Level.DEBUG:
                self._log.debug(event, **fields)
            case Level.INFO:
                self._log.info(event, **fields)
            case Level.WARNING:  # limited, because a stranger at the ring's port can cause any number of them
                self._limited.warning(time.monotonic(), event, str(fields.get("peer", "")), **fields)
            case Level.ERROR:
                self._log.error(event, **fields)
