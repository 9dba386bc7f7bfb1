"""Documents in a SQLite file.

Each is stored twice: as a row of the table `document`, and as a second copy in pieces, in rows of the table
`bucket` under a space for copies.

The document and its copy are never in the same page of the file. A piece lies within one page, with a guard
before and after it, and can be recognized without SQLite. So if any 500 consecutive bytes of the file are
damaged, even across the border of two pages, the document or its copy is undamaged. Damage in the middle of a
page with pieces is in no other page. Damage elsewhere reaches guards at most, and the pieces are found even
if SQLite can no longer read the file (`copies_in`).
"""

from __future__ import annotations

import hashlib
import mmap
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from state.aside import is_set_aside
from state.base import EMPTY_VERSION, VERSION_SIZE, Document, Lost, Swapped, version_of

GUARD = 520
"""The number of zero bytes before and after a piece."""
PIECE = 2400
"""The most bytes of a document in a piece. With its guards a piece
fits into a page of 4096 bytes, but two full pieces do not."""
MAGIC = b"director: a copy of a document\n\0"
LENGTH, DIGEST = 2, 16
SPACE = "copy:"
"""The prefix of the space for the pieces of a document; the document's name follows."""


class Piece(NamedTuple):
    """A part of the copy of a document."""

    name: str
    generation: int
    """A number that grows with each write of the document."""
    number: int
    of: int
    data: bytes


def read_document(db: sqlite3.Connection, name: str) -> Document | None:
    """Return the document as stored, damaged or not; None: it does not exist."""
    row = db.execute("SELECT version, data FROM document WHERE name = ?", (name,)).fetchone()
    return None if row is None else Document(*sound(*row))


def swap_document(db: sqlite3.Connection, name: str, version: bytes, data: bytes) -> Swapped | Lost:
    """Write a document and its second copy, unless another version is stored.

    Call it within a transaction.
    """
    new = version_of(data)
    stored = read_document(db, name) or Document(EMPTY_VERSION, b"")
    if stored.version not in (version, new):
        return Lost(stored.version, stored.data)
    # Write even if the same data is stored: the result promises durability, and this commit provides it.
    put_document(db, name, data)
    return Swapped(new)


def put_document(db: sqlite3.Connection, name: str, data: bytes) -> None:
    """Write a document and its second copy, whatever is stored. Call it within a transaction."""
    if data:
        db.execute("INSERT OR REPLACE INTO document VALUES (?, ?, ?)", (name, version_of(data), data))
    else:
        db.execute("DELETE FROM document WHERE name = ?", (name,))
    if is_set_aside(name):
        return
    space = SPACE + name
    (latest,) = db.execute("SELECT max(version) FROM bucket WHERE space = ?", (space,)).fetchone()
    generation = int.from_bytes(latest) + 1 if isinstance(latest, bytes) else 1
    db.execute("DELETE FROM bucket WHERE space = ?", (space,))
    rows = [
        (space, piece.number, generation.to_bytes(VERSION_SIZE), _written(piece))
        for piece in _pieces(name, generation, data)
    ]
    db.executemany("INSERT INTO bucket (space, id, version, data) VALUES (?, ?, ?, ?)", rows)


def second_copy(db: sqlite3.Connection, name: str) -> Document | None:
    """Return the second copy of a document; None: there is none, or it is damaged too."""
    query = "SELECT data FROM bucket WHERE space = ? ORDER BY id"
    rows = b"".join(data for (data,) in db.execute(query, (SPACE + name,)) if isinstance(data, bytes))
    data = _latest(_found(rows)).get(name)
    return Document(version_of(data), data) if data else None


def copies_in(*contents: bytes | mmap.mmap) -> dict[str, bytes]:
    """Return the documents whose latest complete copy is in the bytes of a file, or of the write-ahead log
    beside it, however damaged these are. Empty data: the document was removed."""
    return _latest(piece for content in contents for piece in _found(content))


def sound(version: bytes, data: bytes = b"") -> tuple[bytes, bytes]:
    """Return the arguments if their types are right.

    SQLite may read other types than it wrote from a damaged file.
    """
    if not isinstance(version, bytes) or len(version) != VERSION_SIZE or not isinstance(data, bytes):
        raise damage("a row whose version or data is damaged")
    return version, data


def damage(text: str) -> sqlite3.DatabaseError:
    """Return an exception for damage that SQLite does not see, with the code that SQLite would use."""
    exc = sqlite3.DatabaseError(text)
    exc.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return exc


def _pieces(name: str, generation: int, data: bytes) -> list[Piece]:
    parts = [data[at : at + PIECE] for at in range(0, len(data), PIECE)] or [b""]
    return [Piece(name, generation, number, len(parts), part) for number, part in enumerate(parts)]


def _written(piece: Piece) -> bytes:
    body = msgspec.msgpack.encode(piece)
    guard = bytes(GUARD)
    return b"".join((guard, MAGIC, len(body).to_bytes(LENGTH), _digest(body), body, guard))


def _found(content: bytes | mmap.mmap) -> Iterator[Piece]:
    """Yield all undamaged pieces in the bytes, old ones too."""
    at = content.find(MAGIC)
    while at >= 0:
        begin = at + len(MAGIC)
        body_begin = begin + LENGTH + DIGEST
        length = int.from_bytes(content[begin : begin + LENGTH])
        body = content[body_begin : body_begin + length]
        if _digest(body) == content[begin + LENGTH : body_begin]:
            yield msgspec.msgpack.decode(body, type=Piece)
        at = content.find(MAGIC, at + 1)


def _latest(pieces: Iterator[Piece]) -> dict[str, bytes]:
    """Return each document from its latest generation of which all pieces are present."""
    kept: dict[tuple[str, int], dict[int, Piece]] = {}
    for piece in pieces:
        kept.setdefault((piece.name, piece.generation), {})[piece.number] = piece
    documents: dict[str, bytes] = {}
    for (name, _), parts in sorted(kept.items()):
        if len(parts) == parts[min(parts)].of:
            documents[name] = _joined(parts)
    return documents


def _joined(parts: dict[int, Piece]) -> bytes:
    return b"".join(parts[number].data for number in sorted(parts))


def _digest(body: bytes) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).digest()
