"""A copy of memory in a SQLite file on the director's own disk, beside a shared store.

If the store is unreachable or empty at the start, the director reads the whole snapshot before it answers
logins. Parts of it are also read for damaged documents and buckets of the store. Its records are merged like
all others: the later stamp is kept. It is written after the store and slowly, with a few percent of one core.
A failing snapshot does not affect logins. The failure is logged once and the snapshot is retried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.lowlevel
import msgspec

from director.core.director import Director
from director.core.placement.users import BUCKETS
from director.core.protocol.events import Event
from director.records import SnapshotInfo
from director.service.log import Log
from director.service.persistence.storecaller import StoreCaller
from director.stored.bucketreader import BucketReader
from director.stored.damage import Table, examine, filled_from, is_sound, own_copy
from director.stored.storecalls import Copy, Procedure
from director.stored.storeidentity import CLUSTER, Ours, decode, encode
from state.aside import set_aside
from state.base import (
    EMPTY_VERSION,
    SPACES,
    Lost,
    Space,
    StateStore,
    StoreError,
    StoreRefused,
    Swap,
    version_of,
)
from state.bucketnumbers import root_of

Result = TypeVar("Result")

DOCUMENT_NOTE = "the readable rows are used, and the document is written again; check the disk"
WRITE_EVERY = 2.0
"""Seconds from one write of buckets to the next, at least."""
PAUSE_FACTOR = 30
"""After each slice follows a pause of this many times its duration: writing takes about 3 % of the time."""
SLICE = 64
"""Buckets written at a time."""
PREPARED = 16
"""Buckets prepared in one turn of the loop."""
NAMES_EVERY = 30.0
STAMP_EVERY = 60.0
"""Seconds between two writes of names, and of the time. The age of a snapshot is known to the minute."""
RETRY = 30.0
"""Seconds until a failed snapshot is retried."""
STOP_WITHIN = 2.0
"""Seconds for the last write at a stop."""
DIGITS = 12
"""Digits of a time in Unix seconds, at most."""
SNAPSHOT = "snapshot"
"""The source of its records, for logs and metrics."""
WRITTEN = "written"
"""Name of the document that holds the time of the last write, in Unix seconds."""


class SnapshotFile:
    def __init__(
        self,
        store: StateStore,
        director: Director,
        handle: Callable[[Event], None],
        log: Log,
        tables: Sequence[Table],
        ours: Ours,
        take_changed: Callable[[], None],
    ) -> None:
        """
        Args:
            store: a file of this director alone, not open.
            take_changed: passes the changed buckets to `changed`.
        """
        self.up = False
        self.written_at: int | None = None
        """Unix seconds of the last write, from the file itself."""
        self.error: str | None = None
        self._store, self._director, self._log = store, director, log
        self._tables, self._ours, self._take_changed = tables, ours, take_changed
        self._reader = BucketReader(director.names, SNAPSHOT)
        self._caller = StoreCaller(store, handle, log)
        self._versions: dict[Space, dict[int, bytes]] = {"users": {}, "names": {}}
        """Versions of the buckets in the file."""
        self._queued: dict[Space, set[int]] = {"users": set(), "names": set()}
        self._documents: dict[str, bytes] = {}
        """Versions of the documents in the file."""
        self._wake = anyio.Event()
        self._opening = anyio.Lock()
        self._logged = False
        self._set_aside: Path | None = None
        self._next_names = self._next_stamp = 0.0

    @property
    def url(self) -> str:
        return self._store.url

    def info(self) -> SnapshotInfo:
        queued = sum(map(len, self._queued.values()))
        return SnapshotInfo(
            url=self.url, up=self.up, queued_buckets=queued, written=self.written_at, error=self.error
        )

    def changed(self, space: Space, numbers: Iterable[int]) -> None:
        """Queue these buckets to be written."""
        self._queued[space].update(numbers)

    def documents_changed(self) -> None:
        self._wake.set()

    # ---- at the start

    async def load(self, reason: str) -> bool:
        """Merge the content of the snapshot into memory. Returns whether it held any.

        A failure is logged and counts as no content.

        Args:
            reason: why the snapshot is read, for the log.
        """
        begun = time.monotonic()
        try:
            await self._open()
            if not await self._is_ours():
                return False
            rows = 0
            for table in self._tables:
                rows += await self._take(table)
            await self._carried_out(self._reader.load())
        except StoreError as exc:
            self._failed(exc)
            return False
        users = len(self._director.users)
        if not users and not rows:
            return False
        age = None if self.written_at is None else max(0, int(time.time()) - self.written_at)
        self._log.warning(
            "snapshot_loaded",
            snapshot=self.url,
            reason=reason,
            users=users,
            hosts=len(self._director.hosts.present()),
            age=f"{age} s" if age is not None else "unknown",
            seconds=round(time.monotonic() - begun, 3),
            note="users and hosts may be old; later records of the store and of other directors replace them",
        )
        return True

    async def _is_ours(self) -> bool:
        """Return whether this cluster wrote the snapshot. A snapshot of another cluster is overwritten."""
        document = await self._store.read_document(CLUSTER)
        if document is not None and not is_sound(document):
            document = await self._store.second_copy(CLUSTER) or document
        stored = None if document is None else decode(document.data)
        if document is None or (stored is not None and self._ours.wrote(stored)):
            return True
        note = "written with another ring.secret_file or users.username_hash; not read, and overwritten now"
        self._log.warning("foreign_snapshot_ignored", snapshot=self.url, note=note)
        return False

    async def _take(self, table: Table) -> bool:
        """Merge a document into memory. Returns whether the snapshot has it."""
        copies = await self._copies(table)
        if copies:
            data, *others = (copy.data for copy in copies)
            await self._carried_out(table.take(data, SNAPSHOT, others))
        return bool(copies)

    async def copies(self, name: str) -> list[Copy]:
        """Return the copies of a document, which fill the gaps of the document in the store. A failure is
        logged and counts as no copy."""
        try:
            await self._open()
            if not await self._is_ours():
                return []
            return await self._copies(next(table for table in self._tables if table.name == name))
        except StoreError as exc:
            self._failed(exc)
            return []

    async def take_in(self, space: Space, numbers: Iterable[int]) -> None:
        """Merge these buckets into memory, as far as the snapshot has them. A failure is logged."""
        try:
            await self._open()
            if await self._is_ours():
                await self._carried_out(self._reader.read(space, set(map(root_of, numbers))))
        except StoreError as exc:
            self._failed(exc)

    async def _carried_out(self, procedure: Procedure[Result]) -> Result:
        return await self._caller.carried_out(procedure)

    async def _copies(self, table: Table) -> list[Copy]:
        """Return the document; if it is damaged or missing, also its second copy."""
        document = await self._store.read_document(table.name)
        if document is None:
            return await self._carried_out(own_copy(self.url, table.name))
        found = [Copy(document.data, self.url)]
        _, problem, kept = await self._carried_out(examine(table, document))
        if problem:
            found += await self._carried_out(own_copy(self.url, table.name))
            fields = {"snapshot": self.url, "document": table.name, "reason": problem, "note": DOCUMENT_NOTE}
            self._log.error("snapshot_damaged", **fields, **kept, gaps_filled_from=filled_from(found[1:]))
        return found

    # ---- running

    async def run(self) -> None:
        """Write changes until cancelled."""
        while True:
            try:
                if not self.up:
                    await self._begin()
                await self._write(duty=PAUSE_FACTOR)
            except StoreError as exc:
                self._failed(exc)
                await self._store.close()
                await anyio.sleep(RETRY)
                continue
            await self._rest(WRITE_EVERY)

    async def stop(self) -> None:
        """Write the rest, for `STOP_WITHIN` seconds at most, and close the file."""
        if self.up:
            try:
                with anyio.fail_after(STOP_WITHIN, shield=True):
                    self._next_names = self._next_stamp = 0.0
                    await self._write(duty=0)
            except StoreError as exc:
                self._failed(exc)
            except TimeoutError:
                note = f"the last changes were not written within {STOP_WITHIN:.0f} s, at the stop"
                self._log.warning("snapshot_failed", snapshot=self.url, reason=note)
        with anyio.CancelScope(shield=True):
            await self._store.close()

    async def abandon(self) -> None:
        """Close the file without a last write."""
        await self._store.close()

    async def _open(self) -> None:
        async with self._opening:  # the store's procedures may read it while `run` opens it
            await self._store.open()
        if self._store.set_aside != self._set_aside:
            self._set_aside = self._store.set_aside
            self._log.error(
                "snapshot_damaged",
                snapshot=self.url,
                kept_as=str(self._set_aside),
                note="a new snapshot is written from memory; check the disk",
            )
        document = await self._store.read_document(WRITTEN)
        if document is not None and document.data.isdigit() and len(document.data) <= DIGITS:
            self.written_at = int(document.data)

    async def _begin(self) -> None:
        """Open the file and queue everything in which it may differ from memory."""
        await self._open()
        for space in SPACES:
            self._versions[space] = await self._store.versions(space)
            self._queued[space].update(range(BUCKETS))
        for name in (CLUSTER, WRITTEN, *(table.name for table in self._tables)):
            document = await self._store.read_document(name)
            if document is not None and not is_sound(document):
                await set_aside(self._store, name, document.data)
                document = None  # its version may be the version of the new data, which must be written
            self._documents[name] = EMPTY_VERSION if document is None else document.version
        await self._keep(CLUSTER, encode(self._ours.written))
        if self._logged:
            self._log.info("snapshot_recovered", snapshot=self.url)
        self.up, self.error, self._logged = True, None, False
        self._next_names = self._next_stamp = 0.0

    async def _write(self, *, duty: float) -> None:
        """Write documents, then buckets, then the time.

        Buckets are not written while the store is being read: until then memory holds less than the file.
        """
        await self._write_documents()
        if self._director.loading:
            return
        self._take_changed()
        now = time.monotonic()
        await self._write_buckets("users", self._director.users.stored_bucket, duty)
        if now >= self._next_names:
            self._next_names = now + NAMES_EVERY
            await self._write_buckets("names", self._director.names.bucket, duty)
        if now >= self._next_stamp:
            self._next_stamp = now + STAMP_EVERY
            stamp = int(time.time())
            await self._keep(WRITTEN, str(stamp).encode())
            self.written_at = stamp

    async def _write_documents(self) -> None:
        await self._keep(CLUSTER, encode(self._ours.written))
        for table in self._tables:
            await self._keep(table.name, table.encode())

    async def _keep(self, name: str, data: bytes) -> None:
        """Write a document unless the file holds this version.

        An interrupted write may have succeeded. Then the file holds another version than expected and the
        write is repeated with it: otherwise the last write at a stop could be lost.
        """
        while (version := self._documents[name]) != version_of(data):
            self._documents[name] = (await self._store.swap_document(name, version, data)).version

    async def _rest(self, seconds: float) -> None:
        """Sleep, and write documents at once if they change meanwhile: an operator has changed them."""
        until = time.monotonic() + seconds
        while (remaining := until - time.monotonic()) > 0:
            with anyio.move_on_after(remaining):
                await self._wake.wait()
            if self._wake.is_set():
                self._wake = anyio.Event()
                await self._write_documents()

    async def _write_buckets(self, space: Space, blob_of: Callable[[int], bytes], duty: float) -> None:
        queue = self._queued[space]
        numbers = sorted(queue)
        for at in range(0, len(numbers), SLICE):
            begun = time.monotonic()
            await self._write_slice(space, numbers[at : at + SLICE], blob_of)
            await self._rest(duty * (time.monotonic() - begun))

    async def _write_slice(
        self, space: Space, numbers: Sequence[int], blob_of: Callable[[int], bytes]
    ) -> None:
        known, queue = self._versions[space], self._queued[space]
        swaps = []
        try:
            for position, number in enumerate(numbers, start=1):
                queue.discard(number)
                blob, version = blob_of(number), known.get(number, EMPTY_VERSION)
                if version_of(blob) != version:
                    swaps.append(Swap(space, number, version, blob))
                if position % PREPARED == 0:
                    await anyio.lowlevel.checkpoint()
            while swaps:
                results = await self._store.swap_buckets(swaps)
                known.update(
                    (swap.number, result.version) for swap, result in zip(swaps, results, strict=True)
                )
                # The file held another version than expected (see `_keep`): memory overwrites it.
                swaps = [
                    msgspec.structs.replace(swap, version=result.version)
                    for swap, result in zip(swaps, results, strict=True)
                    if isinstance(result, Lost)
                ]
        except BaseException:
            queue.update(numbers)
            raise

    def _failed(self, exc: StoreError) -> None:
        self.up, self.error = False, str(exc)
        if not self._logged:
            self._logged = True
            advice = "" if isinstance(exc, StoreRefused) else "; check the disk"
            note = (
                f"retrying every {RETRY:.0f} s; logins are not affected while the store is reachable{advice}"
            )
            self._log.warning("snapshot_failed", snapshot=self.url, reason=str(exc), note=note)
