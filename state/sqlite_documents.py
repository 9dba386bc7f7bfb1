"""Documents in a SQLite file, each of them twice: as a row of the table `document`, and as a second copy in
pieces, in rows of the table `bucket` under a space of their own.

The two are never in the same page of the file. A piece stands within one page, with a guard before and after
it, and can be told from everything else by itself. So whatever 500 bytes of the file are damaged, even over
the end of a page, a document or its copy is whole: where the damage is in the middle of a page with pieces it
is in no other page; elsewhere it reaches guards at most, and the pieces are found though SQLite cannot read
the file any more (`copies_in`).
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
"""Bytes before and after a piece."""
PIECE = 2400
"""Bytes of a document in a piece at most: with its guards it fits into a page of 4096, beside nothing."""
MAGIC = b"director: a copy of a document\n\0"
LENGTH, DIGEST = 2, 16
SPACE = "copy:"
"""Before the name of the document: the space of its pieces."""


class Piece(NamedTuple):
    """A part of a document."""

    name: str
    generation: int
    """Grows with each writing of the document."""
    number: int
    of: int
    data: bytes


def read_document(db: sqlite3.Connection, name: str) -> Document | None:
    """As it is stored, whole or not."""
    row = db.execute("SELECT version, data FROM document WHERE name = ?", (name,)).fetchone()
    return None if row is None else Document(*sound(*row))


def swap_document(db: sqlite3.Connection, name: str, version: bytes, data: bytes) -> Swapped | Lost:
    """Write it and its second copy, unless another version is stored. Within a transaction."""
    new = version_of(data)
    stored = read_document(db, name) or Document(EMPTY_VERSION, b"")
    if stored.version not in (version, new):
        return Lost(stored.version, stored.data)
    # Also where it is stored already: the caller is told it is durable, so this commit makes it so.
    put_document(db, name, data)
    return Swapped(new)


def put_document(db: sqlite3.Connection, name: str, data: bytes) -> None:
    """Write it and its second copy, whatever is stored. Within a transaction."""
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
    """None where there is none, or it is damaged, too."""
    query = "SELECT data FROM bucket WHERE space = ? ORDER BY id"
    rows = b"".join(data for (data,) in db.execute(query, (SPACE + name,)) if isinstance(data, bytes))
    data = _latest(_found(rows)).get(name)
    return Document(version_of(data), data) if data else None


def copies_in(*contents: bytes | mmap.mmap) -> dict[str, bytes]:
    """The documents whose latest complete copy is in the bytes of a file, or of the log beside it, however
    damaged they are; empty: one that was removed."""
    return _latest(piece for content in contents for piece in _found(content))


def sound(version: bytes, data: bytes = b"") -> tuple[bytes, bytes]:
    """The same. From a damaged file SQLite may hand out other types than it was given."""
    if not isinstance(version, bytes) or len(version) != VERSION_SIZE or not isinstance(data, bytes):
        raise damage("a row whose version or data is damaged")
    return version, data


def damage(text: str) -> sqlite3.DatabaseError:
    """What is raised where SQLite does not see the damage, so that it is treated as if it did."""
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
    """All whole pieces in it, old ones too."""
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
    """The documents of which all pieces of a generation are there: of the latest such."""
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
