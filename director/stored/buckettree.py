"""How the buckets of the table are spread over those of a store (docs/ring.md, rule 33). Pure.

The table has 4096 buckets, whatever it holds: neighbours compare those. In a store, one that has grown large
is split in two by the next bit of the key, and these again: a tree below each bucket of the table, whose
leaves hold the users. Below bucket n are 4096 + 2n, for keys whose next bit is 0, and 4097 + 2n.

A split bucket holds a marker in the store. It is written when everything below is there, so that whoever
meets it finds all; without it nobody looks below. It is never taken away; but a store may be found without
it, after it was wiped or restored: then its bucket is a leaf again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from director.core.placement.names import HEAD
from director.core.placement.users import BUCKET_SHIFT, RECORD
from director.types import UserKey
from state.bucketnumbers import BUCKETS, LEVELS, above, below, level

USERS_SPLIT_ABOVE: Final = 512 * RECORD.size
"""Bytes of records, 512, above which a bucket of users is split when it is written."""
NAMES_SPLIT_ABOVE: Final = 16384
"""The same for names: about as many."""

KEY_BITS = 64
TOP_BITS = KEY_BITS - BUCKET_SHIFT


class Division(NamedTuple):
    """A bucket of the table as it is to be stored."""

    leaves: list[tuple[int, bytes]]
    """By key: what each holds."""
    splits: list[int]
    """Those that are not split yet, but have to be for this; a bucket comes before what is below it."""


class BucketTree:
    """Which buckets of one space are split in the store, as far as we have heard."""

    def __init__(self, cut: Callable[[bytes, UserKey], int], split_above: int) -> None:
        """cut: the place in a blob, ordered by key, where the keys from a given one on begin. split_above:
        bytes."""
        self.split_above = split_above
        self._cut = cut
        self._split: set[int] = set()

    def __contains__(self, number: int) -> bool:
        """Whether it is split."""
        return number in self._split

    def __iter__(self) -> Iterator[int]:
        """All that are split, in no order."""
        return iter(self._split)

    def learn(self, number: int, *, split: bool) -> None:
        """This is how the store has it. A bucket of the last level is never split, whatever it holds."""
        if split and level(number) < LEVELS:
            self._split.add(number)
        elif number in self._split:
            self._split.discard(number)
            for child in below(number):  # what was known of them is of a tree that is gone
                self.learn(child, split=False)

    def leaves(self, number: int) -> list[int]:
        """The buckets that hold what belongs into this one, by key."""
        if number not in self._split:
            return [number]
        low, high = below(number)
        return self.leaves(low) + self.leaves(high)

    def leaf_of(self, key: UserKey) -> int:
        """The bucket that holds this key."""
        number, shift = key >> BUCKET_SHIFT, BUCKET_SHIFT
        while number in self._split:
            shift -= 1
            number = below(number)[key >> shift & 1]
        return number

    def path(self, number: int) -> list[int]:
        """The buckets above this one, the nearest first."""
        found = []
        while number >= BUCKETS:
            number = above(number)
            found.append(number)
        return found

    def divide(self, number: int, blob: bytes, *, may_split: bool) -> Division:
        """How what belongs into this bucket is spread over those below it. may_split: where it is more than
        the store has buckets for, plan to split."""
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
        middle = self._cut(blob, first_key(high))
        self._divide(low, blob[:middle], may_split, division)
        self._divide(high, blob[middle:], may_split, division)


def first_key(number: int) -> UserKey:
    """The lowest key that belongs into this bucket."""
    bits = TOP_BITS + level(number)
    return UserKey((number + BUCKETS ^ 1 << bits) << KEY_BITS - bits)


def belongs(key: UserKey, number: int) -> bool:
    """Whether this key belongs into this bucket, or below it."""
    return key >> BUCKET_SHIFT - level(number) == number + BUCKETS ^ 1 << TOP_BITS + level(number)


def users_tree() -> BucketTree:
    return BucketTree(_cut_users, USERS_SPLIT_ABOVE)


def names_tree() -> BucketTree:
    return BucketTree(_cut_names, NAMES_SPLIT_ABOVE)


def _cut_users(records: bytes, key: UserKey) -> int:
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


def _cut_names(entries: bytes, key: UserKey) -> int:
    at = 0
    while at < len(entries):
        found, length = HEAD.unpack_from(entries, at)
        if found >= key:
            break
        at += HEAD.size + length
    return at
