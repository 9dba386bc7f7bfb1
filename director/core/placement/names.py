"""The names behind the keys, for listings. Never needed to route: what is missing is shown as a hash.

An entry is a key (8 bytes), a length (2 bytes) and the name as auth gave it. Buckets are those of the
user table. A name of more than LONGEST_NAME bytes is not kept, wherever it comes from: its user has a record
like any other, and is listed by the hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from director.core.placement.users import BUCKET_SHIFT, BUCKETS, RECORD
from director.types import UserKey

HEAD = Struct(">QH")
"""Key and length."""

LONGEST_NAME = 255
"""Bytes of a name that is kept. With a static passdb anybody can log in under any name, and every director
would keep it."""

SLACK = 1024
"""Bytes that a bucket may have beyond twice its last size without repetitions, before they are taken out."""


class NameTable:
    """Names by bucket. Additions are appended; repetitions go when a bucket is read or has doubled."""

    def __init__(self) -> None:
        self._buckets: list[bytearray] = [bytearray() for _ in range(BUCKETS)]
        self._compact_above = [SLACK] * BUCKETS
        self._dirty: set[int] = set()
        self._looked_at = 0

    def __len__(self) -> int:
        """Bytes of all entries, some repetitions included."""
        return sum(map(len, self._buckets))

    def add(self, entries: bytes) -> None:
        """Take in names of logins here. The last name of a key counts.

        Args:
            entries: key (8 bytes), length (2 bytes) and name of each.

        Raises:
            ValueError: the last entry is cut off; nothing was taken in.
        """
        for key, name in list(short_entries_in(entries)):
            number = key >> BUCKET_SHIFT
            self._buckets[number] += entry(key, name)
            self._dirty.add(number)
            self._looked_at += 1
            if len(self._buckets[number]) > self._compact_above[number]:
                known = dict(entries_in(self._buckets[number]))
                self._looked_at += len(known)
                self._replace(number, known)

    def merge(self, entries: bytes) -> bool:
        """Take in names from elsewhere.

        Of two names of a key the greater one stays, so the order of merges does not matter.

        Returns:
            Whether anything was new.

        Raises:
            ValueError: the last entry is cut off; nothing was taken in.
        """
        found: dict[int, dict[UserKey, bytes]] = {}
        for key, name in short_entries_in(entries):
            names = found.setdefault(key >> BUCKET_SHIFT, {})
            names[key] = max(name, names.get(key, b""))
        anything = False
        for number, names in found.items():
            known = dict(entries_in(self._buckets[number]))
            self._looked_at += len(known) + len(names)
            news = {key: name for key, name in names.items() if key not in known or name > known[key]}
            if news:
                self._replace(number, known | news)
                self._dirty.add(number)
                anything = True
        return anything

    def take_looked_at(self) -> int:
        """How many names were looked at for what was taken in since the last call."""
        looked_at, self._looked_at = self._looked_at, 0
        return looked_at

    def missing(self, entries: bytes, most: int) -> bytes:
        """Return the entries whose key has no name here.

        Args:
            entries: as in `add`.
            most: how many of the entries are looked at, from the first.

        Raises:
            ValueError: the last entry is cut off.
        """
        return b"".join(
            entry(key, name)
            for key, name in list(entries_in(entries))[:most]
            if len(name) <= LONGEST_NAME and not self._knows(key)
        )

    def bucket(self, number: int) -> bytes:
        """The entries of a bucket, by key, one for each."""
        self._replace(number, dict(entries_in(self._buckets[number])))
        return bytes(self._buckets[number])

    def raw(self, number: int) -> bytes:
        """The same as they came, repetitions included: as fast as can be."""
        return bytes(self._buckets[number])

    def entries_of(self, number: int, records: bytes) -> bytes:
        """The entries of the users of these records, which are of this bucket and in order; in any order."""
        keys = {key for key, *_ in RECORD.iter_unpack(records)}
        known = dict(entries_in(self._buckets[number]))
        return b"".join(entry(key, name) for key, name in known.items() if key in keys)

    def names(self, number: int) -> dict[UserKey, str]:
        """The names of a bucket for display; bytes that are no UTF-8 become U+FFFD."""
        return {key: name.decode(errors="replace") for key, name in entries_in(self._buckets[number])}

    def sweep(self, number: int, records: bytes) -> bool:
        """Drop the names of a bucket that belong to no known user.

        Args:
            number: of the bucket.
            records: all users of the bucket, packed, by key.

        Returns:
            Whether names were dropped.
        """
        keys = {key for key, *_ in RECORD.iter_unpack(records)}
        known = list(entries_in(self._buckets[number]))
        kept = [(key, name) for key, name in known if key in keys]
        if len(kept) == len(known):
            return False
        self._buckets[number] = bytearray().join(entry(key, name) for key, name in kept)
        self._dirty.add(number)
        return True

    @property
    def dirty_count(self) -> int:
        return len(self._dirty)

    def take_dirty(self) -> list[int]:
        """The buckets to be written since the last call, in order."""
        dirty, self._dirty = self._dirty, set()
        return sorted(dirty)

    def mark_dirty(self, number: int) -> None:
        """Say that a bucket is to be written (again)."""
        self._dirty.add(number)

    def _knows(self, key: UserKey) -> bool:
        """Whether there is a name. Asked for known users who log in: a bucket is taken apart only where the
        bytes of the key are in it, which may be those of a name."""
        bucket = self._buckets[key >> BUCKET_SHIFT]
        return key.to_bytes(8) in bucket and any(known == key for known, _ in entries_in(bucket))

    def _replace(self, number: int, names: dict[UserKey, bytes]) -> None:
        entries = bytearray().join(entry(key, name) for key, name in sorted(names.items()))
        self._buckets[number] = entries
        self._compact_above[number] = 2 * len(entries) + SLACK


def entry(key: UserKey, name: bytes) -> bytes:
    """One name, as it travels; of at most 65535 bytes."""
    name = name[:0xFFFF]
    return HEAD.pack(key, len(name)) + name


def short_entries_in(data: bytes) -> Iterator[tuple[UserKey, bytes]]:
    """The entries whose names are kept. Raises ValueError where the last entry is cut off."""
    return ((key, name) for key, name in entries_in(data) if len(name) <= LONGEST_NAME)


def entries_in(data: bytes | bytearray) -> Iterator[tuple[UserKey, bytes]]:
    """The entries of a bucket, one by one. Raises ValueError where the last one is cut off."""
    at = 0
    while at < len(data):
        start = at + HEAD.size
        key, length = HEAD.unpack_from(data, at) if start <= len(data) else (0, len(data))
        at = start + length
        if at > len(data):
            raise ValueError(f"names: {len(data)} bytes of entries end in the middle of one")
        yield UserKey(key), bytes(data[start:at])
