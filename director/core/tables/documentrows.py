"""Rows of a stored document. Each has its own checksum, so that damage to one row costs no other row.

A row is a msgpack array of at most 14 plain values. Its checksum is one more value at its end: older
directors ignore it. A document without checksums is read too. If a document is truncated or overwritten,
every position in it is tried as the beginning of a row.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

import msgspec

from director.core.protocol.steps import Steps, finished

CHECKSUM = 8
"""Bytes of a checksum: the first bytes of the MD5 of the row's owner and of the row's encoded values."""
MARK = bytes([0xC4, CHECKSUM])
"""How msgpack begins a value of so many bytes."""
FIXARRAY, MOST_VALUES = 0x90, 15
STEP = 100
"""Rows that are checked, or decoded, in one step."""

SIZES = {0xC0: 1, 0xC2: 1, 0xC3: 1} | {
    code: size
    for codes, sizes in ((range(0xCA, 0xCC), (5, 9)), (range(0xCC, 0xD4), (2, 3, 5, 9) * 2))
    for code, size in zip(codes, sizes, strict=True)
}
"""Bytes of plain msgpack values, by their first byte. All other values have a length in their heads."""
LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""Bytes of the length that follows the first byte of texts and byte strings."""

_array = msgspec.msgpack.Decoder(list[msgspec.Raw])
_map = msgspec.msgpack.Decoder(dict[str, list[msgspec.Raw]])

Row = TypeVar("Row", bound=msgspec.Struct)


class DocumentRows(NamedTuple, Generic[Row]):
    """The rows that could be read of a document, or of a part of it."""

    rows: list[Row]
    number: int
    """How many rows there were, as far as that is known."""
    problems: list[str]
    """One error text for each row that could not be read."""


class Found(NamedTuple):
    """A row without its checksum."""

    plain: bytes
    checked: bool | None
    """Whether the checksum is right; None: there is none."""


def with_checksum(row: msgspec.Struct, owner: bytes = b"") -> msgspec.Raw:
    """Return a row with its checksum at the end.

    Args:
        owner: what the row belongs to, if the document says that once for many rows.

    Raises:
        ValueError: the row has too many values.
    """
    plain = msgspec.msgpack.encode(row)
    count = plain[0] - FIXARRAY
    if not 0 <= count < MOST_VALUES:
        raise ValueError(f"a row of {type(row).__name__} has too many values for a checksum")
    return msgspec.Raw(bytes([FIXARRAY + count + 1]) + plain[1:] + MARK + _checksum(owner, plain[1:]))


def read_rows(data: bytes, kind: type[Row]) -> DocumentRows[Row]:
    """Return the rows of a document that is an array of rows. Never raises."""
    return finished(rows_in_steps(data, kind))


def rows_in_steps(data: bytes, kind: type[Row]) -> Steps[DocumentRows[Row]]:
    """Return what `read_rows` returns, some rows in each step."""
    parts = split_array(data)
    found = None if parts is None else (yield from sound_in_steps(parts, kind))
    if found is not None and not found.problems:
        return found
    # A wrong length hides the rows behind it, or turns other bytes into rows. So every position is tried too.
    rows = (yield from sound_in_steps(_scan(data), kind)).rows
    if found is not None:
        rows = max(rows, found.rows, key=len)
    number = max(_announced(data), len(rows) + 1)
    problem = found.problems[0] if found is not None else "the document is truncated or overwritten"
    return DocumentRows(rows, number, [problem] * (number - len(rows)))


def sound_in_steps(
    parts: Iterable[bytes], kind: type[Row], owner: bytes = b"", *, only_checked: bool = False
) -> Steps[DocumentRows[Row]]:
    """Return those of these values that are rows and are right, some of them in each step.

    Args:
        parts: the values, encoded.
        kind: the type of the rows.
        owner: as in `with_checksum`.
        only_checked: whether a row without a checksum is wrong. It is wrong in any case if another row has a
            right checksum.
    """
    found = []
    for part in parts:
        found.append(_found(part, owner))
        if len(found) % STEP == 0:
            yield
    only_checked |= any(one.checked for one in found)
    rows, problems = [], []
    decoder = msgspec.msgpack.Decoder(kind)
    for number, (plain, checked) in enumerate(found, 1):
        if number % STEP == 0:
            yield
        if checked is False or (only_checked and not checked):
            problems.append("a row's checksum is not that of its content")
            continue
        try:
            rows.append(decoder.decode(plain))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            problems.append(f"a row cannot be read: {exc}")
    return DocumentRows(rows, len(found), problems)


def split_array(data: bytes) -> list[bytes] | None:
    """Return the encoded values of an array; None: `data` is not an array."""
    try:
        return [bytes(value) for value in _array.decode(data)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def split_map(data: bytes) -> list[tuple[str, list[bytes]]] | None:
    """Return the keys of a map of arrays, each with its encoded values; None: `data` is not such a map."""
    try:
        pairs = _map.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return [(key, [bytes(value) for value in values]) for key, values in pairs.items()]


def scan_map(data: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Iterate over everything in the data that may be a key of a map followed by an array, at any
    position."""
    at = 0
    while at < len(data):
        try:
            end = _end(data, at)
            key = msgspec.msgpack.decode(data[at:end], type=str)
        except (IndexError, ValueError, msgspec.DecodeError):
            at += 1
            continue
        with contextlib.suppress(IndexError, ValueError):
            yield key, _values_from(data, end)
        at += 1


def _announced(data: bytes) -> int:
    """Return how many rows a document announces; 0: it announces no number that is possible."""
    try:
        count, _ = _header(data, 0, FIXARRAY, 0xDC)
    except (IndexError, ValueError):
        return 0
    return count if count < len(data) else 0


def _scan(data: bytes) -> Iterator[bytes]:
    """Iterate over everything in the data that may be a row, at any position.

    The inside of a row is skipped if the row's checksum is right.
    """
    at = 0
    while at < len(data):
        if FIXARRAY < data[at] <= FIXARRAY + MOST_VALUES:
            try:
                end = _end(data, at)
            except (IndexError, ValueError):
                at += 1
                continue
            yield data[at:end]
            at = end if _found(data[at:end], b"").checked else at + 1
        else:
            at += 1


def _values_from(data: bytes, at: int) -> list[bytes]:
    """Return the encoded values of the array that begins at a position.

    Raises ValueError or IndexError if none does.
    """
    count, at = _header(data, at, FIXARRAY, 0xDC)
    if not count:
        raise ValueError("it is empty")
    values = []
    for _ in range(count):
        end = _end(data, at)
        values.append(data[at:end])
        at = end
    return values


def _found(value: bytes, owner: bytes) -> Found:
    count = value[0] - FIXARRAY
    end = len(value) - CHECKSUM - len(MARK)
    if not (0 < count <= MOST_VALUES and end > 0 and value.startswith(MARK, end)):
        return Found(value, None)
    body = value[1:end]
    return Found(bytes([FIXARRAY + count - 1]) + body, _checksum(owner, body) == value[-CHECKSUM:])


def _checksum(owner: bytes, values: bytes) -> bytes:
    return hashlib.md5(owner + values, usedforsecurity=False).digest()[:CHECKSUM]


def _header(data: bytes, at: int, fixed: int, long: int) -> tuple[int, int]:
    """Return how many values an array or map has that begins at a position, and where its first value
    begins."""
    code = data[at]
    if code & 0xF0 == fixed:
        return code & 0x0F, at + 1
    if code not in (long, long + 1):
        raise ValueError("no array or map begins here")
    size = 2 << code - long
    return int.from_bytes(_part(data, at + 1, size)), at + 1 + size


def _end(data: bytes, at: int, depth: int = 2) -> int:
    """Return where the value ends that begins at a position.

    Raises ValueError or IndexError if no row, nor a value of a row, begins there.
    """
    code = data[at]
    if code <= 0x7F or code >= 0xE0:
        return at + 1
    if 0xA0 <= code <= 0xBF:
        size, at = code & 0x1F, at + 1
    elif code in SIZES:
        size = SIZES[code]
    elif code in LENGTHS:
        width = LENGTHS[code]
        size, at = int.from_bytes(_part(data, at + 1, width)), at + 1 + width
    elif depth and (code & 0xF0 == FIXARRAY or code in (0xDC, 0xDD)):
        count, at = _header(data, at, FIXARRAY, 0xDC)
        for _ in range(count):
            at = _end(data, at, depth - 1)
        return at
    else:
        raise ValueError("no plain value begins here")
    _part(data, at, size)
    return at + size


def _part(data: bytes, at: int, size: int) -> bytes:
    part = data[at : at + size]
    if len(part) < size:
        raise IndexError("it is truncated in the middle of a value")
    return part
