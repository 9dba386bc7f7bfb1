"""Buckets as the tools handle them: users and names side by side, a few at a time, and the merge that both
the import and a repair write with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping

import msgspec

from director.core.names import entries_in, entry
from director.core.users import User, merged, pack, unpack
from director.errors import EX_DATA, StoreProblem
from director.types import UserKey
from state.base import BUCKETS, Bucket, Lost, Space, StateStore, Swap

AT_A_TIME = 64
"""Buckets read at once: 350 kB of records where there are a million users."""

Progress = Callable[[int, int], None]
"""Is told how much of how much is done."""
Records = dict[UserKey, User]
Names = dict[UserKey, bytes]


class Tally(msgspec.Struct):
    """What a merge came to."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0

    def add(self, other: Tally) -> None:
        self.new += other.new
        self.changed += other.changed
        self.unchanged += other.unchanged


async def read_all(store: StateStore, space: Space, progress: Progress) -> AsyncIterator[list[Bucket]]:
    """All buckets of a space in order, those that are not there included, AT_A_TIME in a batch."""
    for first in range(0, BUCKETS, AT_A_TIME):
        yield await store.read_buckets(space, range(first, first + AT_A_TIME))
        progress(first + AT_A_TIME, BUCKETS)


def records_in(bucket: Bucket) -> Records:
    """Raises StoreProblem where the bucket is damaged."""
    try:
        return {user.key: user for user in unpack(bucket.blob)}
    except ValueError as exc:
        raise _damaged(bucket, exc) from exc


def names_in(bucket: Bucket) -> Names:
    """Raises StoreProblem where the bucket is damaged."""
    try:
        return dict(entries_in(bucket.blob))
    except ValueError as exc:
        raise _damaged(bucket, exc) from exc


def pack_names(names: Names) -> bytes:
    """As they are stored: by key."""
    return b"".join(entry(key, name) for key, name in sorted(names.items()))


async def merge_users(store: StateStore, wanted: Mapping[int, Records], *, dry_run: bool = False) -> Tally:
    """Merge records into their buckets by the rule of the ring; no later decision is ever replaced."""

    def merge(bucket: Bucket) -> tuple[bytes, Tally]:
        held, news = records_in(bucket), wanted[bucket.number]
        both = {key: merged(held[key], user) for key, user in news.items() if key in held}
        tally = _tally(held, news, both)
        return pack(sorted((held | news | both).values())), tally

    return await _merge(store, "users", wanted, merge, dry_run)


async def merge_names(store: StateStore, wanted: Mapping[int, Names], *, dry_run: bool = False) -> Tally:
    """The same for names: of two names of a key the greater one stays."""

    def merge(bucket: Bucket) -> tuple[bytes, Tally]:
        held, news = names_in(bucket), wanted[bucket.number]
        both = {key: max(held[key], name) for key, name in news.items() if key in held}
        tally = _tally(held, news, both)
        return pack_names(held | news | both), tally

    return await _merge(store, "names", wanted, merge, dry_run)


async def _merge(
    store: StateStore,
    space: Space,
    numbers: Iterable[int],
    merge: Callable[[Bucket], tuple[bytes, Tally]],
    dry_run: bool,
) -> Tally:
    """Read, merge and swap until every bucket has what is wanted."""
    total = Tally()
    open_numbers = sorted(numbers)
    buckets: list[Bucket] = []
    while open_numbers or buckets:
        part, open_numbers = open_numbers[:AT_A_TIME], open_numbers[AT_A_TIME:]
        buckets += await store.read_buckets(space, part)
        results = [merge(bucket) for bucket in buckets]
        if dry_run:
            outcomes: list[object] = [None] * len(buckets)
        else:
            swaps = [
                Swap(space, b.number, b.version, blob) for b, (blob, _) in zip(buckets, results, strict=True)
            ]
            outcomes = [*await store.swap_buckets(swaps)]
        again = []
        for bucket, (_, tally), outcome in zip(buckets, results, outcomes, strict=True):
            if isinstance(outcome, Lost):
                again.append(Bucket(space, bucket.number, outcome.version, outcome.blob))
            else:
                total.add(tally)
        buckets = again
    return total


def _tally(
    held: Mapping[UserKey, object], news: Mapping[UserKey, object], both: Mapping[UserKey, object]
) -> Tally:
    changed = sum(held[key] != after for key, after in both.items())
    return Tally(new=len(news) - len(both), changed=changed, unchanged=len(both) - changed)


def _damaged(bucket: Bucket, exc: ValueError) -> StoreProblem:
    where = f"bucket {bucket.number} of {bucket.space}"
    return StoreProblem(f"{where} is damaged: {exc}; `director state verify --fix` repairs it", EX_DATA)
