"""`director migrate` splits buckets that are too large, as directors do when they write them.

The new buckets are written first, then the markers in place of the old ones, from the bottom up, all by
compare-and-swap. So directors may run meanwhile, and an interrupted command can be run again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Final

import msgspec

from director.core.placement.names import entries_in
from director.core.placement.users import merged, pack, unpack
from director.statetools.buckets import AT_A_TIME, Names, Progress, Records, pack_names, read_leaves
from director.stored.buckettree import BucketTree, belongs, names_tree, users_tree
from director.types import UserKey
from state.base import EMPTY_VERSION, SPLIT, Bucket, Lost, Space, StateStore, Swap, version_of
from state.bucketnumbers import BUCKETS, LEVELS, level, root_of

TREES: Final[dict[Space, Callable[[], BucketTree]]] = {"users": users_tree, "names": names_tree}


class SplitResult(msgspec.Struct):
    """Numbers of buckets that were split, or that a dry run would split."""

    users: int = 0
    """Buckets of users."""
    names: int = 0
    damaged: list[str] = []
    """Buckets that are too large, but damaged: they stay as they are."""


async def split_large(store: StateStore, progress: Progress, *, dry_run: bool = False) -> SplitResult:
    """Split every bucket that directors would split when they write it.

    Raises:
        StoreError: the store is unreachable, or refuses.
    """
    done = SplitResult()
    for part, space in enumerate(TREES):
        for first in range(0, BUCKETS, AT_A_TIME):
            numbers: Sequence[int] = range(first, first + AT_A_TIME)
            left_behind: dict[int, Bucket] = {}
            while numbers:
                numbers = await _split(store, space, numbers, left_behind, done, dry_run)
            progress(part * BUCKETS + first + AT_A_TIME, len(TREES) * BUCKETS)
    return done


async def _split(
    store: StateStore,
    space: Space,
    numbers: Sequence[int],
    left_behind: dict[int, Bucket],
    done: SplitResult,
    dry_run: bool,
) -> list[int]:
    """Split buckets that are too large in these buckets of the table.

    Args:
        left_behind: buckets that an interrupted split wrote before the marker; they are merged.

    Returns:
        The numbers of the table's buckets in which a director wrote meanwhile: split these again.
    """
    tree = TREES[space]()
    leaves = await read_leaves(store, space, numbers, tree)
    swaps: list[Swap] = []
    marks: list[Swap] = []
    tops: set[int] = set()
    for bucket in leaves:
        if len(bucket.blob) <= tree.split_above or level(bucket.number) == LEVELS:
            continue
        if not _is_sound(bucket):
            done.damaged.append(f"{space}, bucket {bucket.number}")
            continue
        tops.add(bucket.number)
        old = [
            bucket_left
            for bucket_left in left_behind.values()
            if bucket.number in tree.path(bucket_left.number)
        ]
        division = tree.divide(bucket.number, _joined(bucket, old), may_split=True)
        versions = {bucket_left.number: bucket_left.version for bucket_left in [bucket, *old]}
        for leaf, part in division.leaves:
            swaps.append(Swap(space, leaf, versions.get(leaf, EMPTY_VERSION), part))
        for bucket_left in division.splits:
            marks.append(Swap(space, bucket_left, versions.get(bucket_left, EMPTY_VERSION), SPLIT))
    again: set[int] = set()
    if not dry_run:
        marks.sort(key=lambda mark: -mark.number)
        by_level = groupby(marks, key=lambda mark: level(mark.number))
        for together in (swaps, *(list(group) for _, group in by_level)):
            good = [swap for swap in together if root_of(swap.number) not in again]
            for swap, outcome in zip(good, await store.swap_buckets(good), strict=True):
                if isinstance(outcome, Lost):
                    again.add(root_of(swap.number))
                    left_behind[swap.number] = Bucket(space, swap.number, outcome.version, outcome.blob)
    number = sum(root_of(top) not in again for top in tops)
    setattr(done, space, getattr(done, space) + number)
    return sorted(again)


def _is_sound(bucket: Bucket) -> bool:
    """Whether the bucket can be divided: complete, in order, and with keys that belong to it only."""
    try:
        keys = list(_keys(bucket))
    except ValueError:
        return False
    in_order = all(lower < upper for lower, upper in pairwise(keys))
    at_home = belongs(keys[0], bucket.number) and belongs(keys[-1], bucket.number)
    return in_order and at_home and version_of(bucket.blob) == bucket.version


def _keys(bucket: Bucket) -> Iterator[UserKey]:
    """The keys of a bucket.

    Raises:
        ValueError: the bucket is damaged.
    """
    if bucket.space == "users":
        return (user.key for user in unpack(bucket.blob))
    return (key for key, _ in entries_in(bucket.blob))


def _joined(bucket: Bucket, left_behind: Sequence[Bucket]) -> bytes:
    """A bucket merged with the readable content of these buckets."""
    if not left_behind:
        return bucket.blob
    users: Records = {}
    names: Names = {}
    for part in (bucket, *left_behind):
        with contextlib.suppress(ValueError):
            if part.space == "users":
                found = {user.key: user for user in unpack(part.blob)}
                users |= {k: merged(users[k], user) if k in users else user for k, user in found.items()}
            else:
                names |= {key: max(name, names.get(key, b"")) for key, name in entries_in(part.blob)}
    return pack(sorted(users.values())) if bucket.space == "users" else pack_names(names)
