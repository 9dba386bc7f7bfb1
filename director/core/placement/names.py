"""The names of users by key, for listings.

Routing never needs them: a user without a name is shown by the hash.

An entry is a key (8 bytes), a length (2 bytes) and the name as Dovecot's auth gave it. The buckets are those
of the user table. A name of more than LONGEST_NAME bytes is not kept, wherever it comes from. The record of
its user is kept like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from director.core.placement.users import BUCKET_SHIFT, BUCKETS, RECORD
from director.types import UserKey

HEAD = Struct(">QH")
"""Head of an entry: key and length."""

LONGEST_NAME = 255
"""Bytes of the longest name that is kept. With a static passdb a client can log in under any name, and every
director would keep it."""

SLACK = 1024
"""Bytes by which a bucket may exceed twice its last size without repetitions, before repetitions are
removed."""


class NameTable:
    """Names by bucket.

    New names are appended. Repetitions are removed when a bucket is read or has doubled.
    """

    def __init__(self) -> None:
        self._buckets: list[bytearray] = [bytearray() for _ in range(BUCKETS)]
        self._compact_above = [SLACK] * BUCKETS
        self._dirty: set[int] = set()
        self._looked_at = 0

    def __len__(self) -> int:
        """Return the bytes of all entries. Some repetitions are included."""
        return sum(map(len, self._buckets))

    def add(self, entries: bytes) -> None:
        """Add names of logins on this director. The last name of a key counts.

        Args:
            entries: key (8 bytes), length (2 bytes) and name of each.

        Raises:
            ValueError: the last entry is incomplete; nothing was added.
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
        """Add names from elsewhere.

        Of two names of a key the greater is kept, so the order of merges does not matter.

        Returns:
            Whether a name was new.

        Raises:
            ValueError: the last entry is incomplete; nothing was added.
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
        """Return how many names `add` and `merge` have read since the last call."""
        looked_at, self._looked_at = self._looked_at, 0
        return looked_at

    def missing(self, entries: bytes, most: int) -> bytes:
        """Return the entries whose keys have no names here.

        Args:
            entries: as in `add`.
            most: how many of the entries are compared, from the first.

        Raises:
            ValueError: the last entry is incomplete.
        """
        return b"".join(
            entry(key, name)
            for key, name in list(entries_in(entries))[:most]
            if len(name) <= LONGEST_NAME and not self._knows(key)
        )

    def bucket(self, number: int) -> bytes:
        """Return the entries of a bucket by key, one for each key."""
        self._replace(number, dict(entries_in(self._buckets[number])))
        return bytes(self._buckets[number])

    def raw(self, number: int) -> bytes:
        """Return the entries of a bucket as they came, with repetitions. This is the fastest way."""
        return bytes(self._buckets[number])

    def entries_of(self, number: int, records: bytes) -> bytes:
        """Return the entries of the users of these records, in any order.

        Args:
            number: of the bucket.
            records: records of users of the bucket, packed.
        """
        keys = {key for key, *_ in RECORD.iter_unpack(records)}
        known = dict(entries_in(self._buckets[number]))
        return b"".join(entry(key, name) for key, name in known.items() if key in keys)

    def names(self, number: int) -> dict[UserKey, str]:
        """Return the names of a bucket for display. Bytes that are not UTF-8 become U+FFFD."""
        return {key: name.decode(errors="replace") for key, name in entries_in(self._buckets[number])}

    def sweep(self, number: int, records: bytes) -> bool:
        """Delete the names of a bucket whose keys have no records.

        Args:
            number: of the bucket.
            records: all records of the bucket, packed, by key.

        Returns:
            Whether names were deleted.
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
        """Return the buckets that have to be written since the last call, in order."""
        dirty, self._dirty = self._dirty, set()
        return sorted(dirty)

    def mark_dirty(self, number: int) -> None:
        """Have a bucket written (again)."""
        self._dirty.add(number)

    def _knows(self, key: UserKey) -> bool:
        """Whether the key has a name.

        This is called for assigned users who log in. So the bucket is parsed only if it contains the bytes of
        the key, which may also be part of a name.
        """
        bucket = self._buckets[key >> BUCKET_SHIFT]
        return key.to_bytes(8) in bucket and any(known == key for known, _ in entries_in(bucket))

    def _replace(self, number: int, names: dict[UserKey, bytes]) -> None:
        entries = bytearray().join(entry(key, name) for key, name in sorted(names.items()))
        self._buckets[number] = entries
        self._compact_above[number] = 2 * len(entries) + SLACK


def entry(key: UserKey, name: bytes) -> bytes:
    """Return one entry. A name is shortened to 65535 bytes."""
    name = name[:0xFFFF]
    return HEAD.pack(key, len(name)) + name


def short_entries_in(data: bytes) -> Iterator[tuple[UserKey, bytes]]:
    """Iterate over the entries whose names are short enough to be kept.

    Raises:
        ValueError: the last entry is incomplete.
    """
    return ((key, name) for key, name in entries_in(data) if len(name) <= LONGEST_NAME)


def entries_in(data: bytes | bytearray) -> Iterator[tuple[UserKey, bytes]]:
    """Iterate over the entries of a bucket. Raises ValueError if the last entry is incomplete."""
    at = 0
    while at < len(data):
        start = at + HEAD.size
        key, length = HEAD.unpack_from(data, at) if start <= len(data) else (0, len(data))
        at = start + length
        if at > len(data):
            raise ValueError(f"names: {len(data)} bytes of entries end in the middle of one")
        yield UserKey(key), bytes(data[start:at])
