"""Copies all rows of a damaged SQLite file that prove to be undamaged into a new file.

The versions of documents and buckets are digests, which prove it. Entries of the audit have no digest; those
that can be read are taken. SQLite is asked first. Rows that it does not return are searched page by page.
There an old form of an overwritten row may be found; it is taken only if there is no other.
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
    """The number of rows that were copied."""

    documents: int
    buckets: int
    audit: int


def salvage(damaged: Path, db: sqlite3.Connection) -> Salvaged:
    """Copy the readable rows of a damaged file into the empty file that `db` has open.

    This process must not have the damaged file open with SQLite: reading it here would release SQLite's
    locks.

    Raises:
        sqlite3.Error, OSError: the new file cannot be written, or the damaged file not be opened.
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
        # The rows take precedence over the copies: they are as new or newer, since an older release writes no
        # copies.
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
    """Rows that SQLite reads from a damaged file, without writing to it."""

    def __init__(self, file: Path, has_log: bool) -> None:
        """Keep the path.

        Args:
            file: the damaged file.
            has_log: whether it has a write-ahead log. Then SQLite is not asked: it would have to apply the
                log first.
        """
        self._file, self._has_log = file, has_log
        self.complete = True
        """Whether all queries were read to their end."""
        self._db: sqlite3.Connection | None = None

    def rows(self, query: str) -> Iterator[tuple[Value, ...]]:
        """Yield the rows of a query as far as they can be read."""
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
    """Add the document of a row, if it is undamaged and not among `documents` already."""
    match row:
        case (str(name), bytes(version), bytes(data)) if _is_undamaged(version, data):
            documents.setdefault(name, data)


def _put(db: sqlite3.Connection, number: Value, row: Sequence[Value]) -> None:
    match row:
        case (str(space), int(id), bytes(version), bytes(data)):
            if space in SPACES and 0 <= id < NUMBERS and _is_undamaged(version, data):
                db.execute(PUT_BUCKET, (space, id, version, data))
        case (_, float() | int() as at, str(), str(), str(), str(), str()) if isinstance(number, int):
            db.execute(PUT_AUDIT, (number, float(at), *row[2:]))


def _is_undamaged(version: Value, data: Value) -> bool:
    return isinstance(data, bytes) and bool(data) and version == version_of(data)


def _mark_split(db: sqlite3.Connection) -> None:
    """Enter the mark of each bucket that has buckets below it but is missing: it was split, and its mark
    is lost."""
    for space in SPACES:
        query = "SELECT id FROM bucket WHERE space = ? AND id >= ?"
        for (number,) in db.execute(query, (space, BUCKETS)).fetchall():
            while number >= BUCKETS:
                number = above(number)
                db.execute(PUT_BUCKET, (space, number, SPLIT_VERSION, SPLIT))
