"""Reads rows from the bytes of a damaged SQLite file, page by page, without SQLite.

A leaf page of a table leads to its rows by itself, so damage in other pages does not matter. Unused pages may
hold old rows, and a damaged page may yield rows that were never written; the caller has to check the rows.
The format: https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping

PAGE = 4096
"""Bytes of a page in all files that this program makes."""
TABLE_LEAF = 0x0D
LEAF_HEADER = 8
FILE_HEADER = 100
"""Bytes before the header of the first page."""
INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""Bytes of an integer by its serial type."""
FLOAT, ZERO, ONE, FIRST_BLOB = 7, 8, 9, 12
MOST_HEADER = 64
"""Bytes before the values of a row; no valid row has more."""
MOST_BYTES = 1 << 26
"""Bytes of a row; no valid row has more."""

WAL_HEADER, FRAME_HEADER = 32, 24

Content = bytes | mmap.mmap
Value = int | float | str | bytes | None


def rows_in(content: Content, log: bytes = b"") -> Iterator[tuple[int, list[Value]]]:
    """Yield number and values of every readable row of all tables.

    `log` is the write-ahead log beside the file.
    """
    newer = pages_in_log(log)
    for number in range(1, max([len(content) // PAGE, *newer]) + 1):
        page = _page(content, newer, number)
        start = FILE_HEADER if number == 1 else 0
        if len(page) < PAGE or page[start] != TABLE_LEAF:
            continue
        cells = int.from_bytes(page[start + 3 : start + 5])
        first = start + LEAF_HEADER + 2 * cells
        if first > PAGE:
            continue
        for place in range(start + LEAF_HEADER, first, 2):
            at = int.from_bytes(page[place : place + 2])
            if not first <= at < PAGE:
                continue
            try:
                size, at = _varint(page, at)
                row, at = _varint(page, at)
                values = _values(_payload(page, at, size, content, newer))
            except (IndexError, ValueError, struct.error):
                continue
            yield row, values


def pages_in_log(log: bytes) -> dict[int, bytes]:
    """Return the latest version of each page in the log, by page number.

    Frames from before the log was last restarted do not count.
    """
    pages = {}
    salts = log[16:24]
    for at in range(WAL_HEADER, len(log) - FRAME_HEADER - PAGE + 1, FRAME_HEADER + PAGE):
        if log[at + 8 : at + 16] == salts:
            begin = at + FRAME_HEADER
            pages[int.from_bytes(log[at : at + 4])] = log[begin : begin + PAGE]
    limit = 1 << 22
    return {number: page for number, page in pages.items() if 0 < number < limit}


def _page(content: Content, newer: Mapping[int, bytes], number: int) -> bytes:
    return newer.get(number) or content[(number - 1) * PAGE : number * PAGE]


def _payload(page: bytes, at: int, size: int, content: Content, newer: Mapping[int, bytes]) -> bytes:
    """Return the bytes of a row. A long row continues in other pages. Raises ValueError."""
    if size > MOST_BYTES:
        raise ValueError("no row is that long")
    most, least = PAGE - 35, (PAGE - 12) * 32 // 255 - 23
    if size <= most:
        return page[at : at + size]
    local = least + (size - least) % (PAGE - 4)
    local = local if local <= most else least
    parts = [page[at : at + local]]
    overflow = size - local
    next_page = int.from_bytes(page[at + local : at + local + 4])
    while overflow > 0:
        page = _page(content, newer, next_page)
        if not next_page or len(page) < PAGE:
            raise ValueError("a page of the row is missing")
        parts.append(page[4 : 4 + overflow])
        overflow -= PAGE - 4
        next_page = int.from_bytes(page[:4])
    return b"".join(parts)


def _values(payload: bytes) -> list[Value]:
    """Return the values of a row. Raises ValueError, IndexError, struct.error."""
    header, at = _varint(payload, 0)
    if header > MOST_HEADER:
        raise ValueError("no row has that many values")
    types = []
    while at < header:
        type, at = _varint(payload, at)
        types.append(type)
    values: list[Value] = []
    for type in types:
        if type in INTEGERS:
            end = at + INTEGERS[type]
            values.append(int.from_bytes(payload[at:end], signed=True))
        elif type == FLOAT:
            end = at + 8
            values.append(struct.unpack(">d", payload[at:end])[0])
        elif type >= FIRST_BLOB:
            end = at + (type - FIRST_BLOB) // 2
            part = payload[at:end]
            if len(part) < end - at:
                raise ValueError("the row ends before its values do")
            values.append(part.decode() if type % 2 else part)
        elif type in (0, ZERO, ONE):
            end = at
            values.append(None if type == 0 else type - ZERO)
        else:
            raise ValueError("no such type")
        at = end
    return values


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of one to nine bytes, and the offset after it. Raises IndexError."""
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | data[place] & 0x7F
        if data[place] < 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9
