"""What can be read of a damaged SQLite file, copied into a new one: all that says itself that it is whole.

Documents and buckets are checked by their versions, which are digests. Entries of the audit have none: those
that can be read are taken. SQLite is asked first. What it does not give is looked for page by page, where an
old form of a row may be left that was written over since: it counts where there is nothing else.
"""

from __future__ import annotations

import mmap
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from state.base import SPACES, SPLIT, SPLIT_VERSION, version_of
from state.bucketnumbers import BUCKETS, NUMBERS, above
from state.sqlite_documents import copies_in, put_document
from state.sqlite_pages import Content, Value, rows_in

PUT_BUCKET = "INSERT OR IGNORE INTO bucket (space, id, version, data) VALUES (?, ?, ?, ?)"
PUT_AUDIT = "INSERT OR IGNORE INTO audit VALUES (?, ?, ?, ?, ?, ?, ?)"


class Salvaged(msgspec.Struct, frozen=True):
    """How much of it could be read."""

    documents: int
    buckets: int
    audit: int


def salvage(damaged: Path, db: sqlite3.Connection) -> Salvaged:
    """Copy into the empty file that `db` has open what can be read of another, which this process must not
    have open: it would lose SQLite's locks. Raises sqlite3.Error, OSError where something cannot be written.
    """
    log = damaged.with_name(damaged.name + "-wal")
    log_content = log.read_bytes() if log.exists() else b""
    db.execute("BEGIN IMMEDIATE")
    with _content(damaged) as content, closing(_Selection(damaged, bool(log_content))) as selection:
        documents: dict[str, bytes] = {}
        for row in selection.rows("SELECT name, version, data FROM document"):
            _take_document(documents, row)
        for row in selection.rows("SELECT space, id, version, data FROM bucket"):
            _put(db, 0, row)
        for row in selection.rows("SELECT * FROM audit"):
            _put(db, row[0], row)
        # What SQLite gives of a document is as new as its copy, or newer: an older release writes no copies.
        documents = copies_in(content, log_content) | documents
        if not selection.complete:
            for number, values in rows_in(content, log_content):
                _take_document(documents, values)
                _put(db, number, values)
    for name, data in documents.items():
        if data:
            put_document(db, name, data)
    _mark_split(db)
    db.execute("COMMIT")
    (buckets,) = db.execute("SELECT count(*) FROM bucket WHERE space IN (?, ?)", SPACES).fetchone()
    (audit,) = db.execute("SELECT count(*) FROM audit").fetchone()
    return Salvaged(sum(map(bool, documents.values())), buckets, audit)


class _Selection:
    """What SQLite reads of a damaged file, without writing to it."""

    def __init__(self, file: Path, has_log: bool) -> None:
        """has_log: then it is not asked, for it would have to apply the log first."""
        self._file, self._has_log = file, has_log
        self.complete = True
        """Whether all that was asked for was read to its end."""
        self._db: sqlite3.Connection | None = None

    def rows(self, query: str) -> Iterator[tuple[Value, ...]]:
        """As far as they can be read."""
        if self._has_log:
            self.complete = False
            return
        try:
            if self._db is None:
                self._db = sqlite3.connect(f"{self._file.absolute().as_uri()}?immutable=1", uri=True)
            yield from self._db.execute(query)
        except (sqlite3.Error, UnicodeDecodeError):
            self.complete = False

    def close(self) -> None:
        if self._db is not None:
            self._db.close()


@contextmanager
def _content(file: Path) -> Iterator[Content]:
    with file.open("rb") as opened:
        if not file.stat().st_size:
            yield b""
            return
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


def _take_document(documents: dict[str, bytes], row: Sequence[Value]) -> None:
    """Unless it is there already."""
    match row:
        case (str(name), bytes(version), bytes(data)) if _is_whole(version, data):
            documents.setdefault(name, data)


def _put(db: sqlite3.Connection, number: Value, row: Sequence[Value]) -> None:
    match row:
        case (str(space), int(id), bytes(version), bytes(data)):
            if space in SPACES and 0 <= id < NUMBERS and _is_whole(version, data):
                db.execute(PUT_BUCKET, (space, id, version, data))
        case (_, float() | int() as at, str(), str(), str(), str(), str()) if isinstance(number, int):
            db.execute(PUT_AUDIT, (number, float(at), *row[2:]))


def _is_whole(version: Value, data: Value) -> bool:
    return isinstance(data, bytes) and bool(data) and version == version_of(data)


def _mark_split(db: sqlite3.Connection) -> None:
    """A bucket was split if something is below it, and it is not there itself: its mark is lost."""
    for space in SPACES:
        query = "SELECT id FROM bucket WHERE space = ? AND id >= ?"
        for (number,) in db.execute(query, (space, BUCKETS)).fetchall():
            while number >= BUCKETS:
                number = above(number)
                db.execute(PUT_BUCKET, (space, number, SPLIT_VERSION, SPLIT))
