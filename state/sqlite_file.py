"""The file behind a SQLite store: its lock, its damage, its layout. All this runs in the store's thread."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from state.base import Layout, Step, StoreBusy, StoreError, StoreRefused, StoreUnavailable
from state.migrate import SqlStep, layout, migrate_sqlite, sqlite_schema

DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

ADVICE = {
    sqlite3.SQLITE_FULL: ("disk full", "free some space on its disk; what changed meanwhile is written then"),
    sqlite3.SQLITE_READONLY: ("read-only", "make the file and its folder writable for this user"),
    sqlite3.SQLITE_CANTOPEN: ("cannot open", "check that the folder exists and is writable for this user"),
    sqlite3.SQLITE_PERM: ("no permission", "make the file and its folder writable for this user"),
}


class DatabaseFile:
    """One SQLite file, opened by at most one process."""

    def __init__(self, path: Path, store: str, timeout: float, steps: Sequence[SqlStep]) -> None:
        self.path, self._store, self._timeout, self._steps = path, store, timeout, steps
        self._lock: int | None = None
        self._connection: sqlite3.Connection | None = None
        self.step: Step | None = None
        """The migration that is running now."""

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, in autocommit mode. Opened again where beginning anew had failed half-way."""
        if self._connection is None:
            self._connect()
        assert self._connection is not None
        return self._connection

    def open(self) -> Path | None:
        """Lock, check, migrate. Returns where a damaged file was put, if it was one.

        Raises StoreBusy, StoreRefused, SchemaTooNew, sqlite3.Error, OSError.
        """
        if not self.path.parent.is_dir():
            advice = f"create {self.path.parent}, or name another file"
            raise StoreRefused(self._store, "open", "no folder", advice)
        self._take_lock()
        try:
            self._connect()
            return None
        except BaseException as exc:
            if not is_damage(exc):
                self.close()
                raise
        return self.begin_anew()

    def layout(self) -> Layout:
        """What `open` would find. Makes no file, moves none, writes to none but the lock.

        Raises StoreBusy, StoreRefused (also where the file is damaged), sqlite3.Error, OSError.
        """
        if not self.path.exists():
            return layout(0, self._steps)
        self._take_lock()
        try:
            with contextlib.closing(sqlite3.connect(self._uri("rw"), uri=True)) as db:
                return layout(self._healthy_schema(db), self._steps, self.path.stat().st_size)
        except sqlite3.DatabaseError as exc:
            if not is_damage(exc):
                raise
            advice = (
                f"{self.path} is damaged ({exc}): a director that starts sets it aside and begins a new one"
            )
            raise StoreRefused(self._store, "layout", "damaged", advice) from exc
        finally:
            self.close()

    def close(self) -> None:
        """Close the file, then let go of the lock."""
        self._disconnect()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def begin_anew(self) -> Path:
        """Rename the file with its -wal and -shm, and begin an empty one. Returns the old one's new name."""
        self._disconnect()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        copy = 1
        while aside.exists():
            copy += 1
            aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}-{copy}")
        self.path.rename(aside)
        for suffix in ("-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        self._connect()
        return aside

    def _take_lock(self) -> None:
        lock = self.path.with_name(self.path.name + ".lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StoreBusy(self._store, self.path, f"process {holder}" if holder else "") from exc
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._lock = descriptor

    def _connect(self) -> None:
        os.close(
            os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        )  # who has mail here is nobody else's business
        db = sqlite3.connect(self.path, timeout=self._timeout, isolation_level=None, check_same_thread=False)
        self._connection = db
        try:
            migrate_sqlite(db, self._store, self._healthy_schema(db), self._steps, self._begun)
        finally:
            self.step = None
        db.execute("PRAGMA journal_mode = WAL")

    def _begun(self, step: Step) -> None:
        self.step = step

    def _healthy_schema(self, db: sqlite3.Connection) -> int:
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            exc = sqlite3.DatabaseError(f"quick_check: {verdict}")
            exc.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise exc
        found = sqlite_schema(db)
        if found is None:
            advice = f"{self.path} is the database of another program: name another file"
            raise StoreRefused(self._store, "open", "not a state file", advice)
        return found

    def _uri(self, mode: str) -> str:
        return f"{self.path.absolute().as_uri()}?mode={mode}"

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()


def is_damage(exc: BaseException) -> bool:
    """Whether SQLite says that the file itself is broken."""
    return _code(exc) in DAMAGE


def translated(exc: sqlite3.Error | OSError, store: str, operation: str) -> StoreError:
    """The same in the words of a store: refused where somebody has to do something, else unavailable."""
    code = _code(exc)
    if code in ADVICE:
        return StoreRefused(store, operation, *ADVICE[code])
    if isinstance(exc, PermissionError):
        return StoreRefused(store, operation, *ADVICE[sqlite3.SQLITE_PERM])
    if code in DAMAGE:
        return StoreUnavailable(store, operation, reason=f"the file was damaged and is set aside ({exc})")
    return StoreUnavailable(store, operation, reason=str(exc))


def _code(exc: BaseException) -> int:
    """SQLite's primary result code; -1 where there is none."""
    code = getattr(exc, "sqlite_errorcode", None)
    return -1 if code is None else int(code) & 0xFF
