"""Memory and store: drives the persistence core (`stored/persistence.py`) on a state store. What the core
asks for is carried out here, and answers and errors go back to it; it decides everything else.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.abc

from director.core.director import Director
from director.core.filechanges import AppliedHost
from director.core.protocol.events import Event, Persisted
from director.records import StoreInfo
from director.service.log import Log
from director.service.persistence.snapshot import Snapshot
from director.service.persistence.storecaller import StoreCaller
from director.service.persistence.storeddocuments import StoredDocuments
from director.service.persistence.sweeper import Sweeping
from director.service.persistence.unstored import Unstored, UserWaits
from director.stored.persistence import PersistenceCore
from director.stored.procedures import StoreSetup
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
    AuditAdded,
    BucketsChanged,
    ClaimAsked,
    HostsApplied,
    HostsChanged,
    Interrupt,
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
from director.types import Now, UserKey
from state.base import AuditEntry, StateStore, StoreError


class Persistence:
    def __init__(
        self,
        store: StateStore,
        director: Director,
        handle: Callable[[Event], None],
        log: Log,
        *,
        lease_ttl: float,
        incarnation: int,
        ping_timeout: float,
        snapshot: StateStore | None = None,
        place: str = "",
    ) -> None:
        """snapshot: where a copy is kept beside a shared store. place: see `storeidentity.cluster_of`."""
        self.store = store
        self._director, self._handle = director, handle
        setup = StoreSetup(
            url=store.url,
            shared=store.shared,
            has_snapshot=snapshot is not None,
            lease_ttl=lease_ttl,
            incarnation=incarnation,
            ping_timeout=ping_timeout,
            place=place,
        )
        self.core = PersistenceCore(director, setup, random.uniform)
        self._caller = StoreCaller(store, self._tell, log)
        self._events: deque[StoreEvent] = deque()
        self._busy = False
        self._tasks: anyio.abc.TaskGroup | None = None
        """What carries out calls, while there is something that may ask."""
        self._asked: dict[int, anyio.CancelScope] = {}
        """Calls under way."""
        self._woken = anyio.Event()
        """The deadline is an earlier one."""
        self._deadline: float | None = None
        """The one that is waited for."""
        self._moved: anyio.Event | None = None
        """Set after each event; None: nobody waits for it."""
        self._open_error: StoreError | None = None
        self._ended = False
        """Whether opening or stopping has ended."""
        self._snapshot: Snapshot | None = None
        if snapshot is not None:
            self._snapshot = Snapshot(
                snapshot,
                director,
                handle,
                log,
                self.core.documents.tables,
                self.core.steps.ours,
                lambda: self._feed(SnapshotDue()),
            )
        self.documents = StoredDocuments(self.core.documents, self._until)
        self._waits = UserWaits(self.persist)
        self.unstored = Unstored(self.documents, self._waits, log, self._until_up)
        self.sweeping = Sweeping(store, director, self.core.reader, self._may_sweep, log)

    # ---- what others see

    @property
    def up(self) -> bool:
        return self.core.is_up

    @property
    def loaded(self) -> bool:
        """Whether all that the store held at the start, or on its return, has been in memory once."""
        return self.core.loaded

    @property
    def loaded_users(self) -> int:
        return self.core.steps.loaded_users

    @property
    def loaded_part(self) -> float:
        """How much of what the store held at the start is in memory, 0 to 1."""
        return self.core.loaded_part

    @property
    def errors(self) -> Mapping[str, int]:
        """How often an operation has failed."""
        return self.core.connection.errors

    @property
    def queued(self) -> int:
        """Buckets that have changed and are not known to be stored."""
        return self.core.writer.queued

    @property
    def lag(self) -> float:
        """Seconds since the oldest change of a user that is not known to be stored."""
        return self.core.lag(_now())

    def info(self) -> StoreInfo:
        return StoreInfo(
            url=self.store.url,
            shared=self.store.shared,
            up=self.up,
            loaded=self.loaded,
            loaded_part=self.loaded_part,
            loaded_users=self.loaded_users if self.loaded else len(self._director.users),
            queued_buckets=self.queued,
            lag=round(self.lag, 3),
            error=self.core.connection.error,
            unstored=self.unstored.changes(),
            snapshot=None if self._snapshot is None else self._snapshot.info(),
        )

    # ---- what the driver and operators ask

    def buckets_changed(self) -> None:
        """Something has happened: there may be something to write."""
        if self.core.awaits_changes:
            self._feed(BucketsChanged())

    def hosts_changed(self) -> None:
        self._feed(HostsChanged())

    def members_changed(self) -> None:
        self._feed(MembersChanged())

    def set_applied(self, applied: list[AppliedHost]) -> None:
        """Remember what of the configuration is in the host table, which is stored."""
        self._feed(HostsApplied(applied))

    def secrets_changed(self) -> None:
        """The director has other secrets: store and snapshot say so with the next write."""
        self._feed(SecretsChanged())

    async def read_passwords_again(self) -> list[str]:
        """As the store's."""
        return await self.store.read_passwords_again()

    def persist(self, number: int, buckets: Sequence[int] | None) -> None:
        """Write these buckets of users (None: all that have changed) at once; `Persisted` follows.

        It does not where the store is unreachable: whoever asks waits only so long."""
        self._feed(PersistAsked(number, buckets))

    def read_first(self, buckets: Sequence[int]) -> None:
        """Logins wait for these buckets of users; `BucketsRead` follows. The store is being read."""
        self._feed(ReadAsked(buckets))

    def audit(self, entry: AuditEntry) -> None:
        """Keep who did what; written with the next write, dropped (oldest first) if the store stays
        unreachable."""
        self._feed(AuditAdded(entry))

    def claim(self, key: UserKey, record: bytes) -> None:
        """Claim a user through the store; `Claimed` or `ClaimFailed` follows."""
        self._feed(ClaimAsked(key, record))

    # ---- start and end

    async def open(self) -> None:
        """Open the store and take in all but users and names: `run` reads those.

        Raises SchemaTooNew, StoreBusy and OtherCluster: with those a director must not start.
        """
        await self._ends(Open())
        if self._open_error is not None:
            raise self._open_error

    def take_over(self, tables: Mapping[str, bytes], audit: Iterable[AuditEntry]) -> None:
        """Instead of `open`: memory is as a predecessor in this process has left it, up to the tables, which
        are given. The store is joined as after an absence, while logins are answered."""
        self._feed(TakeOver(tables, list(audit)))

    async def run(self) -> None:
        """Write behind until cancelled. `stop` writes what is left then."""
        try:
            async with self._carrying_out() as tasks:
                self._feed(Run())
                tasks.start_soon(self.unstored.run)
                tasks.start_soon(self.sweeping.run)
                if self._snapshot is not None:
                    tasks.start_soon(self._snapshot.run)
                await anyio.sleep_forever()
        finally:
            self._feed(Interrupt())

    async def stop(self) -> None:
        """Write what is left, give up the lease, close. At most a few seconds."""
        with anyio.CancelScope(shield=True):
            await self._ends(Stop())
        if self._snapshot is not None:
            await self._snapshot.stop()
        with anyio.CancelScope(shield=True):
            await self.store.close()

    async def settle(self, seconds: float) -> None:
        """Have written what has changed so far, if that takes no longer."""
        self._feed(WriteSoon())
        await self._until(lambda: not self.up or self.core.is_settled, seconds)

    def hand_over(self) -> tuple[dict[str, bytes], list[AuditEntry]]:
        """What `take_over` needs. What is not stored yet is found by its comparison with the store."""
        return {table.name: table.encode() for table in self.core.documents.tables}, list(
            self.core.steps.audit
        )

    async def abandon(self) -> None:
        """Close what is open, for a successor who has all that memory holds. The successor has the lease,
        too."""
        with anyio.CancelScope(shield=True):
            await self.store.close()
            if self._snapshot is not None:
                await self._snapshot.abandon()

    # ---- driving the core

    def _feed(self, event: StoreEvent) -> None:
        """Hand an event to the core and carry out what it wants."""
        self._events.append(event)
        if self._busy:
            return  # an effect of the event in hand has caused this one: it comes behind it
        self._busy = True
        try:
            while self._events:
                for effect in self.core.handle(self._events.popleft(), _now()):
                    self._carry_out(effect)
        finally:
            self._busy = False
        deadline = self.core.next_deadline()
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
                assert self._tasks is not None, "nothing asks while nothing runs"
                self._asked[number] = scope = anyio.CancelScope()
                self._tasks.start_soon(self._answer, number, call, scope)
            case Drop(number):
                self._asked.pop(number).cancel()
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
                self._waits.ask_again()
            case Opened(error):
                self._open_error, self._ended = error, True
            case Stopped():
                self._ended = True

    def _tell(self, event: Event) -> None:
        if isinstance(event, Persisted) and event.number < 0:
            self._waits.stored(event.number)
        else:
            self._handle(event)

    async def _answer(self, number: int, call: Call, scope: anyio.CancelScope) -> None:
        with scope:
            try:
                event: StoreEvent = StoreAnswered(number, await self._answer_to(call))
            except StoreError as exc:
                event = StoreFailed(number, exc)
        if not scope.cancel_called:
            del self._asked[number]
            self._feed(event)

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
    async def _carrying_out(self) -> AsyncIterator[anyio.abc.TaskGroup]:
        """In the block, calls are carried out and time goes on."""
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._keep_time)
            yield self._tasks
            self._tasks.cancel_scope.cancel()

    async def _keep_time(self) -> None:
        while True:
            self._woken = anyio.Event()
            self._deadline = deadline = self.core.next_deadline()
            with anyio.move_on_after(math.inf if deadline is None else deadline - time.monotonic()):
                await self._woken.wait()
            deadline = self.core.next_deadline()
            if deadline is not None and deadline <= time.monotonic():
                self._feed(TimeReached())

    async def _ends(self, event: Open | Stop) -> None:
        """Feed an event, and wait for its end."""
        self._ended = False
        try:
            async with self._carrying_out():
                self._feed(event)
                await self._until(lambda: self._ended, math.inf)
        finally:
            self._feed(Interrupt())

    async def _until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Whether something that events change holds within so many seconds."""
        with anyio.move_on_after(seconds):
            while not holds():
                if self._moved is None or self._moved.is_set():
                    self._moved = anyio.Event()
                await self._moved.wait()
        return holds()

    async def _until_up(self) -> None:
        await self._until(lambda: self.up, math.inf)

    def _may_sweep(self) -> bool:
        return self.up and self.loaded


def _now() -> Now:
    return Now(time.monotonic(), time.time())
