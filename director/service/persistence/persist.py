"""The memory behind the memory: what the store knows is loaded at the start (`reading.py`), changes are
written behind (`writing.py`), and when the store was away it is joined again. No login waits for any of it.
Beside a shared store a copy is kept on this machine (`snapshot.py`).
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import anyio
import anyio.lowlevel

from director.core.admission import MEMORY
from director.core.director import Director
from director.core.filechanges import AppliedHost
from director.core.placement.users import UserTable
from director.core.protocol.events import (
    BucketsRead,
    ClaimFailed,
    Event,
    Leases,
    Persisted,
    StoreOpened,
)
from director.records import StoreInfo
from director.service.log import Log
from director.service.persistence.buckets import Share
from director.service.persistence.claims import Claims
from director.service.persistence.damage import Copy, own_copy
from director.service.persistence.documents import HOSTS, Documents
from director.service.persistence.lease import RENEWALS, OwnLease
from director.service.persistence.owner import OtherCluster, Ours, claim
from director.service.persistence.reader import Reading
from director.service.persistence.snapshot import Snapshot
from director.service.persistence.sweeper import Sweeping
from director.service.persistence.unstored import Unstored, UserWaits
from director.service.persistence.writer import Writing
from director.types import MemberId, UserKey
from state.base import (
    SCHEMA,
    SPACES,
    AuditEntry,
    SchemaTooNew,
    Space,
    StateStore,
    StoreBusy,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)

FLUSH_AFTER = 0.2
"""Seconds from the first change to its writing."""
FLUSH_WITHIN = 1.0
"""Seconds from a change to its end in the store, as long as a write takes less than half of it."""
SHARE = 9
"""Writing may take a tenth of the time: it is followed by a pause this many times as long..."""
SHARE_LEAST = 0.5
"""...or, where that would be too late, by one of this part of its length."""
NAMES_AFTER = 30.0
"""The same for names, which nothing depends on."""
OPEN_WITHIN = 5.0
"""At the start, seconds to find out whose the store is, and again to read hosts and directors; else the
director does without it."""
STOP_WITHIN = 5.0
"""Seconds the last write may take."""
RETRY_FIRST, RETRY_LONGEST = 0.2, 2.0
"""Seconds between two attempts to reach the store."""
SETTLE_LOOK = 0.01
"""Seconds between two looks whether all is stored."""
WATCH_PARTIAL = 0.5
"""In a partial ring, seconds between two looks for what others have changed in the store (ring-rules 12)."""
WATCH_FILE = 1.0
"""Seconds between two looks whether another program has damaged the file of a store of our own."""
AUDIT_QUEUE = 1000
"""Audit entries kept while the store is away."""


def rest_after(took: float) -> float:
    """Seconds of rest after a write that took so many, so that writing leaves time to logins.

    What changes as a write begins waits for its end, this rest, and the next write.
    """
    in_time = FLUSH_WITHIN - 2 * took
    return max(FLUSH_AFTER, SHARE_LEAST * took, min(SHARE * took, in_time))


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
        """snapshot: where a copy is kept beside a shared store. place: see `cluster.cluster_of`."""
        self.store = store
        self.up = False
        self.loaded = False
        self.loaded_users = 0
        self.error: str | None = None
        self.errors: dict[str, int] = {}
        self._director, self._handle, self._log = director, handle, log
        self._users: UserTable = director.users
        self._share = Share(director, shared=store.shared, left_kept=3 * ping_timeout)
        self._audit: deque[AuditEntry] = deque(maxlen=AUDIT_QUEUE)
        self._run_id: str | None = None
        self._said: tuple[type[StoreError], str] | None = None
        """What kind of trouble was logged; None: there is none."""
        self._set_aside: Path | None = None
        self._schema = 0
        self._held_by: tuple[str, ...] = ()
        """Schema of the store, and directors that keep it there, as they were last time."""
        self._begun = 0.0
        self._load_scope: anyio.CancelScope | None = None
        """Of reading the store, from its opening until that has ended."""
        self._work = anyio.Event()
        self._urgent = anyio.Event()
        self._came_up = anyio.Event()
        self._names_due = False
        """Names are to be written with the next users."""
        self.documents = Documents(store, director, handle, log, self._copies)
        self._ours = Ours(director.identity, place)
        self._claim_due = False
        """Whose the store is has to be written anew."""
        self._lease = OwnLease(store, director, self._ours, lease_ttl, incarnation)
        self._snapshot: Snapshot | None = None
        if snapshot is not None:
            self._snapshot = Snapshot(
                snapshot, director, handle, log, self.documents.tables, self._ours, self._collect
            )
        self._reading = Reading(store, director, handle, log, fill=self._fill)
        self._writing = Writing(
            store, director, self._reading, self._share, self._answered, self._between, self._noted
        )
        self._waits = UserWaits(self.persist)
        self.unstored = Unstored(self.documents, self._waits, log, self._until_up)
        self._claims = Claims(store, director, handle, self._reading, self.failed)
        self.sweeping = Sweeping(store, director, self._reading, self._may_sweep, log)

    # ---- what others see

    @property
    def queued(self) -> int:
        """Buckets that have changed and are not known to be stored."""
        return self._writing.queued

    @property
    def lag(self) -> float:
        """Seconds since the oldest change of a user that is not known to be stored."""
        return self._writing.lag

    @property
    def loaded_part(self) -> float:
        """How much of what the store held at the start is in memory, 0 to 1."""
        return 1.0 if self.loaded else self._reading.progress

    def info(self) -> StoreInfo:
        return StoreInfo(
            url=self.store.url,
            shared=self.store.shared,
            up=self.up,
            loaded=self.loaded,
            loaded_part=self.loaded_part,
            loaded_users=self.loaded_users if self.loaded else len(self._users),
            queued_buckets=self.queued,
            lag=round(self.lag, 3),
            error=self.error,
            unstored=self.unstored.changes(),
            snapshot=None if self._snapshot is None else self._snapshot.info(),
        )

    # ---- what the driver asks

    def look(self) -> None:
        """Something has happened: there may be something to write."""
        self._writing.look()
        if self._users.dirty_count or self._share.has_changed():
            self._work.set()

    def hosts_changed(self) -> None:
        self.documents.hosts.changed()
        self._documents_changed()

    def members_changed(self) -> None:
        self.documents.members.changed()
        self._documents_changed()

    def _documents_changed(self) -> None:
        self._work.set()
        self._urgent.set()
        if self._snapshot is not None:
            self._snapshot.documents_changed()

    def set_applied(self, applied: list[AppliedHost]) -> None:
        """Remember what of the configuration is in the host table, which is stored."""
        if self.documents.set_applied(applied):
            self._documents_changed()

    def secrets_changed(self) -> None:
        """The director has other secrets: store and snapshot say so with the next write."""
        self._ours.change(self._director.identity)
        self._claim_due = self.store.shared
        self._documents_changed()

    async def read_passwords_again(self) -> list[str]:
        """As the store's."""
        return await self.store.read_passwords_again()

    def persist(self, number: int, buckets: Sequence[int] | None) -> None:
        """Write these buckets of users (None: all that have changed) at once; `Persisted` follows.

        It does not where the store is away: whoever asks waits only so long."""
        if not self.up:
            return
        self._names_due = self._names_due or number < 0  # of a user that an operator has pinned or moved
        self._writing.ask(number, buckets)
        self._work.set()
        self._urgent.set()

    def _answered(self, event: Event) -> None:
        """What `persist` asked for is stored."""
        if isinstance(event, Persisted) and event.number < 0:
            self._waits.stored(event.number)
        else:
            self._handle(event)

    def read_first(self, buckets: Sequence[int]) -> None:
        """Logins wait for these buckets of users; `BucketsRead` follows. The store is being read."""
        self._reading.want(buckets)

    def audit(self, entry: AuditEntry) -> None:
        """Keep who did what; written with the next write, dropped (oldest first) if the store stays away."""
        self._audit.append(entry)
        self._work.set()

    def claim(self, key: UserKey, record: bytes) -> None:
        """Settle a user in the store; `Claimed` or `ClaimFailed` follows."""
        if self.up:
            self._claims.add(key, record)
        else:
            self._handle(ClaimFailed(key))

    # ---- start

    async def open(self) -> None:
        """Open the store and take in all but users and names: `run` reads those. Where it does not answer:
        say so, take the snapshot, and join it later. Where it is empty: take the snapshot.

        Raises SchemaTooNew, StoreBusy and OtherCluster: with those a director must not start.
        """
        self._begun = time.monotonic()
        try:
            try:
                empty = await self._open_store()
            except OtherCluster as exc:
                if not exc.lapses:
                    raise
                await anyio.sleep(exc.lapses)  # they may have been killed a moment ago
                empty = await self._open_store()
            if empty:
                await self._load_snapshot("the store is empty")
            with anyio.fail_after(OPEN_WITHIN):
                await self._read_documents()
        except (SchemaTooNew, StoreBusy, OtherCluster):
            raise
        except StoreError as exc:
            self.failed("load", exc)
            await self._load_snapshot("the store is away")
        except TimeoutError:
            self.failed("load", StoreUnavailable(self.store.url, "load", after=OPEN_WITHIN))
            await self._load_snapshot("the store is away")

    def take_over(self, tables: Mapping[str, bytes], audit: Iterable[AuditEntry]) -> None:
        """Instead of `open`: memory is as a predecessor in this process has left it, up to the tables, which
        are given. The store is joined as after an absence, while logins are answered."""
        self._begun = time.monotonic()
        for table in self.documents.tables:
            if table.name in tables:
                table.take_at_once(tables[table.name], MEMORY)
        self.loaded_users = len(self._users)
        self._audit.extend(audit)

    async def _open_store(self) -> bool:
        """Returns whether there is nothing in it."""
        await self.store.open()
        with anyio.fail_after(OPEN_WITHIN):
            await self._claim_store()
            return await self.store.read_document(HOSTS) is None and not await self.store.versions("users")

    async def _claim_store(self) -> None:
        """Raises OtherCluster where a shared store is not ours; connections to it are closed, since its
        name may lead elsewhere the next time."""
        if not self.store.shared:
            return
        try:
            await claim(self.store, self._ours, running=self._run_id is not None)
        except OtherCluster:
            await self.store.close()
            raise
        self._claim_due = False

    async def _load_snapshot(self, reason: str) -> None:
        if self._snapshot is not None and await self._snapshot.load(reason):
            self.loaded_users = len(self._users)

    async def _read_documents(self) -> None:
        self._say_set_aside()
        run_id = await self._ask_run_id()
        alive = await self._lease.renew()
        await self._claim_store()  # again, under our lease: another cluster may have come in the same moment
        await self.documents.read()
        self._documents_changed()
        self._handle(StoreOpened())
        self._load_scope = anyio.CancelScope()
        self._lease.caught_up()
        self._is_up(run_id, alive)

    async def _load(self) -> None:
        """Users and names, while logins are answered already."""
        problem: StoreError | None = None
        assert self._load_scope is not None
        with self._load_scope as scope:
            try:
                await self._reading.load()
            except StoreError as exc:
                problem = exc
        if problem is not None or scope.cancelled_caught:
            await self._load_snapshot("the store ended while it was read")
            self._load_scope = None
            if problem is not None:
                self.failed("load", problem)
            self._handle(BucketsRead(None))
            return
        self._load_scope = None
        self.loaded, self.loaded_users = True, len(self._users)
        self._work.set()
        self._log.info(
            "store_loaded",
            store=self.store.url,
            users=self.loaded_users,
            hosts=len(self._director.hosts.present()),
            seconds=round(time.monotonic() - self._begun, 3),
        )

    async def _load_wanted(self) -> None:
        try:
            await self._reading.load_wanted()
        except StoreError as exc:
            self.failed("load", exc)

    def _is_up(self, run_id: str, alive: frozenset[MemberId] | None) -> None:
        """What the store holds is in memory, too, or waited for; only now the ring may rely on it."""
        self._run_id = run_id
        self.up = True
        self.error = self._said = None
        self._came_up.set()
        self._waits.ask_again()
        self._handle(Leases(alive))

    async def _until_up(self) -> None:
        while not self.up:
            await self._came_up.wait()

    def _say_set_aside(self) -> None:
        if self.store.set_aside != self._set_aside:
            self._set_aside = self.store.set_aside
            self._log.error(
                "store_damaged",
                store=self.store.url,
                kept_as=str(self._set_aside),
                note="the new one has what could be read of it, the rest comes from memory and the ring;"
                " check the disk, then remove it",
            )

    async def _ask_run_id(self) -> str:
        """The store's run id; says so where that has brought the layout up to date, or could not."""
        run_id = await self.store.run_id()
        schema, held_by = self.store.schema, self.store.held_by
        fields = {"store": self.store.url, "schema": schema, "known": SCHEMA}
        if held_by and held_by != self._held_by:
            note = "they know no newer schema: it is brought up to date when they are upgraded or gone"
            self._log.warning("store_schema_held", **fields, directors=",".join(held_by), note=note)
        elif schema > self._schema > 0:
            self._log.info("store_migrated", **fields)
        self._schema, self._held_by = schema, held_by
        return run_id

    # ---- running

    async def run(self) -> None:
        """Write behind until cancelled. `stop` writes what is left then."""
        async with anyio.create_task_group() as tasks:
            if self.store.shared:
                tasks.start_soon(self._keep_lease)
                tasks.start_soon(self._watch_partial)
                tasks.start_soon(self._claims.run)
            else:
                tasks.start_soon(self._watch_file)
            if self._director.loading:
                tasks.start_soon(self._load)
                tasks.start_soon(self._load_wanted)
            tasks.start_soon(self._write_behind)
            tasks.start_soon(self.unstored.run)
            tasks.start_soon(self.sweeping.run)
            if self._snapshot is not None:
                tasks.start_soon(self._snapshot.run)

    async def stop(self) -> None:
        """Write what is left, give up the lease, close. At most a few seconds."""
        try:
            with anyio.fail_after(STOP_WITHIN, shield=True):
                if not self.up:
                    await self._come_back()
                await self._write_first()
                await self._writing.write_the_rest()
                if self.store.shared:
                    await self.store.release(self._director.me)
        except StoreError as exc:
            self.failed("stop", exc)
        except TimeoutError:
            self.failed("stop", StoreUnavailable(self.store.url, "stop", after=STOP_WITHIN))
        if self._snapshot is not None:
            await self._snapshot.stop()
        with anyio.CancelScope(shield=True):
            await self.store.close()

    async def settle(self, seconds: float) -> None:
        """Have written what has changed so far, if that takes no longer."""
        self._urgent.set()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not self.up or not (self.queued or self._audit or not self.documents.stored):
                return
            await anyio.sleep(SETTLE_LOOK)

    def hand_over(self) -> tuple[dict[str, bytes], list[AuditEntry]]:
        """What `take_over` needs. What is not stored yet is found by its comparison with the store."""
        return {table.name: table.encode() for table in self.documents.tables}, list(self._audit)

    async def abandon(self) -> None:
        """Close what is open, for a successor who has all that memory holds. The lease is his, too."""
        with anyio.CancelScope(shield=True):
            await self.store.close()
            if self._snapshot is not None:
                await self._snapshot.abandon()

    async def _write_behind(self) -> None:
        pause = RETRY_FIRST
        names_due = time.monotonic() + NAMES_AFTER
        took = 0.0
        names_left = False
        while True:
            if self.up:
                if not (self._something_to_do() or names_left):
                    with anyio.move_on_after(NAMES_AFTER):
                        await self._work.wait()
                self._work = anyio.Event()
                await self._rest(rest_after(took))
            try:
                if not self.up or await self._is_replaced():
                    await self._come_back()
                await self._read_if_lapsed()
                begun = time.monotonic()
                due = begun >= names_due or self._names_due
                self._names_due = False
                if self._director.joining or self._director.loading:
                    await self.documents.write()  # users later: it has better things to do
                else:
                    names_left = await self._write(names=due)
                took = time.monotonic() - begun
                if due and not names_left:
                    names_due = begun + max(NAMES_AFTER, SHARE * took)
                pause = RETRY_FIRST
            except StoreError as exc:
                self.failed("write", exc)
                await anyio.sleep(pause * random.uniform(0.8, 1.2))
                pause = min(2 * pause, RETRY_LONGEST)

    async def _rest(self, seconds: float) -> None:
        """Let changes gather, but not those an operator waits for."""
        if self.documents.operators_stored and not self._writing.questions:
            with anyio.move_on_after(seconds):
                await self._urgent.wait()
        self._urgent = anyio.Event()

    def _may_sweep(self) -> bool:
        return self.up and self.loaded

    def _something_to_do(self) -> bool:
        return self._claim_due or self._writing.has_work or bool(self._audit) or not self.documents.stored

    async def _come_back(self) -> None:
        """The store answers again, or for the first time: read and merge, then write (ring-rules 31)."""
        await self.store.open()
        self._say_set_aside()
        await self._claim_store()
        run_id = await self._ask_run_id()
        await self._lease.renew()
        await self.documents.read()
        self._documents_changed()
        for space in SPACES:
            await self._reading.changed(space)
        await self._writing.queue_differences()
        behind = self.queued
        await self._write(names=False)
        if not self.loaded:
            self.loaded, self.loaded_users = True, len(self._users)
        alive = await self._lease.renew()  # anew: to read may have taken longer than a lease
        self._lease.caught_up()
        self._is_up(run_id, alive)
        self._log.info("store_back", store=self.store.url, buckets_written=behind)

    async def _write(self, *, names: bool) -> bool:
        """Returns whether names are left for the next time."""
        await self._write_first()
        await self._writing.write_users()
        return names and not await self._writing.write_names()

    async def _write_first(self) -> None:
        """What operators wait for, or did; and whose the buckets are by now."""
        if self._claim_due:
            await self._lease.renew()
            await self._claim_store()
        await self.documents.write()
        await self._writing.new_ring()
        await self._write_audit()

    async def _write_audit(self) -> None:
        entries = list(self._audit)
        if not entries:
            return
        await self.store.append_audit(entries)
        while self._audit and self._audit[0] in entries:  # a full queue may have dropped some meanwhile
            self._audit.popleft()

    async def _between(self) -> None:
        """After each few buckets."""
        if self.up:
            await self._read_if_lapsed()
        await self.documents.write()

    async def _watch_file(self) -> None:
        """Notice soon, and not with the next change, that another program has damaged a store of our own."""
        while True:
            await anyio.sleep(WATCH_FILE)
            if not self.up:
                continue
            try:
                await self.store.run_id()
            except StoreError as exc:
                self.failed("watch", exc)

    # ---- with a shared store

    async def _keep_lease(self) -> None:
        while True:
            await anyio.sleep(self._lease.pause if self.up else self._lease.ttl / RENEWALS)
            if not self.up:
                continue
            try:
                if await self._is_replaced():
                    continue
                with anyio.move_on_after(self._lease.remaining or None) as in_time:
                    alive = await self._lease.renew()
            except StoreError as exc:
                self.failed("lease", exc)
                continue
            if in_time.cancelled_caught or self._lease.has_lapsed:
                self._anybody_may_live()
            elif self.up:
                self._handle(Leases(alive))

    async def _is_replaced(self) -> bool:
        """Whether another store answers than the one we know: it may be anybody's. Asked before writing."""
        if not self.store.shared or await self._ask_run_id() == self._run_id:
            return False
        if self.up:
            self._log.warning("store_replaced", store=self.store.url, note="comparing all buckets")
            self._is_away()
        return True

    def _anybody_may_live(self) -> None:
        """Others may have taken us for dead, and gone on. While the store answers claims are safe whoever
        lives; nobody is to be placed on the word of leases that are older than our own."""
        self._handle(Leases(frozenset(self._director.ring.servers)))
        self._work.set()

    async def _read_if_lapsed(self) -> None:
        """Who was taken for dead reads and merges before he writes."""
        if not self._lease.has_lapsed or self._director.loading:
            return
        self._log.warning("lease_lapsed", store=self.store.url, note="reading what others have written")
        self._anybody_may_live()
        alive = await self._lease.renew()
        await self.documents.read_changes()
        for space in SPACES:
            await self._reading.changed(space)
        await self._writing.queue_differences()
        self._lease.caught_up()
        self._handle(Leases(alive))

    async def _watch_partial(self) -> None:
        """While somebody lives outside the ring, keep current from what he writes."""
        while True:
            await anyio.sleep(WATCH_PARTIAL)
            if not (self._director.partial and self.up):
                continue
            try:
                await self._reading.changed("users")
                await self.documents.read_changes()
            except StoreError as exc:
                self.failed("watch", exc)

    # ---- the copy on this machine

    def _noted(self, space: Space, numbers: list[int]) -> None:
        if self._snapshot is not None:
            self._snapshot.changed(space, numbers)

    async def _fill(self, space: Space, numbers: Sequence[int]) -> None:
        """Buckets of the store are damaged: at the start, the snapshot may know what was in them."""
        if self._snapshot is not None and not (self.loaded or self._snapshot.was_asked):
            await self._snapshot.take_in(space, numbers)

    async def _copies(self, name: str) -> list[Copy]:
        """Where a document may be whole that is damaged or missing in the store."""
        found = await own_copy(self.store, name)
        if self._snapshot is not None and not self._snapshot.was_asked:
            found += await self._snapshot.copies(name)
        return found

    def _collect(self) -> None:
        """While the store is away; else who writes to it does."""
        if not self.up:
            self._writing.collect()
            self._writing.collect_names()

    # ---- trouble

    def failed(self, operation: str, exc: StoreError) -> None:
        """The store did not do it: go on from memory until it is back."""
        self.errors[operation] = self.errors.get(operation, 0) + 1
        self.error = str(exc)
        kind = type(exc), exc.code if isinstance(exc, StoreRefused) else ""
        if kind != self._said:
            self._said = kind
            self._log.error("store_away", store=self.store.url, operation=operation, reason=str(exc))
        self._is_away()

    def _is_away(self) -> None:
        self.up = False
        if self._came_up.is_set():
            self._came_up = anyio.Event()
        if self._load_scope is not None:
            self._load_scope.cancel()  # nobody waits for a store that is away; the snapshot comes first
        else:
            self._handle(BucketsRead(None))
        self._writing.questions.drop()
        self._work.set()
        self._urgent.set()
        self._handle(Leases(None))
