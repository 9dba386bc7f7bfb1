"""Bucket trees: how the buckets of the table are divided among those of a store (docs/ring.md, rule 33).

Pure.

The table always has 4096 buckets, so that neighbours can compare them. In a store, a bucket that has grown
large is split in two by the next bit of the key, and so on. So there is a tree below each bucket of the
table, and its leaves hold the users. Below bucket n are bucket 4096 + 2n, for keys whose next bit is 0, and
bucket 4097 + 2n.

A split bucket holds a marker in the store. The marker is written after everything below it, so that a
director that finds the marker finds everything. Without the marker no director looks below. A marker is never
removed, but a store that was wiped or restored may lack it: then its bucket is a leaf again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from director.core.placement.names import HEAD
from director.core.placement.users import BUCKET_SHIFT, RECORD
from director.types import UserKey
from state.bucketnumbers import BUCKETS, LEVELS, above, below, level

USERS_SPLIT_ABOVE: Final = 512 * RECORD.size
"""Bytes of records above which a bucket of users is split when it is written: 512 records."""
NAMES_SPLIT_ABOVE: Final = 16384
"""Bytes of names above which a bucket of names is split when it is written: about as many users."""

KEY_BITS = 64
TOP_BITS = KEY_BITS - BUCKET_SHIFT


class Division(NamedTuple):
    """How a bucket of the table is to be stored."""

    leaves: list[tuple[int, bytes]]
    """The leaves with their contents, by key."""
    splits: list[int]
    """Buckets that have to be split for this. A bucket comes before the buckets below it."""


class BucketTree:
    """The buckets of one space that are split in the store, as far as is known."""

    def __init__(self, offset_of: Callable[[bytes, UserKey], int], split_above: int) -> None:
        """Make a tree without split buckets.

        Args:
            offset_of: returns where, in the content of a bucket, the keys from a given key on begin.
            split_above: bytes above which a bucket is split.
        """
        self.split_above = split_above
        self._offset_of = offset_of
        self._split: set[int] = set()

    def __contains__(self, number: int) -> bool:
        """Whether the bucket is split."""
        return number in self._split

    def __iter__(self) -> Iterator[int]:
        """Iterate over the split buckets, in no order."""
        return iter(self._split)

    def learn(self, number: int, *, split: bool) -> None:
        """Note whether a bucket is split in the store.

        A bucket of the last level never is, whatever it holds.
        """
        if split and level(number) < LEVELS:
            self._split.add(number)
        elif number in self._split:
            self._split.discard(number)
            for child in below(number):  # the buckets below belong to a former tree
                self.learn(child, split=False)

    def leaves(self, number: int) -> list[int]:
        """Return the buckets that hold the contents of this bucket, by key."""
        if number not in self._split:
            return [number]
        low, high = below(number)
        return self.leaves(low) + self.leaves(high)

    def leaf_of(self, key: UserKey) -> int:
        """Return the bucket that holds this key."""
        number, shift = key >> BUCKET_SHIFT, BUCKET_SHIFT
        while number in self._split:
            shift -= 1
            number = below(number)[key >> shift & 1]
        return number

    def path(self, number: int) -> list[int]:
        """Return the buckets above this bucket, the nearest first."""
        found = []
        while number >= BUCKETS:
            number = above(number)
            found.append(number)
        return found

    def divide(self, number: int, blob: bytes, *, may_split: bool) -> Division:
        """Return how the content of a bucket is to be divided among the buckets below it.

        Args:
            number: of the bucket.
            blob: the content.
            may_split: whether buckets that are too large may be split.
        """
        division = Division([], [])
        self._divide(number, blob, may_split, division)
        return division

    def _divide(self, number: int, blob: bytes, may_split: bool, division: Division) -> None:
        if number not in self._split:
            if len(blob) <= self.split_above or not may_split or level(number) == LEVELS:
                division.leaves.append((number, blob))
                return
            division.splits.append(number)
        low, high = below(number)
        middle = self._offset_of(blob, first_key(high))
        self._divide(low, blob[:middle], may_split, division)
        self._divide(high, blob[middle:], may_split, division)


def first_key(number: int) -> UserKey:
    """Return the lowest key of this bucket."""
    bits = TOP_BITS + level(number)
    return UserKey((number + BUCKETS ^ 1 << bits) << KEY_BITS - bits)


def belongs(key: UserKey, number: int) -> bool:
    """Whether this key belongs to this bucket, or to a bucket below it."""
    return key >> BUCKET_SHIFT - level(number) == number + BUCKETS ^ 1 << TOP_BITS + level(number)


def users_tree() -> BucketTree:
    return BucketTree(_offset_in_users, USERS_SPLIT_ABOVE)


def names_tree() -> BucketTree:
    return BucketTree(_offset_in_names, NAMES_SPLIT_ABOVE)


def _offset_in_users(records: bytes, key: UserKey) -> int:
    first = key.to_bytes(8)
    low, high = 0, len(records) // RECORD.size
    while low < high:
        middle = (low + high) // 2
        at = middle * RECORD.size
        if records[at : at + 8] < first:
            low = middle + 1
        else:
            high = middle
    return low * RECORD.size


def _offset_in_names(entries: bytes, key: UserKey) -> int:
    at = 0
    while at < len(entries):
        found, length = HEAD.unpack_from(entries, at)
        if found >= key:
            break
        at += HEAD.size + length
    return at
