"""The names behind the keys."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from director.core.placement.names import NameTable
from director.core.placement.users import RECORD
from director.types import UserKey
from tests.twins import NAMES, hot_path

pytestmark = pytest.mark.parametrize("twin", NAMES)

FIVE = 5 << 52
TOP = 4095 << 52


def entry(key: int, name: bytes) -> bytes:
    return key.to_bytes(8, "big") + len(name).to_bytes(2, "big") + name


def table(twin: str, *entries: bytes) -> NameTable:
    names = hot_path(twin).NameTable()
    names.add(b"".join(entries))
    names.take_dirty()
    return names


def everything(names: NameTable) -> bytes:
    return b"".join(map(names.bucket, [0, 5]))


def test_names_go_to_the_bucket_of_their_key(twin: str) -> None:
    names = hot_path(twin).NameTable()
    names.add(entry(TOP | 1, b"zoe") + entry(FIVE | 2, b"bob") + entry(FIVE | 1, b""))
    assert names.names(5) == {FIVE | 1: "", FIVE | 2: "bob"}
    assert names.names(4095) == {TOP | 1: "zoe"}
    assert names.dirty_count == 2
    assert names.take_dirty() == [5, 4095]
    assert names.take_dirty() == []


def test_a_bucket_has_one_entry_for_each_key_in_their_order(twin: str) -> None:
    names = table(twin, entry(FIVE | 2, b"bob"), entry(FIVE | 1, b"Alice"), entry(FIVE | 1, b"alice"))
    assert names.bucket(5) == entry(FIVE | 1, b"alice") + entry(FIVE | 2, b"bob")


def test_the_last_name_of_a_key_is_shown(twin: str) -> None:
    assert table(twin, entry(1, b"alice"), entry(1, b"Alice")).names(0) == {1: "Alice"}


def test_bytes_that_are_no_utf_8_are_shown_replaced_and_kept_as_they_are(twin: str) -> None:
    names = table(twin, entry(1, b"a\xff"))
    assert names.names(0) == {1: "a\ufffd"}
    assert names.bucket(0) == entry(1, b"a\xff")


def test_the_same_user_a_thousand_times_takes_the_room_of_a_few(twin: str) -> None:
    names = hot_path(twin).NameTable()
    for _ in range(1000):
        names.add(entry(1, b"alice@example.com"))
    assert len(names) < 2000
    assert names.bucket(0) == entry(1, b"alice@example.com")


def test_the_length_is_that_of_all_entries(twin: str) -> None:
    assert len(table(twin, entry(1, b"alice"), entry(FIVE, b"bob"))) == 10 + 5 + 10 + 3


def test_of_some_names_those_that_are_not_known_by_any_name_are_found(twin: str) -> None:
    names = table(twin, entry(FIVE | 2, b"bob"), entry(FIVE | 2, b"Bob"), entry(1, b""))
    news = entry(FIVE | 1, b"alice") + entry(TOP, b"zoe")
    assert names.missing(entry(FIVE | 2, b"bobby") + news + entry(1, b"x"), 9) == news
    assert names.missing(entry(1, b"x") + news, 2) == entry(FIVE | 1, b"alice")
    assert names.missing(news, 0) == b""
    assert names.missing(b"", 9) == b""
    assert names.dirty_count == 0


@pytest.mark.shows("A-30")
def test_names_of_over_255_bytes_are_not_kept_wherever_they_come_from(twin: str) -> None:
    names, kept = hot_path(twin).NameTable(), entry(FIVE | 1, b"x" * 255)
    long = entry(FIVE | 2, b"x" * 256) + entry(FIVE | 3, b"y" * 4000)
    names.add(long + kept + long)
    assert names.merge(long) is False
    assert not names.merge(long + kept)
    assert names.missing(long, 9) == b""
    assert (names.bucket(5), len(names)) == (kept, len(kept))
    assert names.merge(long + entry(FIVE | 4, b"bob"))
    assert names.bucket(5) == kept + entry(FIVE | 4, b"bob")


def test_merging_says_whether_anything_was_new(twin: str) -> None:
    names = table(twin, entry(1, b"alice"))
    assert names.merge(entry(2, b"bob") + entry(FIVE, b"eve"))
    assert not names.merge(names.bucket(0))
    assert names.take_dirty() == [0, 5]
    assert names.names(0) == {1: "alice", 2: "bob"}


def test_of_two_names_for_one_key_merging_keeps_the_greater_one(twin: str) -> None:
    names = table(twin, entry(1, b"alice"))
    assert not names.merge(entry(1, b"Alice"))
    assert names.merge(entry(1, b"bob") + entry(1, b"Bob"))
    assert names.names(0) == {1: "bob"}


def test_many_names_of_one_bucket_merge_as_one_by_one(twin: str) -> None:
    numbers = random.Random(1)
    before, after = (
        [entry(FIVE | numbers.randrange(300), b"%d" % numbers.randrange(1000)) for _ in range(500)]
        for _ in range(2)
    )
    at_once, singly, plain = table(twin, *before), table(twin, *before), table("pure", *before)
    assert at_once.merge(b"".join(after))
    for one in after:
        singly.merge(one)
        plain.merge(one)
    assert at_once.bucket(5) == singly.bucket(5) == plain.bucket(5)
    assert len(at_once) == len(at_once.bucket(5))
    assert not at_once.merge(b"".join(reversed(after)))


def test_what_is_taken_in_counts_with_the_names_that_had_to_be_looked_at_for_it(twin: str) -> None:
    many = b"".join(entry(FIVE | number, b"%d" % number) for number in range(100))
    names = hot_path(twin).NameTable()
    names.add(many)
    assert names.take_looked_at() >= 100
    names.merge(many)
    assert names.take_looked_at() >= 200
    assert names.take_looked_at() == 0


def test_an_empty_name_from_elsewhere_is_a_name_too(twin: str) -> None:
    names = hot_path(twin).NameTable()
    assert names.merge(entry(1, b""))
    assert names.names(0) == {1: ""}


def test_a_sweep_drops_the_names_of_users_who_are_not_kept(twin: str) -> None:
    names = table(twin, entry(1, b"alice"), entry(2, b"bob"), entry(FIVE, b"eve"))
    assert names.sweep(0, RECORD.pack(2, 1, 1, 1, 0) + RECORD.pack(3, 1, 1, 1, 0))
    assert (names.names(0), names.names(5)) == ({2: "bob"}, {FIVE: "eve"})
    assert names.take_dirty() == [0]


def test_a_sweep_that_keeps_everybody_changes_nothing(twin: str) -> None:
    names = table(twin, entry(1, b"alice"))
    assert not names.sweep(0, RECORD.pack(1, 1, 1, 1, 0))
    assert names.dirty_count == 0


def test_a_bucket_marked_dirty_by_hand_is_given_once(twin: str) -> None:
    names = hot_path(twin).NameTable()
    names.mark_dirty(9)
    names.mark_dirty(9)
    assert names.take_dirty() == [9]


@pytest.mark.parametrize("cut", [1, 9, 10, 14])
def test_entries_that_end_in_the_middle_are_refused_as_a_whole(twin: str, cut: int) -> None:
    names = hot_path(twin).NameTable()
    broken = entry(1, b"alice") + entry(2, b"alice")[:cut]
    with pytest.raises(ValueError, match="end in the middle"):
        names.merge(broken)
    with pytest.raises(ValueError, match="end in the middle"):
        names.add(broken)
    assert (len(names), names.dirty_count) == (0, 0)


blobs = st.lists(
    st.builds(entry, st.sampled_from([1, 2, FIVE]), st.sampled_from([b"", b"a", b"A", b"b"])), max_size=6
).map(b"".join)


@settings(max_examples=60)
@given(one=blobs, two=blobs, three=blobs)
def test_names_merge_to_the_same_whatever_their_order_and_grouping(
    twin: str, one: bytes, two: bytes, three: bytes
) -> None:
    left, right, other = hot_path(twin).NameTable(), hot_path(twin).NameTable(), hot_path(twin).NameTable()
    left.merge(one + two + three)
    right.merge(three)
    other.merge(two)
    other.merge(one)
    right.merge(everything(other))
    assert everything(left) == everything(right)
    assert not left.merge(everything(right))


def test_the_names_of_chosen_users_are_those_of_their_records_and_no_others(twin: str) -> None:
    names = table(
        twin,
        entry(FIVE | 1, b"old"),
        entry(FIVE | 1, b"ann"),
        entry(FIVE | 2, b"bob"),
        entry(FIVE | 7, b"eve"),
    )
    records = b"".join(RECORD.pack(FIVE | key, 1, 1, 1, 0) for key in (1, 3, 7))
    assert names.entries_of(5, records) == entry(FIVE | 1, b"ann") + entry(FIVE | 7, b"eve")
    assert names.entries_of(5, b"") == b""
    assert names.entries_of(6, records) == b""


def test_what_was_taken_raw_comes_to_the_same_names_elsewhere(twin: str) -> None:
    names = table(twin, entry(FIVE | 2, b"bob"), entry(FIVE | 1, b"alice"), entry(FIVE | 2, b"bob"))
    assert [names.raw(number) for number in (0, 6)] == [b"", b""]
    other = table(twin)
    other.merge(names.raw(5))
    assert everything(other) == everything(names)


def test_a_lost_name_is_missing_although_its_key_is_in_another_name(twin: str) -> None:
    names = hot_path(twin).NameTable()
    lost = UserKey(0x6162636465666768)
    names.add(entry(UserKey(0x6162636465666769), b"--abcdefgh--"))
    assert names.missing(entry(lost, b"lost"), 1) == entry(lost, b"lost")


def test_half_entries_are_refused_however_few_are_asked_for(twin: str) -> None:
    with pytest.raises(ValueError, match="end in the middle"):
        hot_path(twin).NameTable().missing(entry(UserKey(1), b"name") + b"half", 1)
