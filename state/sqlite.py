"""`sqlite:///…`, the file of a single director.

All SQL runs in one worker thread, one job at a time. Buckets are committed without waiting for the disk: a
crash of the process loses nothing, and a power failure loses the last moments at most. Documents and the
audit wait for the disk. `FILE.lock` is held exclusively while the store is open. A damaged file is renamed,
never deleted.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import anyio
import anyio.to_thread

from state.audit import bounded, bounded_text, dropped_for, oldest_kept
from state.base import (
    AUDIT_KEPT,
    EMPTY_VERSION,
    SPLIT_VERSION,
    AuditEntry,
    Bucket,
    Document,
    Health,
    HeldLock,
    Layout,
    Lease,
    Lost,
    Space,
    Step,
    StoreUnavailable,
    Swap,
    Swapped,
    check_document,
    check_numbers,
    check_space,
    check_swaps,
    check_version,
)
from state.bucketnumbers import BUCKETS, above, below
from state.lease import OwnLeases, OwnLocks
from state.migrate import SqlStep, sqlite_steps
from state.sqlite_documents import damage, read_document, second_copy, sound, swap_document
from state.sqlite_file import DatabaseFile, is_damage, messages_are_text, translated
from state.threadcalls import ThreadCall

LOAD_NUMBERS = 64
"""The number of root buckets in a batch of `load_buckets`; the buckets below them are not counted."""
WRITE_BYTES = 4 << 20
"""Bytes of blobs in one transaction. It limits how long a job occupies the thread."""

STORE_BUCKET = (
    "INSERT INTO bucket (space, id, version, data) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (space, id) DO UPDATE SET version = excluded.version, data = excluded.data"
)

T = TypeVar("T")


class SqliteStore:
    """A store in one file. Leases are in memory, since no other director could see them."""

    def __init__(self, file: Path, url: str, timeout: float, steps: Sequence[SqlStep] | None = None) -> None:
        self.url = url
        self.shared = False
        self.set_aside: Path | None = None
        self.schema = 0
        self.held_by: tuple[str, ...] = ()
        self._steps = sqlite_steps() if steps is None else steps
        self._timeout = timeout
        self._new_file: Callable[[], DatabaseFile] = partial(DatabaseFile, file, url, timeout, self._steps)
        self._file = self._new_file()
        self._thread: ThreadPoolExecutor | None = None
        self._turn = anyio.Semaphore(1, fast_acquire=True)
        self._opening = anyio.Lock()
        self._leases = OwnLeases()
        self._locks = OwnLocks()

    @property
    def step(self) -> Step | None:
        return self._file.step

    async def layout(self) -> Layout:
        # No deadline, as in `_open`.
        try:
            return await anyio.to_thread.run_sync(self._new_file().layout, abandon_on_cancel=True)
        except (sqlite3.Error, OSError) as exc:
            raise translated(exc, self.url, "layout", self._file.path) from exc

    async def open(self) -> None:
        async with self._opening:  # of two concurrent calls the second finds the store open
            if self._thread is None:
                await self._open()

    async def _open(self) -> None:
        thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        # A new object for each attempt: the thread of an earlier attempt that was cancelled may still use the
        # old one.
        file = self._file = self._new_file()
        try:
            # No deadline: checking and migrating a large file takes time, and no other job needs the thread.
            self.set_aside = await _begun(thread, file.open).result()
        except BaseException as exc:
            thread.submit(file.close)
            thread.shutdown(wait=False)
            if isinstance(exc, sqlite3.Error | OSError):
                raise translated(exc, self.url, "open", self._file.path) from exc
            raise
        self._thread = thread
        self.schema = len(self._steps)

    async def run_id(self) -> str:
        return await self._run("run_id", lambda db: _one(db, "SELECT identity FROM meta"))

    async def load_buckets(self, space: Space) -> AsyncIterator[list[Bucket]]:
        check_space(space)
        for first in range(0, BUCKETS, LOAD_NUMBERS):
            numbers = range(first, first + LOAD_NUMBERS)
            found = await self._run("load_buckets", partial(_load, space=space, numbers=numbers))
            if found:
                yield found

    async def read_buckets(self, space: Space, numbers: Sequence[int]) -> list[Bucket]:
        check_space(space)
        check_numbers(numbers)
        found = await self._run("read_buckets", lambda db: _read(db, space, numbers))
        return [found.get(number) or Bucket(space, number, EMPTY_VERSION, b"") for number in numbers]

    async def swap_buckets(self, swaps: Sequence[Swap]) -> list[Swapped | Lost]:
        check_swaps(swaps)
        results: list[Swapped | Lost] = []
        for part in _parts(swaps):
            results += await self._run("swap_buckets", partial(_swap, swaps=part))
        return results

    async def versions(self, space: Space) -> dict[int, bytes]:
        check_space(space)
        return await self._run("versions", lambda db: _versions(db, space))

    async def read_document(self, name: str) -> Document | None:
        check_document(name)
        return await self._run("read_document", lambda db: read_document(db, name))

    async def swap_document(self, name: str, version: bytes, data: bytes) -> Swapped | Lost:
        check_document(name)
        check_version(version)
        return await self._run("swap_document", lambda db: _swap_document(db, name, version, data))

    async def second_copy(self, name: str) -> Document | None:
        check_document(name)
        return await self._run("second_copy", lambda db: second_copy(db, name))

    async def documents(self) -> list[str]:
        query = "SELECT name FROM document ORDER BY name"
        return await self._run("documents", lambda db: [name for (name,) in db.execute(query)])

    async def renew(self, lease: Lease, ttl: float) -> bool:
        self._require("renew")
        return self._leases.renew(lease, ttl)

    async def release(self, member: str) -> None:
        self._require("release")
        self._leases.release(member)

    async def members(self) -> list[Lease]:
        self._require("members")
        return self._leases.members()

    @asynccontextmanager
    async def hold(self, task: str) -> AsyncIterator[HeldLock | None]:
        self._require("hold")
        with self._locks.hold(task) as lock:
            yield lock

    async def append_audit(self, entries: Sequence[AuditEntry]) -> None:
        await self._run("append_audit", lambda db: _append_audit(db, entries))

    async def audit(self, limit: int, *, since: float = 0.0, target: str | None = None) -> list[AuditEntry]:
        return await self._run("audit", lambda db: _audit(db, limit, since, target))

    async def health(self) -> Health:
        start = time.monotonic()
        await self._run("health", _check_writable)
        return Health(server=f"SQLite {sqlite3.sqlite_version}", took=time.monotonic() - start)

    async def read_passwords_again(self) -> list[str]:
        return []

    async def close(self) -> None:
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        closing = _begun(thread, self._file.close)
        thread.shutdown(wait=False)  # closing is queued and runs even if the wait below times out
        # The thread is left behind in any case.
        with anyio.move_on_after(self._timeout), suppress(sqlite3.Error, OSError):
            await closing.result()

    def _require(self, operation: str) -> ThreadPoolExecutor:
        if self._thread is None:
            raise StoreUnavailable(self.url, operation, reason="the store is not open")
        return self._thread

    async def _run(self, operation: str, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run `job` in the thread and return its result.

        A job that hangs is left to itself, and no job queues behind it.
        """
        try:
            with anyio.fail_after(self._timeout):
                await self._turn.acquire()
                try:
                    work = partial(self._guarded, self._file, job)
                    call = _begun(self._require(operation), work, self._turn.release)
                except BaseException:
                    self._turn.release()
                    raise
                return await call.result()
        except TimeoutError as exc:
            raise StoreUnavailable(self.url, operation, after=self._timeout) from exc
        except (sqlite3.Error, OSError) as exc:
            raise translated(exc, self.url, operation, self._file.path) from exc

    def _guarded(self, file: DatabaseFile, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run `job`, in the thread. If the file is damaged, set it aside and begin a new one."""
        if file.was_replaced():
            file.let_go()
            raise OSError("the file was removed or replaced while in use; the file that is there now is used")
        try:
            with messages_are_text():
                if happened := file.what_happened():
                    raise damage(happened)
                changes = file.connection.total_changes
                try:
                    result = job(file.connection)
                    if happened := file.what_shrunk():
                        raise damage(f"while it was written to, {happened}")
                except BaseException:
                    file.note()
                    raise
                file.note_job(changes)
                return result
        except sqlite3.DatabaseError as exc:
            if is_damage(exc):
                self.set_aside = file.begin_anew()
            raise


def _begun(
    thread: ThreadPoolExecutor, work: Callable[[], T], ended: Callable[[], None] = lambda: None
) -> ThreadCall[T]:
    """Start a call of `work` in the thread, and return it. `ended` is as in `ThreadCall`."""
    call = ThreadCall(work, ended)
    thread.submit(call.run)
    return call


def _one(db: sqlite3.Connection, query: str) -> str:
    return cast(str, db.execute(query).fetchone()[0])


def _read(db: sqlite3.Connection, space: Space, numbers: Sequence[int]) -> dict[int, Bucket]:
    if isinstance(numbers, range):
        query = "SELECT id, version, data FROM bucket WHERE space = ? AND id BETWEEN ? AND ?"
        rows = db.execute(query, (space, numbers[0], numbers[-1])).fetchall()
        return {number: Bucket(space, number, *sound(version, data)) for number, version, data in rows}
    query = "SELECT version, data FROM bucket WHERE space = ? AND id = ?"
    found = ((number, db.execute(query, (space, number)).fetchone()) for number in numbers)
    return {number: Bucket(space, number, *sound(*row)) for number, row in found if row is not None}


def _load(db: sqlite3.Connection, space: Space, numbers: range) -> list[Bucket]:
    """Return the root buckets `numbers` and all buckets below them, which are a range of numbers in each
    level."""
    found = level = _read(db, space, numbers)
    while any(bucket.version == SPLIT_VERSION for bucket in level.values()):
        numbers = range(below(numbers[0])[0], below(numbers[-1])[1] + 1)
        rows = _read(db, space, numbers)
        split = {number for number, bucket in level.items() if bucket.version == SPLIT_VERSION}
        level = {number: bucket for number, bucket in rows.items() if above(number) in split}
        found = found | level
    return list(found.values())


def _versions(db: sqlite3.Connection, space: Space) -> dict[int, bytes]:
    query = "SELECT id, version FROM bucket WHERE space = ? ORDER BY id"
    versions: dict[int, bytes] = {}
    for number, version in db.execute(query, (space,)):
        if number < BUCKETS or versions.get(above(number)) == SPLIT_VERSION:
            versions[number] = sound(version)[0]
    return versions


def _parts(swaps: Sequence[Swap]) -> list[list[Swap]]:
    """Return the swaps in order, in parts of about WRITE_BYTES."""
    parts: list[list[Swap]] = []
    size = WRITE_BYTES
    for swap in swaps:
        if size >= WRITE_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(swap)
        size += len(swap.blob)
    return parts


def _swap(db: sqlite3.Connection, swaps: Sequence[Swap]) -> list[Swapped | Lost]:
    with _Transaction(db, durable=False):
        return [_swap_one(db, swap) for swap in swaps]


def _swap_one(db: sqlite3.Connection, swap: Swap) -> Swapped | Lost:
    key = (swap.space, swap.number)
    row = db.execute("SELECT version FROM bucket WHERE space = ? AND id = ?", key).fetchone()
    stored = EMPTY_VERSION if row is None else sound(*row)[0]
    if stored == swap.becomes:
        return Swapped(swap.becomes)
    if stored != swap.version:
        row = db.execute("SELECT data FROM bucket WHERE space = ? AND id = ?", key).fetchone()
        return Lost(stored, b"" if row is None else sound(stored, *row)[1])
    if swap.blob:
        db.execute(STORE_BUCKET, (*key, swap.becomes, swap.blob))
    else:
        db.execute("DELETE FROM bucket WHERE space = ? AND id = ?", key)
    return Swapped(swap.becomes)


def _swap_document(db: sqlite3.Connection, name: str, version: bytes, data: bytes) -> Swapped | Lost:
    with _Transaction(db, durable=True):
        return swap_document(db, name, version, data)


def _append_audit(db: sqlite3.Connection, entries: Sequence[AuditEntry]) -> None:
    rows = [(e.at, e.who, e.what, e.target, e.detail, e.reason) for e in bounded(entries)]
    columns = "(at, who, what, target, detail, reason)"
    with _Transaction(db, durable=True):
        db.executemany(f"INSERT INTO audit {columns} VALUES (?, ?, ?, ?, ?, ?)", rows)
        too_many = "id <= (SELECT max(id) FROM audit) - ?"
        db.execute(f"DELETE FROM audit WHERE {too_many}", (AUDIT_KEPT,))
        too_old = "SELECT id FROM audit WHERE at < ? ORDER BY id LIMIT ?"
        db.execute(f"DELETE FROM audit WHERE id IN ({too_old})", (oldest_kept(), dropped_for(len(rows))))


def _audit(db: sqlite3.Connection, limit: int, since: float, target: str | None) -> list[AuditEntry]:
    query = (
        "SELECT at, who, what, target, detail, reason FROM audit"
        " WHERE at >= ?1 AND (?2 IS NULL OR target = ?2) ORDER BY id DESC LIMIT ?3"
    )
    names = ("at", "who", "what", "target", "detail", "reason")
    since, target = max(since, oldest_kept()), None if target is None else bounded_text(target)
    rows = db.execute(query, (since, target, limit))
    return [AuditEntry(**dict(zip(names, row, strict=True))) for row in rows]


def _check_writable(db: sqlite3.Connection) -> None:
    """Write something. It fails if the disk is full or the file cannot be written.

    Writing what is stored already would prove nothing: SQLite sees that nothing changes, and writes nothing.
    """
    with _Transaction(db, durable=False):
        db.execute("INSERT INTO document VALUES ('', x'', x'')")
        db.execute("DELETE FROM document WHERE name = ''")


class _Transaction:
    """A context manager: all statements of the block take effect, or none.

    If `durable`, they and all earlier ones are on the disk after the block.
    """

    def __init__(self, db: sqlite3.Connection, *, durable: bool) -> None:
        self._db, self._durable = db, durable

    def __enter__(self) -> None:
        self._db.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is None:
            self._db.execute("COMMIT")
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
