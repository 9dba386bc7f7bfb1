"""The memory behind the memory: what the state store knows is loaded at the start, what changes is written behind.

Nothing here is waited for by a login. What is queued is a set of bucket numbers, so an outage cannot make it grow. Every
write is compare-and-swap: who loses the race merges what the other wrote and tries again, so any director may write any
bucket. To save work each bucket has one usual writer among the members of the ring (ring-rules 30-32).
"""

from __future__ import annotations

import hashlib
import random
import time
from collections import deque
from collections.abc import Callable, Sequence

import anyio
import anyio.abc

from director.core.claims import with_candidate
from director.core.director import Director
from director.core.events import Claimed, ClaimFailed, Event, Leases, StoredHosts, StoredUsers
from director.core.hosts import decode_rows, encode_rows
from director.core.names import NameTable
from director.core.users import BUCKET_SHIFT, BUCKETS, UserTable, is_alive
from director.records import StoreInfo
from director.service.log import Log
from director.types import MemberId, UserKey
from state.base import (
    EMPTY_VERSION,
    AuditEntry,
    Lease,
    Lost,
    SchemaTooNew,
    Space,
    StateStore,
    StoreBusy,
    StoreError,
    Swap,
    Swapped,
    version_of,
)

FLUSH_AFTER = 0.2
"""Seconds from the first change to its writing."""
NAMES_AFTER = 5.0
"""The same for names, which nothing depends on."""
FLUSH_BUCKETS = 512
"""Buckets of one write."""
RETRY_FIRST, RETRY_LONGEST = 0.2, 2.0
"""Seconds between two attempts to reach the store."""
WATCH_PARTIAL = 0.5
"""In a partial ring, seconds between two looks for what others have changed in the store (ring-rules 12)."""
AUDIT_QUEUE = 1000
"""Audit entries kept while the store is away."""
HOSTS = "hosts"
"""Name of the document with the host table."""


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
        self._names: NameTable = director.names
        self._lease_ttl, self._incarnation = lease_ttl, incarnation
        self._own_choices_kept = 3 * ping_timeout
        self._versions: dict[Space, dict[int, bytes]] = {"users": {}, "names": {}}
        self._queued: set[int] = set()
        self._queued_names: set[int] = set()
        self._left_to_others: dict[int, float] = {}
        """Buckets changed here and left to their usual writer, and when: ours to write if he turns out to be cut off."""
        self._audit: deque[AuditEntry] = deque(maxlen=AUDIT_QUEUE)
        self._hosts_version = EMPTY_VERSION
        self._hosts_wanted = 0
        self._hosts_written = 0
        self._run_id: str | None = None
        self._said = ""
        self._ring: tuple[MemberId, ...] = ()
        self._writers: dict[int, MemberId] = {}
        self._was_partial = False
        self._work = anyio.Event()
        self._hosts_done = anyio.Event()
        self._tasks: anyio.abc.TaskGroup | None = None

    # ---- what others see

    @property
    def queued(self) -> int:
        return len(self._queued) + self._users.dirty_count

    @property
    def hosts_stored(self) -> bool:
        return self._hosts_written == self._hosts_wanted

    def info(self) -> StoreInfo:
        return StoreInfo(
            url=self.store.url,
            shared=self.store.shared,
            up=self.up,
            loaded=self.loaded,
            loaded_users=self.loaded_users,
            queued_buckets=self.queued,
            error=self.error,
        )

    # ---- what the driver asks

    def users_changed(self) -> None:
        self._work.set()

    def hosts_changed(self) -> None:
        self._hosts_wanted += 1
        self._work.set()

    def audit(self, entry: AuditEntry) -> None:
        """Keep who did what; written with the next write, dropped (oldest first) only if the store stays away."""
        self._audit.append(entry)
        self._work.set()

    def claim(self, key: UserKey, record: bytes) -> None:
        if self._tasks is None or not self.up:
            self._handle(ClaimFailed(key))
            return
        self._tasks.start_soon(self._claim, key, record)

    async def wait_hosts_stored(self, seconds: float) -> bool:
        """Whether the host table, as it is now, is in the store within this time."""
        wanted = self._hosts_wanted
        with anyio.move_on_after(seconds):
            while self._hosts_written < wanted:
                await self._hosts_done.wait()
        return self._hosts_written >= wanted

    # ---- start

    async def load(self) -> None:
        """Open the store and take in what it holds. Where it does not answer: say so, and join it later.

        Raises SchemaTooNew and StoreBusy: with those a director must not start.
        """
        begun = time.monotonic()
        try:
            await self.store.open()
            self._say_set_aside()
            await self._read_leases()
            await self._read_hosts()
            await self._load_space("users")
            await self._load_space("names")
            self._run_id = await self.store.run_id()
        except (SchemaTooNew, StoreBusy):
            raise
        except StoreError as exc:
            self._failed("load", exc)
            return
        self.up = self.loaded = True
        self._log.info(
            "store_loaded",
            store=self.store.url,
            users=self.loaded_users,
            hosts=len(self._director.hosts.present()),
            seconds=round(time.monotonic() - begun, 3),
        )

    async def _load_space(self, space: Space) -> None:
        async for batch in self.store.load_buckets(space):
            for bucket in batch:
                self._take(space, bucket.number, bucket.version, bucket.blob)
            await anyio.sleep(0)
        self.loaded_users = len(self._users)

    def _take(self, space: Space, number: int, version: bytes, blob: bytes) -> None:
        """Merge a bucket of the store into memory."""
        self._versions[space][number] = version
        try:
            if space == "users":
                self._handle(StoredUsers(blob))
            else:
                self._names.merge(blob)
        except ValueError as exc:
            self._log.error("store_bucket_damaged", space=space, bucket=number, reason=str(exc), note="left out")

    async def _read_hosts(self) -> None:
        document = await self.store.read_document(HOSTS)
        if document is None:
            self._hosts_version = EMPTY_VERSION
            self.hosts_changed()
            return
        self._hosts_version = document.version
        self._take_hosts(document.data)

    def _take_hosts(self, data: bytes) -> None:
        try:
            rows = decode_rows(data)
        except ValueError as exc:
            self._log.error("store_hosts_damaged", reason=str(exc), note="written again from memory")
            return
        self._handle(StoredHosts(tuple(rows)))

    def _say_set_aside(self) -> None:
        if self.store.set_aside is not None:
            self._log.error(
                "store_damaged",
                store=self.store.url,
                kept_as=str(self.store.set_aside),
                note="a new one is filled from the ring",
            )

    # ---- running

    async def run(self) -> None:
        """Write behind until cancelled; then write once more what is left, if the store answers."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            if self.store.shared:
                tasks.start_soon(self._keep_lease)
                tasks.start_soon(self._watch_partial)
            try:
                await self._write_behind()
            finally:
                self._tasks = None
                tasks.cancel_scope.cancel()

    async def stop(self) -> None:
        """Write what is left, give up the lease, close. At most a few seconds."""
        with anyio.move_on_after(5, shield=True):
            try:
                if self.up:
                    await self._write(names=True)
                    if self.store.shared:
                        await self.store.release(self._director.me)
            except StoreError as exc:
                self._failed("stop", exc)
            await self.store.close()

    async def _write_behind(self) -> None:
        pause = RETRY_FIRST
        names_due = time.monotonic() + NAMES_AFTER
        while True:
            if self.up and not self._something_to_do():
                with anyio.move_on_after(NAMES_AFTER):
                    await self._work.wait()
                self._work = anyio.Event()
                await anyio.sleep(0 if self._hosts_wanted > self._hosts_written else FLUSH_AFTER)
            try:
                if not self.up:
                    await self._come_back()
                now = time.monotonic()
                await self._write(names=now >= names_due)
                if now >= names_due:
                    names_due = now + NAMES_AFTER
                pause = RETRY_FIRST
            except StoreError as exc:
                self._failed("write", exc)
                await anyio.sleep(pause * random.uniform(0.8, 1.2))
                pause = min(2 * pause, RETRY_LONGEST)

    def _something_to_do(self) -> bool:
        return bool(self._queued or self._audit) or self._hosts_wanted > self._hosts_written or self._ring_has_changed()

    def _ring_has_changed(self) -> bool:
        return self._ring != self._director.barrier.ring or self._was_partial != self._director.partial

    async def _come_back(self) -> None:
        """The store answers again, or for the first time: read and merge, then write (ring-rules 31)."""
        await self.store.open()
        self._say_set_aside()
        await self._read_leases()
        await self._read_hosts()
        self.hosts_changed()
        for space in ("users", "names"):
            await self._read_changed(space)
        await self._queue_differences()
        self._run_id = await self.store.run_id()
        self.up = self.loaded = True
        self.error = None
        self._log.info("store_back", store=self.store.url, buckets_to_write=len(self._queued))

    async def _read_changed(self, space: Space) -> None:
        """Merge the buckets that others have written since we last looked."""
        known = self._versions[space]
        stored = await self.store.versions(space)
        for number in [n for n in known if n not in stored]:
            known[number] = EMPTY_VERSION
        changed = [n for n, version in stored.items() if known.get(n) != version]
        for at in range(0, len(changed), FLUSH_BUCKETS):
            for bucket in await self.store.read_buckets(space, changed[at : at + FLUSH_BUCKETS]):
                self._take(space, bucket.number, bucket.version, bucket.blob)

    async def _queue_differences(self) -> None:
        """Queue every bucket that is ours to write and differs from what the store holds."""
        versions = self._versions["users"]
        for number in range(BUCKETS):
            if number % 256 == 0:
                await anyio.sleep(0)
            if self._is_writer(number):
                blob = self._users.stored_bucket(number)
                if version_of(blob) != versions.get(number, EMPTY_VERSION):
                    self._queued.add(number)
                if self._names.bucket(number):
                    self._queued_names.add(number)

    async def _write(self, *, names: bool) -> None:
        if self._ring_has_changed():
            await self._new_ring()
        if self._hosts_wanted > self._hosts_written:
            await self._write_hosts()
        if self._audit:
            entries = list(self._audit)
            await self.store.append_audit(entries)
            for _ in entries:
                self._audit.popleft()
        self._collect()
        while self._queued:
            numbers = sorted(self._queued)[:FLUSH_BUCKETS]
            await self._swap("users", numbers, self._users.stored_bucket, self._queued)
            self._collect()
        if names:
            self._queued_names.update(n for n in self._names.take_dirty() if self._is_writer(n))
            while self._queued_names:
                numbers = sorted(self._queued_names)[:FLUSH_BUCKETS]
                await self._swap("names", numbers, self._names.bucket, self._queued_names)

    async def _new_ring(self) -> None:
        """Other members, other writers: take over what nobody else writes now (ring-rules 32, 39)."""
        was_alone_or_new = not self._ring
        self._ring, self._was_partial = self._director.barrier.ring, self._director.partial
        self._writers.clear()
        if not self.store.shared or was_alone_or_new:
            return
        now = time.monotonic()
        recent = [n for n, at in self._left_to_others.items() if now - at < self._own_choices_kept]
        if self._was_partial:
            self._queued.update(recent)
        self._left_to_others.clear()
        for space in ("users", "names"):
            await self._read_changed(space)
        await self._queue_differences()

    def _collect(self) -> None:
        """Move what has become dirty to the queue, or leave it to its usual writer."""
        now = time.monotonic()
        for number in self._users.take_dirty():
            if self._is_writer(number):
                self._queued.add(number)
            else:
                self._left_to_others[number] = now

    def _is_writer(self, number: int) -> bool:
        """By rendezvous hashing over the members of the ring; in a partial ring everybody writes what is his."""
        if not self.store.shared or self._was_partial or len(self._ring) < 2:
            return True
        writer = self._writers.get(number)
        if writer is None:
            writer = self._writers[number] = max(self._ring, key=lambda member: _weight(member, number))
        return writer == self._director.me

    async def _swap(
        self, space: Space, numbers: Sequence[int], blob_of: Callable[[int], bytes], queue: set[int]
    ) -> None:
        known = self._versions[space]
        swaps = []
        for number in numbers:
            blob = blob_of(number)
            queue.discard(number)
            if version_of(blob) != known.get(number, EMPTY_VERSION):
                swaps.append(Swap(space, number, known.get(number, EMPTY_VERSION), blob))
        if not swaps:
            return
        try:
            results = await self.store.swap_buckets(swaps)
        except BaseException:
            queue.update(swap.number for swap in swaps)
            raise
        for swap, result in zip(swaps, results, strict=True):
            match result:
                case Swapped(version):
                    known[swap.number] = version
                case Lost(version, blob):
                    self._take(space, swap.number, version, blob)
                    queue.add(swap.number)

    async def _write_hosts(self) -> None:
        while self._hosts_wanted > self._hosts_written:
            wanted = self._hosts_wanted
            data = encode_rows(list(self._director.hosts.rows.values()))
            result = await self.store.swap_document(HOSTS, self._hosts_version, data)
            self._hosts_version = result.version
            match result:
                case Swapped():
                    self._hosts_written = wanted
                    self._hosts_done.set()
                    self._hosts_done = anyio.Event()
                case Lost(_, theirs):
                    self._take_hosts(theirs)

    # ---- with a shared store

    async def _keep_lease(self) -> None:
        while True:
            await anyio.sleep(self._lease_ttl / 3)
            if not self.up:
                continue
            try:
                await self._read_leases()
                run_id = await self.store.run_id()
                if run_id != self._run_id:
                    self._log.warning("store_replaced", store=self.store.url, note="comparing all buckets")
                    self.up = False
                    self._work.set()
            except StoreError as exc:
                self._failed("lease", exc)

    async def _read_leases(self) -> None:
        """Write our own lease first, then read who lives (ring-rules 15)."""
        if not self.store.shared:
            return
        me = self._director.me
        lease = Lease(member=me, ring_address=me, incarnation=self._incarnation, synced=self._director.synced)
        await self.store.renew(lease, self._lease_ttl)
        alive = await self.store.members()
        self._handle(Leases(frozenset(MemberId(one.member) for one in alive)))

    async def _watch_partial(self) -> None:
        """While somebody lives outside the ring, keep current from what he writes."""
        while True:
            await anyio.sleep(WATCH_PARTIAL)
            if not (self._director.partial and self.up):
                continue
            try:
                await self._read_changed("users")
                await self._read_hosts()
            except StoreError as exc:
                self._failed("watch", exc)

    async def _claim(self, key: UserKey, record: bytes) -> None:
        """The first swap wins: take what lives in the store, or put the candidate there (`core.claims`)."""
        number = key >> BUCKET_SHIFT
        try:
            while True:
                (bucket,) = await self.store.read_buckets("users", [number])
                self._take("users", number, bucket.version, bucket.blob)
                mine = self._users.get(key)
                if mine is not None and is_alive(mine, int(time.time()), self._users.expire):
                    break
                blob = with_candidate(self._users.stored_bucket(number), record, self._users.expire)
                (result,) = await self.store.swap_buckets([Swap("users", number, bucket.version, blob)])
                self._versions["users"][number] = result.version
                if isinstance(result, Swapped):
                    self._handle(StoredUsers(record))
                    break
        except StoreError as exc:
            self._failed("claim", exc)
            self._handle(ClaimFailed(key))
            return
        self._handle(Claimed(key, b""))

    # ---- trouble

    def _failed(self, operation: str, exc: StoreError) -> None:
        self.errors[operation] = self.errors.get(operation, 0) + 1
        self.error = str(exc)
        if self.up or str(exc) != self._said:
            self._said = str(exc)
            self._log.error("store_away", store=self.store.url, operation=operation, reason=str(exc))
        self.up = False
        self._work.set()
        self._handle(Leases(None))


def _weight(member: MemberId, number: int) -> bytes:
    return hashlib.md5(f"{member} {number}".encode(), usedforsecurity=False).digest()

