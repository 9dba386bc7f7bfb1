"""The memory behind the memory: what the store knows is loaded at the start (`reading.py`), changes are
written behind (`writing.py`), and when the store was away it is joined again. No login waits for any of it.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import anyio.lowlevel

from director.core.checks import wrong_members, wrong_rows
from director.core.director import Director
from director.core.events import (
    BucketsRead,
    ClaimFailed,
    Event,
    Leases,
    StoredHosts,
    StoredMembers,
    StoreOpened,
)
from director.core.hosts import decode_rows, encode_rows
from director.core.members import decode_member_rows, encode_member_rows
from director.core.users import UserTable
from director.records import StoreInfo
from director.service.claiming import Claims
from director.service.documents import TableDocument
from director.service.log import Log
from director.service.reading import Reading
from director.service.share import Share
from director.service.writing import Writing
from director.types import MemberId, UserKey
from state.base import (
    KNOWN_SCHEMA,
    SCHEMA,
    SPACES,
    AuditEntry,
    Lease,
    SchemaTooNew,
    StateStore,
    StoreBusy,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)

FLUSH_AFTER = 0.2
"""Seconds from the first change to its writing."""
FLUSH_LATEST = 1.0
"""Longest pause between two writes, in seconds, however long they take."""
SHARE = 9
"""Writing may take a tenth of the time: it is followed by a pause this many times as long."""
NAMES_AFTER = 30.0
"""The same for names, which nothing depends on."""
OPEN_WITHIN = 10.0
"""Seconds that reading hosts and directors may take at the start; then the director does without."""
STOP_WITHIN = 5.0
"""Seconds the last write may take."""
RETRY_FIRST, RETRY_LONGEST = 0.2, 2.0
"""Seconds between two attempts to reach the store."""
WATCH_PARTIAL = 0.5
"""In a partial ring, seconds between two looks for what others have changed in the store (ring-rules 12)."""
AUDIT_QUEUE = 1000
"""Audit entries kept while the store is away."""
HOSTS, MEMBERS = "hosts", "members"
"""Names of the documents with the host table, and with what was changed in the list of directors."""


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
    ) -> None:
        self.store = store
        self.up = False
        self.loaded = False
        self.loaded_users = 0
        self.error: str | None = None
        self.errors: dict[str, int] = {}
        self._director, self._handle, self._log = director, handle, log
        self._users: UserTable = director.users
        self._lease_ttl, self._incarnation = lease_ttl, incarnation
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
        self._work = anyio.Event()
        self._urgent = anyio.Event()
        self._hosts = TableDocument(
            store, HOSTS, lambda: encode_rows(list(director.hosts.rows.values())), self._take_hosts, log
        )
        self._members = TableDocument(
            store,
            MEMBERS,
            lambda: encode_member_rows(list(director.members.rows.values())),
            self._take_members,
            log,
        )
        self._reading = Reading(store, director, handle, log)
        self._writing = Writing(store, director, self._reading, self._share, handle, self._write_documents)
        self._claims = Claims(store, director, handle, self._reading, self.failed)

    # ---- what others see

    @property
    def queued(self) -> int:
        """Buckets that have changed and are not known to be stored."""
        return self._writing.queued

    @property
    def hosts_stored(self) -> bool:
        return self._hosts.stored and self._members.stored

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
            error=self.error,
        )

    # ---- what the driver asks

    def look(self) -> None:
        """Something has happened: there may be something to write."""
        if self._users.dirty_count or self._share.has_changed():
            self._work.set()

    def hosts_changed(self) -> None:
        self._hosts.changed()
        self._work.set()
        self._urgent.set()

    def members_changed(self) -> None:
        self._members.changed()
        self._work.set()
        self._urgent.set()

    def persist(self, number: int, buckets: Sequence[int] | None) -> None:
        """Write these buckets of users (None: all that have changed) at once; `Persisted` follows.

        It does not where the store is away: whoever asks waits only so long."""
        if not self.up:
            return
        self._writing.ask(number, buckets)
        self._work.set()
        self._urgent.set()

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

    async def wait_hosts_stored(self, seconds: float) -> bool:
        """Whether hosts and directors, as they are now, are in the store within this time."""
        begun = time.monotonic()
        hosts = await self._hosts.wait_stored(seconds)
        return hosts and await self._members.wait_stored(max(0.0, begun + seconds - time.monotonic()))

    # ---- start

    async def open(self) -> None:
        """Open the store and take in all but users and names: `run` reads those. Where it does not answer:
        say so, and join it later.

        Raises SchemaTooNew and StoreBusy: with those a director must not start.
        """
        self._begun = time.monotonic()
        try:
            await self.store.open()
            with anyio.fail_after(OPEN_WITHIN):
                await self._read_documents()
        except (SchemaTooNew, StoreBusy):
            raise
        except StoreError as exc:
            self.failed("load", exc)
        except TimeoutError:
            self.failed("load", StoreUnavailable(self.store.url, "load", after=OPEN_WITHIN))

    async def _read_documents(self) -> None:
        self._say_set_aside()
        run_id = await self._ask_run_id()
        alive = await self._renew_lease()
        await self._read_hosts()
        self.hosts_changed()  # the configuration may know more than the store
        await self._members.read()
        self._handle(StoreOpened())
        self._is_up(run_id, alive)

    async def _load(self) -> None:
        """Users and names, while logins are answered already."""
        try:
            await self._reading.load()
        except StoreError as exc:
            self.failed("load", exc)
            return
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
        self._handle(Leases(alive))

    async def _read_hosts(self) -> None:
        if not await self._hosts.read():
            self._handle(StoredHosts(()))  # the store has been read: it knows nothing

    def _take_hosts(self, data: bytes) -> None:
        rows = decode_rows(data)
        problem = wrong_rows(rows)
        if problem is not None:
            raise ValueError(problem)
        self._handle(StoredHosts(tuple(rows)))

    def _take_members(self, data: bytes) -> None:
        rows = decode_member_rows(data)
        problem = wrong_members(rows)
        if problem is not None:
            raise ValueError(problem)
        self._handle(StoredMembers(tuple(rows)))

    def _say_set_aside(self) -> None:
        if self.store.set_aside != self._set_aside:
            self._set_aside = self.store.set_aside
            self._log.error(
                "store_damaged",
                store=self.store.url,
                kept_as=str(self._set_aside),
                note="a new one is filled from the ring",
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
            if self._director.loading:
                tasks.start_soon(self._load)
                tasks.start_soon(self._load_wanted)
            tasks.start_soon(self._write_behind)

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
        with anyio.CancelScope(shield=True):
            await self.store.close()

    async def _write_behind(self) -> None:
        pause = RETRY_FIRST
        names_due = time.monotonic() + NAMES_AFTER
        took = 0.0
        while True:
            if self.up:
                if not self._something_to_do():
                    with anyio.move_on_after(NAMES_AFTER):
                        await self._work.wait()
                self._work = anyio.Event()
                await self._rest(max(FLUSH_AFTER, min(FLUSH_LATEST, SHARE * took)))
            try:
                if not self.up:
                    await self._come_back()
                begun = time.monotonic()
                if self._director.joining or self._director.loading:
                    await self._write_documents()  # users later: it has better things to do
                else:
                    await self._write(names=begun >= names_due)
                took = time.monotonic() - begun
                if begun >= names_due:
                    names_due = begun + max(NAMES_AFTER, SHARE * took)
                pause = RETRY_FIRST
            except StoreError as exc:
                self.failed("write", exc)
                await anyio.sleep(pause * random.uniform(0.8, 1.2))
                pause = min(2 * pause, RETRY_LONGEST)

    async def _rest(self, seconds: float) -> None:
        """Let changes gather, but not those an operator waits for."""
        if self.hosts_stored and not self._writing.questions:
            with anyio.move_on_after(seconds):
                await self._urgent.wait()
        self._urgent = anyio.Event()

    def _something_to_do(self) -> bool:
        return self._writing.has_work or bool(self._audit) or not self.hosts_stored

    async def _come_back(self) -> None:
        """The store answers again, or for the first time: read and merge, then write (ring-rules 31)."""
        await self.store.open()
        self._say_set_aside()
        run_id = await self._ask_run_id()
        alive = await self._renew_lease()
        await self._read_hosts()
        self.hosts_changed()
        await self._members.read()
        self.members_changed()
        for space in SPACES:
            await self._reading.changed(space)
        await self._writing.queue_differences()
        behind = self.queued
        await self._write(names=False)
        if not self.loaded:
            self.loaded, self.loaded_users = True, len(self._users)
        self._is_up(run_id, alive)
        self._log.info("store_back", store=self.store.url, buckets_written=behind)

    async def _write(self, *, names: bool) -> None:
        await self._write_first()
        await self._writing.write_users()
        if names:
            await self._writing.write_names()

    async def _write_first(self) -> None:
        """What operators wait for, or did; and whose the buckets are by now."""
        await self._write_documents()
        await self._writing.new_ring()
        await self._write_audit()

    async def _write_audit(self) -> None:
        entries = list(self._audit)
        if not entries:
            return
        await self.store.append_audit(entries)
        while self._audit and self._audit[0] in entries:  # a full queue may have dropped some meanwhile
            self._audit.popleft()

    async def _write_documents(self) -> None:
        await self._hosts.write()
        await self._members.write()

    # ---- with a shared store

    async def _keep_lease(self) -> None:
        while True:
            await anyio.sleep(self._lease_ttl / 3)
            if not self.up:
                continue
            try:
                alive = await self._renew_lease()
                run_id = await self._ask_run_id()
            except StoreError as exc:
                self.failed("lease", exc)
                continue
            if run_id != self._run_id:
                self._log.warning("store_replaced", store=self.store.url, note="comparing all buckets")
                self._is_away()
            elif self.up:
                self._handle(Leases(alive))

    async def _renew_lease(self) -> frozenset[MemberId] | None:
        """Write our own lease first, then read who lives (ring-rules 15); None: the store cannot say."""
        if not self.store.shared:
            return None
        me = self._director.me
        lease = Lease(
            member=me,
            ring_address=me,
            incarnation=self._incarnation,
            synced=self._director.synced,
            info={KNOWN_SCHEMA: str(SCHEMA)},
        )
        await self.store.renew(lease, self._lease_ttl)
        alive = await self.store.members()
        return frozenset(MemberId(one.member) for one in alive)

    async def _watch_partial(self) -> None:
        """While somebody lives outside the ring, keep current from what he writes."""
        while True:
            await anyio.sleep(WATCH_PARTIAL)
            if not (self._director.partial and self.up):
                continue
            try:
                await self._reading.changed("users")
                await self._hosts.read(anyway=False)
                await self._members.read(anyway=False)
            except StoreError as exc:
                self.failed("watch", exc)

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
        self._handle(BucketsRead(None))  # nobody waits for a store that is away
        self._writing.questions.drop()
        self._work.set()
        self._urgent.set()
        self._handle(Leases(None))
