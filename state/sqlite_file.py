"""The file of a SQLite store: its lock, its layout, and what happens if it is damaged.

All of it runs in the store's thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from state.base import Layout, Step, StoreBusy, StoreError, StoreRefused, StoreUnavailable, version_of
from state.migrate import SqlStep, layout, migrate_sqlite, sqlite_schema
from state.sqlite_documents import damage
from state.sqlite_owner import advice_for_another_user
from state.sqlite_salvage import salvage
from state.sqlite_watch import Watch

DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

LOGS = ("-wal", "-shm")
"""The endings of the names of the files that SQLite keeps beside the file."""
SET_ASIDE = 10
"""The most damaged files that are kept. If there is one more, something damages the file again and again."""

_FULL = ("disk full", "free some space on its disk; changes wait in memory and are written then")
_PERMISSION = ("no permission", "make the file and its folder writable for this user")
_READ_ONLY = ("read-only", "make the file and its folder, and the file system, writable for this user")

_CANNOT_OPEN = ("cannot open", "check that the folder exists and is writable for this user")
_RIGHTS = (_PERMISSION, _READ_ONLY, _CANNOT_OPEN)

ADVICE = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: _CANNOT_OPEN,
    sqlite3.SQLITE_PERM: _PERMISSION,
}
OS_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
}


class DatabaseFile:
    """A SQLite file that at most one process has open."""

    def __init__(self, path: Path, store: str, timeout: float, steps: Sequence[SqlStep]) -> None:
        self.path, self._store, self._timeout, self._steps = path, store, timeout, steps
        self._lock: int | None = None
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        """The device and inode number of the file that the connection has open."""
        self._watch = Watch(path)
        self.step: Step | None = None
        """The migration that is running; None: no migration is running."""

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, in autocommit mode.

        It is opened again if `begin_anew` failed before it had opened the new file.
        """
        if self._connection is None:
            self._connect()
        assert self._connection is not None
        return self._connection

    def open(self) -> Path | None:
        """Lock the file, check it, and bring it to the newest schema.

        Returns:
            The path of the damaged file that was set aside; None: the file was not damaged.

        Raises:
            StoreBusy: another process uses the file.
            StoreRefused: the folder is missing, or the file is damaged and SET_ASIDE damaged files exist
                already.
            SchemaTooNew: a newer program wrote the file.
            sqlite3.Error: SQLite refuses.
            OSError: the system refuses.
        """
        if not self.path.parent.is_dir():
            advice = f"create {self.path.parent}, or name another file"
            raise StoreRefused(self._store, "open", "no folder", advice)
        self._check_kind("open")
        self._take_lock()
        try:
            try:
                self._connect()
                return None
            except sqlite3.DatabaseError as exc:
                if not is_damage(exc):
                    raise
            return self.begin_anew()
        except BaseException:
            self.close()
            raise

    def layout(self) -> Layout:
        """Return what `open` would find. It makes and moves no files and writes only to the lock.

        Raises:
            StoreBusy: another process uses the file.
            StoreRefused: the file is damaged, or is no state file.
            sqlite3.Error: SQLite refuses.
            OSError: the system refuses.
        """
        if not self.path.exists():
            return layout(0, self._steps)
        self._check_kind("layout")
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
        """Close the file, then release the lock."""
        self._disconnect()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def begin_anew(self) -> Path:
        """Begin a new file with all that can be read of the damaged file.

        The damaged file gets another name, with its -wal and -shm.

        Returns:
            The new path of the damaged file.

        Raises:
            StoreRefused: there are SET_ASIDE damaged files already.
            sqlite3.Error: SQLite refuses.
            OSError: the system refuses.
        """
        self._disconnect()
        damaged = list(self.path.parent.glob(f"{glob.escape(self.path.name)}.damaged-*Z*"))
        if len([file for file in damaged if not file.name.endswith(("-wal", "-shm"))]) >= SET_ASIDE:
            advice = (
                f"the file is damaged for the {SET_ASIDE + 1}th time: check the disk and its file system,"
                f" then remove {self.path}.damaged-*"
            )
            raise StoreRefused(self._store, "set aside", "damaged again", advice)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        copy = 1
        while aside.exists():
            copy += 1
            aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}-{copy}")
        new = self._salvaged()
        if self.path.exists():
            os.link(self.path, aside)
        for suffix in LOGS:  # before the new file gets the name: SQLite would apply these logs to it
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        new.replace(self.path)
        self._connect()
        return aside

    def _salvaged(self) -> Path:
        """Make a new file beside the damaged file, with what can be read of it."""
        new = self.path.with_name(self.path.name + ".new")
        for suffix in ("", *LOGS):
            new.with_name(new.name + suffix).unlink(missing_ok=True)
        os.close(os.open(new, os.O_RDWR | os.O_CREAT, 0o600))
        with contextlib.closing(sqlite3.connect(new, timeout=self._timeout, isolation_level=None)) as db:
            try:
                migrate_sqlite(db, self._store, 0, self._steps, self._begun)
            finally:
                self.step = None
            if self.path.exists():
                salvage(self.path, db)
        return new

    def was_replaced(self) -> bool:
        """Whether the path leads to another file by now, or to none: then writes to the open file would be
        lost."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return self._inode is not None
        return self._inode is not None and self._inode != (found.st_dev, found.st_ino)

    def what_happened(self) -> str:
        """Return what another program did to the files since `note` that may lose what is written to them;
        empty: nothing.

        Raises:
            sqlite3.DatabaseError: reading the file shows damage.
        """
        if self._connection is None:
            return ""
        if changed := self._watch.changed():
            return changed
        name = self._watch.written()
        if name and not self._is_sound(self._connection):
            return f"another program has written to {name}"
        if name:
            self._watch.note()
        return ""

    def what_shrunk(self) -> str:
        """Return what happened to the files while this process wrote to them; empty: nothing unexpected."""
        return self._watch.shrunk() if self._connection is not None else ""

    def note(self) -> None:
        """Record the present state of the files as the state in which this process left them."""
        if self._connection is not None:
            self._watch.note()

    def note_job(self, changes: int) -> None:
        """Record the state of the files after a job without error.

        Args:
            changes: rows that had been written before the job. If the job has written none, nothing is
                recorded, because the files must be unchanged.
        """
        if self._connection is not None and self._connection.total_changes != changes:
            self._watch.note_written()

    def _is_sound(self, db: sqlite3.Connection) -> bool:
        """Whether all that is stored can be read from the files.

        If so, it is in the main file afterwards, because the log may be damaged in a part that only the next
        start would read.
        """
        db.execute("PRAGMA shrink_memory")
        with messages_are_text():
            (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                return False
            for table in ("bucket WHERE space IN ('users', 'names')", "document"):
                for version, data in db.execute(f"SELECT version, data FROM {table}"):
                    if version != version_of(data):
                        return False
        (busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def let_go(self) -> None:
        """Close a file that was replaced, but keep the lock.

        The next use opens the file that has the name then.
        """
        self._disconnect()
        for suffix in LOGS:  # logs of the old file: SQLite would apply them to the new one
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def _check_kind(self, operation: str) -> None:
        """Refuse a folder, pipe or device: it cannot be set aside, and perhaps not even be read to its
        end."""
        if self.path.exists() and not self.path.is_file():
            advice = f"{self.path} is not a regular file: remove it, or name another file"
            raise StoreRefused(self._store, operation, "not a file", advice)

    def _take_lock(self) -> None:
        lock = self.path.with_name(self.path.name + ".lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StoreBusy(self._store, self.path, f"process {holder}" if holder else "") from exc
        self._lock = descriptor
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except OSError:
            self.close()
            raise

    def _connect(self) -> None:
        # Mode 0600: the names of users are in the file.
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        found = os.fstat(descriptor)
        self._inode = found.st_dev, found.st_ino
        os.close(descriptor)
        db = sqlite3.connect(self.path, timeout=self._timeout, isolation_level=None, check_same_thread=False)
        db.text_factory = as_text
        self._connection = db
        try:
            migrate_sqlite(db, self._store, self._healthy_schema(db), self._steps, self._begun)
        finally:
            self.step = None
        db.execute("PRAGMA journal_mode = WAL")
        self._watch.note()

    def _begun(self, step: Step) -> None:
        self.step = step

    def _healthy_schema(self, db: sqlite3.Connection) -> int:
        with messages_are_text():
            # Not quick_check: it does not find a bucket that is missing in an index, which some queries find
            # and others do not.
            (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise damage(f"integrity_check: {verdict}")
            found = sqlite_schema(db)
            if found is None:
                advice = f"{self.path} is the database of another program: name another file"
                raise StoreRefused(self._store, "open", "not a state file", advice)
            self._check_columns(db, found)
        return found

    def _check_columns(self, db: sqlite3.Connection, found: int) -> None:
        """Compare the columns with those of an empty database of this schema.

        SQLite itself checks no names.
        """
        if found > len(self._steps):
            return  # a newer schema, whose columns this program does not know
        columns = _columns(db)
        if found < 0 or (found == 0 and columns):
            raise damage(f"schema {found} does not exist")
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
            migrate_sqlite(model, self._store, 0, self._steps[:found], lambda step: None)
            if missing := _columns(model) - columns:
                raise damage(f"columns are missing: {', '.join(map('.'.join, sorted(missing)))}")

    def _uri(self, mode: str) -> str:
        return f"{self.path.absolute().as_uri()}?mode={mode}"

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection, self._inode = self._connection, None, None
            self._watch.forget()
            connection.close()


@contextlib.contextmanager
def messages_are_text() -> Iterator[None]:
    """Turn a UnicodeDecodeError into damage: SQLite quotes a damaged schema in a message that Python
    cannot decode."""
    try:
        yield
    except UnicodeDecodeError as exc:
        raise damage(repr(exc.object[:200])) from exc


def is_damage(exc: BaseException) -> bool:
    """Whether SQLite says that the file itself is damaged."""
    return _code(exc) in DAMAGE


def translated(exc: sqlite3.Error | OSError, store: str, operation: str, path: Path) -> StoreError:
    """Return the StoreError for an error: StoreRefused if an operator has to act, else StoreUnavailable."""
    code = _code(exc)
    known = OS_ADVICE.get(exc.errno or 0) if isinstance(exc, OSError) else ADVICE.get(code)
    if getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_SHMSIZE:
        known = _FULL
    if known is not None:
        advice = advice_for_another_user(path) if known in _RIGHTS else ""
        return StoreRefused(store, operation, known[0], advice or known[1])
    if code in DAMAGE:
        return StoreUnavailable(store, operation, reason=f"the file was damaged and is set aside ({exc})")
    if code == sqlite3.SQLITE_IOERR:
        name = getattr(exc, "sqlite_errorname", "")
        reason = f"{exc} ({name}): the disk or its file system failed, see the kernel's log"
        return StoreUnavailable(store, operation, reason=reason)
    return StoreUnavailable(store, operation, reason=str(exc))


def as_text(data: bytes) -> str:
    """Return `data` as text. Damaged characters are replaced, so that the rest can be read."""
    return data.decode("utf-8", "replace")


def _columns(db: sqlite3.Connection) -> set[tuple[str, str]]:
    """Return the columns of all tables as pairs (table, column)."""
    query = (
        "SELECT tables.name, columns.name FROM sqlite_master AS tables,"
        " pragma_table_info(tables.name) AS columns WHERE tables.type = 'table'"
    )
    return set(db.execute(query))


def _code(exc: BaseException) -> int:
    """Return SQLite's primary result code of an exception; -1 if it has none."""
    code = getattr(exc, "sqlite_errorcode", None)
    return -1 if code is None else int(code) & 0xFF
