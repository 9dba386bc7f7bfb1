"""Buckets of users and names for the tools: reading them a few at a time, and merging records into them.

The import and the repair write through the same merge.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from director.core.placement.names import entry, short_entries_in
from director.core.placement.users import User, merged, pack, unpack
from director.errors import EX_DATA, StoreProblem
from director.stored.buckettree import BucketTree, users_tree
from director.types import UserKey
from state.base import SPLIT, Bucket, Lost, Space, StateStore, Swap
from state.bucketnumbers import BUCKETS, below, root_of

AT_A_TIME = 64
"""Buckets of the table that are read at a time: 350 kB of records with a million users."""

Progress = Callable[[int, int], None]
"""Called with the work done and the work in total."""
Records = dict[UserKey, User]
Names = dict[UserKey, bytes]

Entry = TypeVar("Entry", User, bytes)


class Tally(msgspec.Struct):
    """How many records a merge has added, replaced or left."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0

    def add(self, other: Tally) -> None:
        self.new += other.new
        self.changed += other.changed
        self.unchanged += other.unchanged


async def read_all(store: StateStore, space: Space, progress: Progress) -> AsyncIterator[list[Bucket]]:
    """The buckets that hold users or names, in the order of keys, AT_A_TIME buckets of the table in a batch.

    A bucket that the store does not have is empty. Instead of a split bucket, the buckets below it are given.
    """
    for first in range(0, BUCKETS, AT_A_TIME):
        yield await read_leaves(store, space, range(first, first + AT_A_TIME), users_tree())
        progress(first + AT_A_TIME, BUCKETS)


async def read_leaves(
    store: StateStore, space: Space, numbers: Sequence[int], tree: BucketTree
) -> list[Bucket]:
    """The buckets with the content of these buckets of the table.

    Args:
        tree: is told which buckets are split.
    """
    found: dict[int, Bucket] = {}
    level = numbers
    while level:
        buckets = await store.read_buckets(space, level)
        for bucket in buckets:
            tree.learn(bucket.number, split=bucket.blob == SPLIT)
            found[bucket.number] = bucket
        level = [number for parent in level if parent in tree for number in below(parent)]
    return [found[leaf] for number in numbers for leaf in tree.leaves(number)]


def records_in(bucket: Bucket) -> Records:
    """The records of a bucket by key.

    Raises:
        StoreProblem: the bucket is damaged.
    """
    try:
        return {user.key: user for user in unpack(bucket.blob)}
    except ValueError as exc:
        raise _damaged(bucket, exc) from exc


def names_in(bucket: Bucket) -> Names:
    """The names of a bucket by key, without names that are too long to be kept.

    Raises:
        StoreProblem: the bucket is damaged.
    """
    try:
        return dict(short_entries_in(bucket.blob))
    except ValueError as exc:
        raise _damaged(bucket, exc) from exc


def pack_names(names: Names) -> bytes:
    """The bytes of a bucket with these names, in the order of keys."""
    return b"".join(entry(key, name) for key, name in sorted(names.items()))


async def merge_users(store: StateStore, wanted: Mapping[int, Records], *, dry_run: bool = False) -> Tally:
    """Merge records into buckets of the table by the rule of the ring: the later decision is kept."""

    def merge(bucket: Bucket, news: Records) -> tuple[bytes, Tally]:
        stored = records_in(bucket)
        both = {key: merged(stored[key], user) for key, user in news.items() if key in stored}
        tally = _tally(stored, news, both)
        return pack(sorted((stored | news | both).values())), tally

    return await _merge(store, "users", wanted, merge, dry_run)


async def merge_names(store: StateStore, wanted: Mapping[int, Names], *, dry_run: bool = False) -> Tally:
    """Merge names into buckets of the table. Of two names of a key the greater name stays.

    Names that are too long are not written.
    """

    def merge(bucket: Bucket, news: Names) -> tuple[bytes, Tally]:
        stored = names_in(bucket)
        both = {key: max(stored[key], name) for key, name in news.items() if key in stored}
        tally = _tally(stored, news, both)
        return pack_names(stored | news | both), tally

    return await _merge(store, "names", wanted, merge, dry_run)


async def _merge(
    store: StateStore,
    space: Space,
    wanted: Mapping[int, dict[UserKey, Entry]],
    merge: Callable[[Bucket, dict[UserKey, Entry]], tuple[bytes, Tally]],
    dry_run: bool,
) -> Tally:
    """Read, merge and swap until every bucket has what is wanted."""
    total = Tally()
    waiting = {number: dict(news) for number, news in wanted.items() if news}
    while waiting:
        numbers = sorted(waiting)[:AT_A_TIME]
        tree = users_tree()
        leaves = await read_leaves(store, space, numbers, tree)
        placed: dict[int, dict[UserKey, Entry]] = {}
        for number in numbers:
            for key, value in waiting[number].items():
                placed.setdefault(tree.leaf_of(key), {})[key] = value
        leaves = [bucket for bucket in leaves if bucket.number in placed]
        results = [merge(bucket, placed[bucket.number]) for bucket in leaves]
        outcomes: list[object] = [None] * len(leaves)
        if not dry_run:
            swaps: list[Swap] = [
                Swap(space, bucket.number, bucket.version, blob)
                for bucket, (blob, _) in zip(leaves, results, strict=True)
            ]
            outcomes = [*await store.swap_buckets(swaps)]
        for bucket, (_, tally), outcome in zip(leaves, results, outcomes, strict=True):
            if isinstance(outcome, Lost):
                continue  # a director has written or split the bucket: read it again
            total.add(tally)
            bucket_lines = waiting[root_of(bucket.number)]
            for key in placed[bucket.number]:
                del bucket_lines[key]
        waiting = {number: rest for number, rest in waiting.items() if rest}
    return total


def _tally(
    stored: Mapping[UserKey, object], news: Mapping[UserKey, object], both: Mapping[UserKey, object]
) -> Tally:
    changed = sum(stored[key] != after for key, after in both.items())
    return Tally(new=len(news) - len(both), changed=changed, unchanged=len(both) - changed)


def _damaged(bucket: Bucket, exc: ValueError) -> StoreProblem:
    where = f"bucket {bucket.number} of {bucket.space}"
    return StoreProblem(f"{where} is damaged: {exc}; `director state verify --fix` repairs it", EX_DATA)
