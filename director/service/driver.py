"""The only caller of `core.director`: feeds it events, carries out its effects in order, keeps its one timer.

One loop turn: whatever reads put users into the table, the records leave in one frame a neighbour, and only
then the answers of that turn are written (docs/ring.md, rule 5).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import anyio
import anyio.abc

from director.core.director import Director
from director.core.placement.assign import Backend, Wait
from director.core.placement.users import LATEST
from director.core.protocol.effects import (
    Answer,
    Claim,
    Close,
    CountSessions,
    Departed,
    Dial,
    Effect,
    Kick,
    Level,
    ListSessions,
    LogEvent,
    OperationDone,
    OperationFailed,
    Persist,
    ReadBuckets,
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
    Dropped,
    Event,
    Kicked,
    KicksEnded,
    Lookup,
    Seen,
    SessionsListed,
    Stopping,
    StoredHosts,
    StoredMembers,
    StoredUsers,
    TableChanged,
    Thawed,
    TimerFired,
)
from director.core.protocol.kicktypes import KickWhat, ProxiedSession
from director.core.protocol.messages import RingMessage
from director.errors import KickError
from director.net.tls import RingTls
from director.service.clock import unix_time
from director.service.heldlogins import Client, HeldLogins
from director.service.log import LimitedLog, Log
from director.service.pendingoperations import PendingOperations
from director.service.ringsockets import RingSockets
from director.types import LinkId, Now, RequestId, UserKey
from director.wire import hotpath
from director.wire.auth import HeldRequest, cancel, cancels, finish, may_say_perhaps, refusal, says_perhaps
from director.wire.tabs import unescape

LEAVE_WITHIN = 1.5
"""Seconds the ring may take to close without us; the core gives up a little earlier."""
WATCH = 0.25
"""Seconds between two looks at the clock of the loop."""
ALONE = 0.02
"""Without neighbours: seconds in which new users gather before they are looked after."""
FROZEN = 1.0
"""A gap of the loop, in seconds, after which the process counts as frozen (docs/ring.md, rule 28)."""

_ANSWER = b"\tuser_dirkey="
"""In each line that has got a host."""


class Store(Protocol):
    """What the driver asks of the persistence behind it."""

    def claim(self, key: UserKey, record: bytes) -> None:
        """Settle a user; `Claimed` or `ClaimFailed` comes as an event."""

    def hosts_changed(self) -> None: ...

    def members_changed(self) -> None: ...

    def persist(self, number: int, buckets: Sequence[int] | None) -> None:
        """Write these buckets now; `Persisted` comes as an event."""

    def read_first(self, buckets: Sequence[int]) -> None:
        """Logins wait for these buckets; `BucketsRead` comes as an event."""

    def buckets_changed(self) -> None:
        """An event has been dealt with: is there anything to write?"""


class Sessions(Protocol):
    """What the driver asks of the kick channel."""

    def kick(self, number: int, what: KickWhat) -> None:
        """End sessions; the driver's `kick_ended` is called."""

    async def list_sessions(self) -> list[ProxiedSession]:
        """What login processes of this machine proxy. Raises KickError."""

    def count(self, number: int, what: KickWhat) -> None:
        """How many of them a kick would end; the driver's `kick_ended` is called."""


class FlushPrograms(Protocol):
    """Who runs flush programs."""

    def start(self, number: int, effect: RunFlush) -> None:
        """Run it; `FlushEnded` comes as an event."""

    def stop(self, number: int) -> None: ...


class Others(Protocol):
    """Who asks for programs that are no login processes."""

    def answered(self, request: RequestId, key: UserKey, backend: Backend) -> None:
        """One of their requests, if it is still wanted."""

    def refused(self, request: RequestId, reason: str) -> None: ...


class Counts:
    """Plain counters of the driver, for the metrics."""

    def __init__(self) -> None:
        self.lookups: dict[tuple[str, str], int] = {}
        self.loop_lag = 0.0
        self.bugs = 0
        """Exceptions in callbacks of the loop and in handlers of clients."""

    def add_bug(self) -> int:
        """Returns how many there were."""
        self.bugs += 1
        return self.bugs

    def add_lookups(self, result: str, protocol: str, number: int = 1) -> None:
        key = (result, protocol)
        self.lookups[key] = self.lookups.get(key, 0) + number


class Driver:
    def __init__(self, director: Director, log: Log, tls: RingTls | None = None) -> None:
        """tls: for the ring; None: its links are plain."""
        self.director = director
        self.counts = Counts()
        self.pending_operations = PendingOperations(self.handle)
        self.store: Store | None = None
        self.sessions: Sessions | None = None
        self.programs: FlushPrograms | None = None
        self.others: Others | None = None
        self._departed = anyio.Event()
        self._log, self._limited = log, LimitedLog(log)
        self.sockets = RingSockets(director, self.handle, log, self._limited, tls)
        self._loop = asyncio.get_running_loop()
        self._assigner, self._users = director.assigner, director.users
        self._logins = HeldLogins()
        self._numbers = 0
        self._late: list[tuple[Client, bytes]] = []
        self._turn_planned = self._alone_planned = False
        self._events: deque[Event] = deque()
        self._ends: list[Kicked] = []
        self._in_turn = False
        """The core has had an event in this turn of the loop."""
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._tasks: anyio.abc.TaskGroup | None = None
        self._stopped = False
        self._beat = time.monotonic()
        """When the watch last looked at the clock."""
        self._auth_trouble: set[str] = set()
        self.failure: BaseException | None = None
        """The last one of the core, or of what carries out its effects."""

    # ---- running

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep the links' dials and the watch over the loop until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            self._beat = time.monotonic()
            task_status.started()
            try:
                await self._watch()
            finally:
                self.stop()
                self._tasks = None

    async def leave(self) -> None:
        """Have the ring closed without us, going on with our work meanwhile; at most LEAVE_WITHIN seconds."""
        self.handle(Stopping())
        with anyio.move_on_after(LEAVE_WITHIN):
            await self._departed.wait()

    def stop(self) -> None:
        """Finish this turn and take in nothing more. Once is enough. Whoever has time leaves first."""
        if self._stopped:
            return
        self._end_turn()
        self._carry_out(self.director.ring.stop("the director stops"))
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self.sockets.stop()

    async def _watch(self) -> None:
        """Notice when the loop stood still: the process was frozen, or something held it up."""
        while True:
            await anyio.sleep(WATCH)
            self._look_at_clock()

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        gap, self._beat = now - self._beat - WATCH, now
        self.counts.loop_lag = max(self.counts.loop_lag, gap)
        if gap > FROZEN:
            self.handle(Thawed(gap))

    def handle(self, event: Event) -> None:
        """Feed one event to the core and carry out what it wants. After `stop`: only what the store holds."""
        if self._stopped:
            if isinstance(event, StoredUsers | StoredHosts | StoredMembers):
                # The last write is of what memory and store come to. Nobody is there for the effects.
                self.director.handle(event, Now(time.monotonic(), unix_time()))
            return
        self._events.append(event)
        if self._busy:
            return  # an effect of the event in hand has caused this one: it comes behind it
        self._busy, moved = True, False
        try:
            while self._events and not self._stopped:
                now = Now(time.monotonic(), unix_time())
                same_turn, self._in_turn = self._in_turn, True
                effects = self.director.handle(self._events.popleft(), now, same_turn=same_turn)
                if not same_turn:
                    self._loop.call_soon(self._next_turn)
                self._carry_out(effects)
                moved = moved or self.director.settled
        except BaseException as exc:
            self.failure = exc
            raise
        finally:
            self._busy = False
            if self._events and not self._stopped:  # one has failed: those behind it must not wait for luck
                self._loop.call_soon(self.handle, TimerFired())
            if moved:
                self._plan()
        if self.store is not None:
            self.store.buckets_changed()

    def _next_turn(self) -> None:
        self._in_turn = False

    def _plan(self) -> None:
        """Set the one timer to the core's next deadline."""
        if self._stopped:
            return
        deadline = self.director.next_deadline()
        if deadline is None or (self._timer is not None and self._timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        self.handle(TimerFired())

    # ---- the hot path

    def lines(self, client: Client, data: bytes) -> None:
        """Complete lines from auth: answer what can be answered now."""
        self._be_in_time()
        out, held = hotpath.rewrite(self._assigner, data, client.relay.passlines)
        if self._late or (self.sockets.links and self._users.has_changes):
            if out:
                self._late.append((client, out))
            self._plan_turn()
        else:
            if out:
                client.write(out)
            if not self._alone_planned and self._users.has_changes:
                self._alone_planned = True
                self._loop.call_later(ALONE, self._end_alone)
        if out:
            self._count("answered", client, out.count(_ANSWER))
            if may_say_perhaps(out):
                self._cancel(client, out)
        if held:
            self._hold(client, held)

    def assign(self, key: UserKey, tag: bytes, name: bytes) -> Backend | Wait:
        """One user, for a program that is no login process; for who waits it is to bring a `Lookup`.

        The answer may leave from the loop's next turn on: what it decided has left by then (docs/ring.md,
        rule 5).
        """
        self._be_in_time()
        answer = self._assigner.assign_named(key, tag, name)
        if self._users.has_changes:
            self._plan_turn()
        return answer

    def new_request(self) -> RequestId:
        self._numbers += 1
        return RequestId(self._numbers)

    def _be_in_time(self) -> None:
        """Tell the core how late it is, before it is asked for a host."""
        if time.monotonic() - self._beat > WATCH + FROZEN:
            self._look_at_clock()  # thawed, and this came first: what is in memory must not be trusted yet
        unix = int(time.time())
        self._assigner.unix = unix if unix < LATEST else LATEST

    def _plan_turn(self) -> None:
        if not self._turn_planned:
            self._turn_planned = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        """Records first, then the answers they belong to."""
        self._turn_planned = False
        late, self._late = self._late, []
        try:
            if self._busy or self._events:
                self.handle(TableChanged())
            elif not self._stopped:
                self._announce()
        finally:
            for client, out in late:
                client.write(out)

    def _end_alone(self) -> None:
        """Without neighbours nobody waits to hear of new users: now and then is enough for the store."""
        self._alone_planned = False
        if self._users.has_changes:
            self._end_turn()

    def _announce(self) -> None:
        """The short way of what nearly every turn is; what sending causes comes behind it."""
        self._busy = True
        try:
            self._carry_out(self.director.announce())
        finally:
            self._busy = False
        if self._events:
            self.handle(TimerFired())
        if self.store is not None:
            self.store.buckets_changed()

    def _hold(self, client: Client, held: Iterable[HeldRequest]) -> None:
        for line in held:
            if full := self._logins.full(client, line):
                self.director.counters.waiting_refused += 1
                self._say_no(client, line, full)
                continue
            request = self.new_request()
            self._logins.add(request, client, line)
            self._count("waited", client, 1)
            self.handle(Lookup(request, line.key, line.tag))

    def held_lines(self) -> dict[Client, list[bytes]]:
        """Lines from auth that wait for an answer, of each client."""
        return self._logins.lines()

    def client_gone(self, client: Client) -> None:
        if requests := self._logins.drop(client):
            self.handle(Dropped(requests))

    def auth_unreachable(self, path: str, reason: str) -> None:
        if path not in self._auth_trouble:
            self._auth_trouble.add(path)
            self._log.error(
                "auth_unreachable",
                socket=path,
                reason=reason,
                note="logins wait; is Dovecot running? retrying",
            )

    def auth_reached(self, path: str) -> None:
        if path in self._auth_trouble:
            self._auth_trouble.discard(path)
            self._log.info("auth_reached", socket=path)

    def line_too_long(self, path: str, limit: int) -> None:
        now = time.monotonic()
        note = "that connection is closed"
        self._limited.warning(now, "auth_line_too_long", path, socket=path, limit=limit, note=note)

    def authreply_refused(self, reason: str) -> None:
        self._limited.warning(time.monotonic(), "authreply_client_refused", reason, reason=reason)

    def names_seen(self, lines: Sequence[bytes]) -> None:
        """Lines of proxy-notify."""
        self.handle(Seen([unescape(line) for line in lines]))
        if self._users.has_changes:
            self._plan_turn()

    def notify_skipped(self, length: int) -> None:
        now, note = time.monotonic(), "skipped; reading goes on"
        self._limited.warning(now, "notify_line_too_long", bytes=length, note=note)

    # ---- kicks

    def kick_ended(self, number: int, sessions: int, problem: str) -> None:
        """What became of a kick; told with all others of this turn of the loop."""
        self._ends.append(Kicked(number, sessions, problem))
        if len(self._ends) == 1:
            self._loop.call_soon(self._tell_of_kicks)

    def _tell_of_kicks(self) -> None:
        ends, self._ends = self._ends, []
        self.handle(KicksEnded(ends))

    async def _list_sessions(self) -> None:
        """Where they cannot be listed, the login processes are taken to proxy nobody: it is logged."""
        assert self.sessions is not None
        try:
            listed = await self.sessions.list_sessions()
        except KickError as exc:
            note = "sessions from before the start are not compared with what is known"
            self._log.warning("sessions_not_listed", reason=str(exc), note=note)
            listed = []
        self.handle(SessionsListed(listed))

    def stragglers(self, listed: Sequence[ProxiedSession]) -> None:
        """What is proxied some time after a kick that could not see everybody."""
        self.handle(SessionsListed(listed, late=True))

    # ---- effects

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        """In their order; what goes to one link in a row of sends is one frame."""
        frames: dict[LinkId, list[RingMessage]] = {}
        for effect in effects:
            if isinstance(effect, Send):
                frames.setdefault(effect.link, []).extend(effect.messages)
                continue
            self._send_all(frames)
            self._do(effect)
        self._send_all(frames)

    def _send_all(self, frames: dict[LinkId, list[RingMessage]]) -> None:
        """Send what has gathered, and forget it."""
        if frames:
            sending = list(frames.items())
            frames.clear()
            for number, messages in sending:
                self.sockets.send(number, messages)

    def _do(self, effect: Effect) -> None:
        """One effect that is no `Send`."""
        match effect:
            case Answer(request, key, backend):
                self._answer(request, key, backend)
                if self.others is not None:
                    self.others.answered(request, key, backend)
            case Refuse(request, reason):
                self._refuse(request, reason)
                if self.others is not None:
                    self.others.refused(request, reason)
            case Close(number):
                self.sockets.close(number)
            case SetReading(number, on):
                self.sockets.read(number, on=on)
            case Seal(number, keys):
                self.sockets.seal(number, keys)
            case Unseal(number, key):
                self.sockets.unseal(number, key)
            case Dial():
                if self._tasks is not None:
                    self._tasks.start_soon(self.sockets.dial, effect)
            case Kick(number, what):
                if self.sessions is None:
                    self.kick_ended(number, 0, "")
                else:
                    self.sessions.kick(number, what)
            case CountSessions(number, what):
                if self.sessions is None:
                    self.kick_ended(number, 0, "no kick channel")
                else:
                    self.sessions.count(number, what)
            case Claim(key, record):
                assert self.store is not None, "only a director with a shared store claims"
                self.store.claim(key, record)
            case OperationDone(number, row):
                self.pending_operations.done(number, row)
            case UsersDone(number, counts):
                self.pending_operations.done(number, counts)
            case OperationFailed(number, error, reason):
                self.pending_operations.failed(number, error, reason)
            case LogEvent(level, event, fields):
                self._say(level, event, fields)
            case _:
                self._do_rarely(effect)

    def _do_rarely(self, effect: Effect) -> None:
        match effect:
            case StoreHosts() if self.store is not None:
                self.store.hosts_changed()
            case StoreMembers() if self.store is not None:
                self.store.members_changed()
            case Persist(number, buckets) if self.store is not None:
                self.store.persist(number, buckets)
            case ReadBuckets(buckets) if self.store is not None:
                self.store.read_first(buckets)
            case RunFlush(number):
                assert self.programs is not None, "there is a flush program only where one is configured"
                self.programs.start(number, effect)
            case StopFlush(number):
                assert self.programs is not None
                self.programs.stop(number)
            case ListSessions():
                if self.sessions is None or self._tasks is None:
                    self.handle(SessionsListed(()))
                else:
                    self._tasks.start_soon(self._list_sessions)
            case Departed():
                self._departed.set()

    def lookups(self) -> dict[tuple[str, str], int]:
        """(result, protocol) -> how often, for the metrics; protocol is the socket or `Others`' word."""
        return dict(self.counts.lookups)

    def _count(self, result: str, client: Client, number: int) -> None:
        self.counts.add_lookups(result, client.relay.name, number)

    def _answer(self, request: RequestId, key: UserKey, backend: Backend) -> None:
        taken = self._logins.take(request)
        if taken is not None:
            client, held = taken
            self._count("answered_later", client, 1)
            line = finish(self._assigner, held.line, backend, key)
            client.write(line)
            if may_say_perhaps(line):
                self._cancel(client, line)

    @staticmethod
    def _cancel(client: Client, lines: bytes) -> None:
        """Tell auth of users whom it takes to be local, and who are proxied."""
        if told := cancels(lines):
            client.tell_auth(told)

    def _refuse(self, request: RequestId, reason: str) -> None:
        taken = self._logins.take(request)
        if taken is not None:
            self._say_no(*taken, reason)

    def _say_no(self, client: Client, held: HeldRequest, reason: str) -> None:
        """The client is to try again later."""
        self._count("refused", client, 1)
        client.write(refusal(held.id))
        if says_perhaps(held.line):
            client.tell_auth(cancel(held.id))
        hash32, tag, now = held.key >> 32, held.tag, time.monotonic()
        self._limited.warning(
            now, "login_refused", reason, user=held.name, hash=hash32, tag=tag, reason=reason
        )

    def _say(self, level: Level, event: str, fields: Mapping[str, object]) -> None:
        match level:
            case Level.DEBUG:
                self._log.debug(event, **fields)
            case Level.INFO:
                self._log.info(event, **fields)
            case Level.WARNING:  # what a stranger at the ring's port can cause without end
                self._limited.warning(time.monotonic(), event, str(fields.get("peer", "")), **fields)
            case Level.ERROR:
                self._log.error(event, **fields)
