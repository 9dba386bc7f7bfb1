"""Which buckets of a store hold a bucket of the table."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from director.core.placement.names import entry
from director.core.placement.users import BUCKET_SHIFT, BUCKETS, RECORD, User, pack
from director.stored.buckettree import BucketTree, Division, belongs, first_key, names_tree, users_tree
from director.types import HostId, Stamp, UserKey
from state import bucketnumbers
from state.bucketnumbers import LEVELS, above, below, level, root_of

CHANCE = random.Random(5)
DEEPEST = bucketnumbers.NUMBERS - 1


def keys_of(bucket: int, count: int) -> list[UserKey]:
    return sorted({UserKey(bucket << BUCKET_SHIFT | CHANCE.getrandbits(BUCKET_SHIFT)) for _ in range(count)})


def records(keys: list[UserKey]) -> bytes:
    return pack(User(key, HostId(1), Stamp(2), 3, 0) for key in keys)


def names(keys: list[UserKey]) -> bytes:
    return b"".join(entry(key, b"user%d" % (key % 1000)) for key in keys)


KINDS = [(users_tree, records), (names_tree, names)]
every_kind = pytest.mark.parametrize(("tree", "blob"), KINDS, ids=["users", "names"])
NewTree = Callable[[], BucketTree]
Packed = Callable[[list[UserKey]], bytes]


def test_a_store_begins_with_the_buckets_of_the_table() -> None:
    assert BUCKETS == bucketnumbers.BUCKETS == 4096


@pytest.mark.parametrize("number", [0, 1, BUCKETS - 1, BUCKETS, 3 * BUCKETS - 1, 3 * BUCKETS, DEEPEST])
def test_below_and_above_lead_back_and_the_root_is_at_the_top(number: int) -> None:
    top = number
    while top >= BUCKETS:
        top = above(top)
    assert root_of(number) == top
    assert [above(one) for one in below(number)] == [number, number]
    assert [level(one) for one in below(number)] == [level(number) + 1] * 2


def test_the_last_number_is_of_the_last_level() -> None:
    assert level(DEEPEST) == LEVELS
    assert level(DEEPEST + 1) == LEVELS + 1


def test_the_first_key_of_a_bucket_is_where_the_one_before_ends() -> None:
    low, high = below(5)
    assert first_key(5) == first_key(low) == 5 << BUCKET_SHIFT
    assert first_key(high) == (5 << BUCKET_SHIFT) + (1 << BUCKET_SHIFT - 1)
    assert first_key(below(high)[1]) == (5 << BUCKET_SHIFT) + (3 << BUCKET_SHIFT - 2)
    assert belongs(first_key(high), high)
    assert not belongs(first_key(high), low)
    assert not belongs(UserKey(first_key(high) - 1), high)
    assert belongs(UserKey((1 << 64) - 1), DEEPEST)


def test_a_bucket_that_is_not_split_is_its_own_leaf() -> None:
    tree = users_tree()
    assert tree.leaves(7) == [7]
    assert tree.leaf_of(UserKey(7 << BUCKET_SHIFT)) == 7
    assert 7 not in tree


def test_leaves_come_in_the_order_of_their_keys() -> None:
    tree = users_tree()
    low, high = below(7)
    for number in (7, high):
        tree.learn(number, split=True)
    leaves = [low, *below(high)]
    assert tree.leaves(7) == leaves
    assert [tree.leaf_of(first_key(leaf)) for leaf in leaves] == leaves
    assert sorted(tree) == [7, high]
    assert tree.path(leaves[-1]) == [high, 7]


def test_a_bucket_found_whole_again_has_nothing_below_it() -> None:
    tree = users_tree()
    low, _ = below(7)
    for number in (7, low):
        tree.learn(number, split=True)
    tree.learn(7, split=False)
    assert tree.leaves(7) == [7]
    tree.learn(7, split=True)
    assert tree.leaves(7) == list(below(7))


@every_kind
@pytest.mark.parametrize("bucket", [0, 1234, 4095])
def test_every_key_goes_to_its_leaf_and_none_is_lost(tree: NewTree, blob: Packed, bucket: int) -> None:
    known, keys = tree(), keys_of(bucket, 3000)
    whole = blob(keys)
    division = known.divide(bucket, whole, may_split=True)
    assert b"".join(part for _, part in division.leaves) == whole
    assert division.splits[0] == bucket
    for number in division.splits:
        known.learn(number, split=True)
    assert [leaf for leaf, _ in division.leaves] == known.leaves(bucket)
    for leaf, part in division.leaves:
        assert len(part) <= known.split_above
        assert part == blob([key for key in keys if known.leaf_of(key) == leaf])
        assert part == blob([key for key in keys if belongs(key, leaf)])
    assert known.divide(bucket, whole, may_split=True) == Division(division.leaves, [])


@every_kind
def test_what_is_small_enough_or_must_not_be_split_stays_whole(tree: NewTree, blob: Packed) -> None:
    known = tree()
    large = blob(keys_of(9, 3000))
    assert known.divide(9, large, may_split=False) == Division([(9, large)], [])
    assert known.divide(9, b"", may_split=True) == Division([(9, b"")], [])


def test_exactly_the_limit_is_not_split_and_one_more_is() -> None:
    keys = keys_of(3, 513)
    assert users_tree().divide(3, records(keys[:512]), may_split=True).splits == []
    assert users_tree().divide(3, records(keys), may_split=True).splits == [3]
    assert users_tree().split_above == 512 * RECORD.size


def test_keys_that_are_all_alike_are_split_to_the_deepest_level_and_no_further() -> None:
    keys = [UserKey(7 << BUCKET_SHIFT | number) for number in range(2000)]
    division = users_tree().divide(7, records(keys), may_split=True)
    assert len(division.splits) == LEVELS
    assert [len(part) for _, part in division.leaves] == [2000 * RECORD.size, *[0] * LEVELS]
