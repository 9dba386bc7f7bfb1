"""The user table, in plain Python and compiled: every test runs on both."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from director.core.placement.users import (
    BY_HAND,
    LATEST,
    MOVING,
    ONE_LOGIN,
    PINNED,
    RECORD,
    User,
    UserTable,
    keys_of,
    pack,
    record_hash,
    record_mix,
    rounded,
    unpack,
)
from director.types import HostId, Stamp, UserKey
from tests.twins import NAMES, PURE, HotPath, compiled, hot_path

EXPIRE = 300  # so `seen` is rounded up to hundreds
NOW = 1_000_000
TOP = 0xFFF << 52  # the last bucket


@pytest.fixture(scope="module", params=NAMES)
def hot(request: pytest.FixtureRequest) -> HotPath:
    return hot_path(request.param)


@pytest.fixture(scope="module")
def fast() -> HotPath:
    return compiled()


def user(key: int = 1, host: int = 7, decided: int = NOW, seen: int = NOW, flags: int = 0) -> User:
    return User(UserKey(key), HostId(host), Stamp(decided), seen, flags)


def table(hot: HotPath, *users: User) -> UserTable:
    users_table = hot.UserTable(EXPIRE)
    users_table.merge(pack(users))
    users_table.take_dirty()
    return users_table


def digest(*users: User) -> bytes:
    return (sum(map(record_mix, users)) % 2**64).to_bytes(8)


# Records that are kept


@pytest.mark.shows("rule 1")
def test_a_record_is_22_bytes_and_sorts_by_its_key() -> None:
    assert RECORD.pack(*user(key=0x0102030405060708, host=9, decided=10, seen=11, flags=12)) == bytes.fromhex(
        "0102030405060708 00000009 0000000a 0000000b 000c"
    )


def test_a_user_who_was_put_is_found_again(hot: HotPath) -> None:
    users = hot.UserTable(EXPIRE)
    users.put(user(key=TOP | 5, flags=BY_HAND))
    assert users.get(UserKey(TOP | 5)) == user(key=TOP | 5, flags=BY_HAND)
    assert isinstance(users.get(UserKey(TOP | 5)), User)
    assert len(users) == 1


def test_no_user_is_found_in_an_empty_table(hot: HotPath) -> None:
    users = hot.UserTable(EXPIRE)
    assert users.get(UserKey(5)) is None
    assert len(users) == 0


def test_a_key_between_two_known_ones_is_not_found(hot: HotPath) -> None:
    users = table(hot, user(key=4), user(key=6))
    assert [users.get(UserKey(key)) for key in (3, 5, 7)] == [None, None, None]


def test_put_replaces_whatever_was_there(hot: HotPath) -> None:
    users = table(hot, user(decided=NOW + 9, seen=NOW + 9))
    users.put(user(host=8, decided=NOW, seen=NOW))
    assert users.get(UserKey(1)) == user(host=8)
    assert len(users) == 1


def test_a_bucket_holds_its_users_by_key(hot: HotPath) -> None:
    others = [user(key=number << 52) for number in (0, 4, 6, 4095)]
    mine = [user(key=5 << 52 | low) for low in (1 << 51, 3, 1 << 40, 0, 77)]
    users = table(hot, *others, *mine)
    assert users.bucket(5) == pack(sorted(mine))
    assert users.bucket(7) == b""


@pytest.mark.shows("A-39")
def test_all_users_with_one_hash_are_found_and_no_others(hot: HotPath) -> None:
    hashes = (0, 7, 8, 9, 0xFFFFFFFF)
    everybody = {one: [user(key=one << 32 | low) for low in (0, 5, 0xFFFFFFFF)] for one in hashes}
    users = table(hot, *(one for those in everybody.values() for one in reversed(those)))
    assert {one: users.with_hash(one) for one in hashes} == {one: pack(everybody[one]) for one in hashes}
    assert users.with_hash(6) == users.with_hash(10) == users.with_hash(0x80000000) == b""


def scattered(number: int) -> int:
    return int(hashlib.md5(str(number).encode()).hexdigest()[:13], 16)


@pytest.mark.parametrize(
    "low",
    [
        scattered,
        lambda number: scattered(number) >> 40,
        lambda number: (1 << 52) - 1 - (scattered(number) >> 30),
    ],
    ids=["evenly spread", "at the bottom", "at the top"],
)
def test_a_thousand_users_of_one_bucket_are_sorted_and_found_whatever_order_they_came_in(
    hot: HotPath, low: Callable[[int], int]
) -> None:
    mine = {5 << 52 | low(number): user(5 << 52 | low(number)) for number in range(1000)}
    users = hot.UserTable(EXPIRE)
    for one in mine.values():
        users.put(one)
    assert users.bucket(5) == pack(sorted(mine.values()))
    assert [users.get(one.key) for one in mine.values()] == list(mine.values())
    assert {users.get(UserKey(key + 1)) for key in mine if key + 1 not in mine} == {None}


@pytest.mark.shows("rule 16")
def test_a_stored_bucket_has_seen_rounded_up(hot: HotPath) -> None:
    users = table(hot, user(key=1, seen=900), user(key=2, seen=901), user(key=3, seen=1000))
    assert [one.seen for one in unpack(users.stored_bucket(0))] == [900, 1000, 1000]
    assert [one.seen for one in unpack(users.bucket(0))] == [900, 901, 1000]


@pytest.mark.parametrize(
    ("seen", "result"), [(0, 0), (1, 100), (100, 100), (101, 200), (LATEST - 1, LATEST), (LATEST, LATEST)]
)
def test_seen_is_rounded_up_to_a_third_of_the_expiry_and_never_out_of_the_record(
    seen: int, result: int
) -> None:
    assert rounded(seen, EXPIRE) == result


def test_the_latest_second_stays_in_the_record_when_it_is_stored(hot: HotPath) -> None:
    users = table(hot, user(seen=LATEST))
    assert users.stored_bucket(0) == pack([user(seen=LATEST)])


def test_an_expiry_below_ten_seconds_is_refused(hot: HotPath) -> None:
    with pytest.raises(ValueError, match="9 s"):
        hot.UserTable(9)


# Announcements and the stored form


def test_what_is_put_is_announced_and_makes_its_bucket_dirty(hot: HotPath) -> None:
    users = hot.UserTable(EXPIRE)
    users.put(user(key=TOP | 1))
    users.put(user(key=2))
    assert users.has_changes
    assert users.take_changes() == pack([user(key=TOP | 1), user(key=2)])
    assert users.dirty_count == 2
    assert users.take_dirty() == [0, 4095]


def test_what_was_taken_is_not_announced_again(hot: HotPath) -> None:
    users = hot.UserTable(EXPIRE)
    users.put(user())
    users.take_changes()
    users.take_dirty()
    assert (users.has_changes, users.take_changes()) == (False, b"")
    assert (users.dirty_count, users.take_dirty()) == (0, [])


def test_a_bucket_marked_dirty_by_hand_is_given_once(hot: HotPath) -> None:
    users = hot.UserTable(EXPIRE)
    users.mark_dirty(17)
    users.mark_dirty(17)
    assert users.dirty_count == 1
    assert users.take_dirty() == [17]


def test_a_refresh_of_a_user_without_a_record_makes_no_record(hot: HotPath) -> None:
    users = hot.UserTable(EXPIRE)
    assert not users.touch(UserKey(1), NOW)
    assert len(users) == 0


def test_a_refresh_within_the_same_third_of_the_expiry_is_kept_and_not_announced(hot: HotPath) -> None:
    users = table(hot, user(seen=901))
    assert not users.touch(UserKey(1), 1000)
    assert users.get(UserKey(1)) == user(seen=1000)
    assert (users.take_changes(), users.dirty_count) == (b"", 0)


def test_a_refresh_in_the_next_third_of_the_expiry_is_announced(hot: HotPath) -> None:
    users = table(hot, user(seen=1000))
    assert users.touch(UserKey(1), 1001)
    assert users.take_changes() == pack([user(seen=1001)])
    assert users.take_dirty() == [0]


def test_a_refresh_never_lowers_seen(hot: HotPath) -> None:
    users = table(hot, user(seen=1000))
    assert not users.touch(UserKey(1), 5)
    assert users.get(UserKey(1)) == user(seen=1000)
    assert not users.has_changes


# Merging


@pytest.mark.shows("rule 2")
@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        (user(host=9, decided=6, flags=MOVING), user(host=1, decided=5)),
        (user(host=1, flags=MOVING), user(host=2)),
        (user(flags=BY_HAND), user(flags=MOVING)),
        (user(flags=PINNED), user(flags=MOVING)),
        (user(flags=0), user(flags=BY_HAND)),
        (user(flags=MOVING), user(flags=MOVING | BY_HAND)),
        (user(decided=LATEST), user(decided=0)),
        (user(host=0x7FFFFFFF), user(host=0x80000000)),
    ],
    ids=[
        "later decision",
        "lower host",
        "released before by hand",
        "released before pinned",
        "lower flags",
        "lower flags while moving",
        "unsigned stamps",
        "unsigned hosts",
    ],
)
def test_the_better_decision_wins_in_any_order(hot: HotPath, winner: User, loser: User) -> None:
    for first, second in itertools.permutations([winner, loser]):
        assert list(unpack(table(hot, first, second).bucket(0))) == [winner]


def test_seen_is_the_later_of_both_whichever_decision_wins(hot: HotPath) -> None:
    users = table(hot, user(decided=6, seen=1), user(decided=5, seen=9))
    assert users.get(UserKey(1)) == user(decided=6, seen=9)


def test_a_merge_gives_the_records_that_said_something_new_as_they_are_now(hot: HotPath) -> None:
    users = table(hot, user(key=1, host=5, decided=9), user(key=2), user(key=3, seen=900))
    news = users.merge(
        pack(
            [
                user(key=4),
                user(key=1, host=4, decided=8, seen=NOW + 1),
                user(key=2),
                user(key=3, seen=901),
                user(key=TOP | 3),
            ]
        )
    )
    assert news == pack(
        [
            user(key=4),
            user(key=1, host=5, decided=9, seen=NOW + 1),
            user(key=3, seen=901),
            user(key=TOP | 3),
        ]
    )
    assert users.take_dirty() == [0, 4095]


def test_a_later_seen_in_the_same_third_of_the_expiry_is_kept_but_is_no_news(hot: HotPath) -> None:
    users = table(hot, user(seen=901))
    assert users.merge(pack([user(seen=999)])) == b""
    assert users.dirty_count == 0
    assert users.get(UserKey(1)) == user(seen=999)


def test_what_was_merged_is_not_announced(hot: HotPath) -> None:
    users = hot.UserTable(EXPIRE)
    users.merge(pack([user()]))
    assert not users.has_changes


def test_a_broken_blob_is_refused_as_a_whole(hot: HotPath) -> None:
    users = hot.UserTable(EXPIRE)
    with pytest.raises(ValueError, match="23 bytes"):
        users.merge(pack([user()]) + b"x")
    assert len(users) == 0


# Displaced users


def no_record(key: int) -> User:
    return user(key=key, host=0, decided=0, seen=0, flags=0)


@pytest.mark.parametrize(
    "later",
    [
        user(host=8, decided=NOW + 1),
        user(host=8, decided=NOW + 1, flags=MOVING),
        user(decided=NOW + 1, flags=MOVING | BY_HAND),
        user(host=0, decided=NOW + 1, flags=MOVING),
        user(host=6),
    ],
    ids=["other host", "moved", "only moving", "forgotten", "lower host"],
)
def test_the_former_record_is_returned_if_a_merge_changes_host_or_moving(hot: HotPath, later: User) -> None:
    users = table(hot, user(seen=901))
    users.merge(pack([later]))
    assert users.has_displaced
    assert users.take_displaced() == pack([user(seen=901)])
    assert (users.has_displaced, users.take_displaced()) == (False, b"")


def test_the_former_record_is_returned_if_a_merge_ends_the_move(hot: HotPath) -> None:
    users = table(hot, user(flags=MOVING))
    users.take_displaced()
    users.merge(pack([user(decided=NOW + 1)]))
    assert users.take_displaced() == pack([user(flags=MOVING)])


def test_the_former_record_is_returned_if_a_later_move_to_the_same_host_replaces_the_move(
    hot: HotPath,
) -> None:
    users = table(hot, user(flags=MOVING))
    users.take_displaced()
    users.merge(pack([user(decided=NOW + 1, flags=MOVING | PINNED)]))
    assert users.take_displaced() == pack([user(flags=MOVING)])


def test_an_unknown_user_who_comes_in_on_the_move_is_given_as_one_on_no_host(hot: HotPath) -> None:
    users = hot.UserTable(EXPIRE)
    users.merge(pack([user(key=TOP | 3, flags=MOVING | PINNED)]))
    assert users.take_displaced() == pack([no_record(TOP | 3)])


def test_a_new_record_without_moving_displaces_no_user(hot: HotPath) -> None:
    users = hot.UserTable(EXPIRE)
    users.merge(pack([user(flags=BY_HAND)]))
    assert not users.has_displaced


@pytest.mark.parametrize(
    "other",
    [
        user(decided=NOW + 1),
        user(seen=NOW + 500),
        user(decided=NOW + 1, flags=BY_HAND | PINNED),
        user(host=8, decided=NOW - 1, flags=MOVING),
        user(host=8),
    ],
    ids=["later decision", "later seen", "other flags", "earlier decision", "higher host"],
)
def test_a_user_whose_host_and_moving_stay_as_they_are_is_not_displaced(hot: HotPath, other: User) -> None:
    users = table(hot, user())
    users.merge(pack([other]))
    assert not users.has_displaced


def test_a_user_displaced_twice_is_returned_twice_in_that_order(hot: HotPath) -> None:
    users = table(hot, user())
    users.merge(pack([user(host=8, decided=NOW + 1), user(key=2), user(host=9, decided=NOW + 2)]))
    assert users.take_displaced() == pack([user(), user(host=8, decided=NOW + 1)])


def test_an_assignment_made_here_displaces_no_user(hot: HotPath) -> None:
    users = table(hot, user())
    users.put(user(host=8, decided=NOW + 1, flags=MOVING))
    users.touch(UserKey(1), NOW + 500)
    assert not users.has_displaced


few_keys = st.sampled_from([1, 2, 3, 5 << 52 | 1, 5 << 52 | 2, TOP | 9])
some_records = st.lists(
    st.builds(
        user,
        key=few_keys,
        host=st.integers(1, 3),
        decided=st.integers(0, 3),
        seen=st.sampled_from([899, 900, 901, 1000, 1001]),
        flags=st.integers(0, 7),
    ),
    max_size=12,
)


FEW = [0, 5, 4095]


def few_buckets(users: UserTable) -> bytes:
    """The buckets of `few_keys`."""
    return b"".join(map(users.bucket, FEW))


def everything(users: UserTable) -> bytes:
    return b"".join(map(users.bucket, range(4096)))


@pytest.mark.shows("rule 2")
@settings(max_examples=60)
@given(records=some_records, data=st.data())
def test_records_merge_to_the_same_whatever_their_order_and_grouping(
    hot: HotPath, records: list[User], data: st.DataObject
) -> None:
    at_once = table(hot, *records)
    shuffled = data.draw(st.permutations(records))
    cut = data.draw(st.integers(0, len(records)))
    left, right = table(hot, *shuffled[:cut]), table(hot, *shuffled[cut:])
    right.merge(few_buckets(left))
    assert few_buckets(right) == few_buckets(at_once)


@settings(max_examples=60)
@given(records=some_records)
def test_merging_the_same_again_changes_nothing(hot: HotPath, records: list[User]) -> None:
    users = table(hot, *records)
    before = few_buckets(users)
    assert users.merge(before) == b""
    assert users.merge(pack(records)) == b""
    assert (few_buckets(users), users.dirty_count) == (before, 0)


# Summaries


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (user(key=0, host=0, decided=0, seen=0), "238275bc38fc"),
        (user(key=1, host=2, decided=3, seen=400, flags=5), "cf4e5413dc8c"),
        (
            user(key=0x64A5C8F2A1B2C3D4, host=0xC0A80001, decided=1_700_000_000, seen=1_700_000_100),
            "26513f921d09",
        ),
        (user(key=2**64 - 1, host=LATEST, decided=LATEST, seen=LATEST, flags=7), "224d96d2d7f9"),
    ],
)
def test_the_hash_of_a_record_is_the_same_in_every_version(hot: HotPath, one: User, expected: str) -> None:
    assert f"{record_hash(one):012x}" == expected
    assert table(hot, one).summary(one.key >> 52, one.seen).hex() == expected


def test_a_summary_has_the_hash_of_each_stored_record_by_key(hot: HotPath) -> None:
    users = table(hot, user(key=TOP | 2, seen=1001), user(key=TOP | 1, seen=1001), user(key=1, seen=1001))
    stored = [user(key=TOP | 1, seen=1100), user(key=TOP | 2, seen=1100)]
    assert users.summary(4095, 1100) == b"".join(record_hash(one).to_bytes(6) for one in stored)
    assert users.summary(5, 1100) == b""


@pytest.mark.parametrize("change", ["key", "host", "decided", "seen", "flags"])
def test_a_record_that_differs_in_anything_has_another_hash(change: str) -> None:
    one = user(key=1, host=1, decided=1, seen=100, flags=1)
    assert record_hash(one._replace(**{change: 2})) != record_hash(one)


def test_a_user_who_is_gone_is_in_no_summary_and_missing_nowhere(hot: HotPath) -> None:
    users = table(hot, user(key=1, seen=900), user(key=2, seen=1000), user(key=3, seen=0, flags=PINNED))
    assert len(users.summary(0, 1499)) == 18
    assert len(users.summary(0, 1500)) == 12
    assert users.missing(0, b"", 1500) == pack([user(key=2, seen=1000), user(key=3, seen=0, flags=PINNED)])


def test_what_a_summary_does_not_know_is_missing_there_with_seen_as_it_is(hot: HotPath) -> None:
    mine = table(
        hot, user(key=1, seen=901), user(key=2, seen=901), user(key=3, seen=901), user(key=4, seen=901)
    )
    theirs = table(hot, user(key=1, seen=999), user(key=2, seen=901, host=8), user(key=3, seen=1001))
    assert mine.missing(0, theirs.summary(0, 1000), 1000) == pack(
        [user(key=2, seen=901), user(key=3, seen=901), user(key=4, seen=901)]
    )


def test_a_summary_may_be_in_any_order_and_say_more(hot: HotPath) -> None:
    mine = table(hot, *[user(key=key) for key in range(1, 300)])
    summary = mine.summary(0, NOW)
    entries = [summary[at : at + 6] for at in range(0, len(summary), 6)]
    others = [number.to_bytes(6) for number in range(100)]
    assert mine.missing(0, b"".join([*others, *reversed(entries), *entries]), NOW) == b""
    assert mine.missing(0, b"".join([*entries[1:], *others, *entries[1:]]), NOW) == pack([user(key=1)])


def test_a_summary_of_a_broken_length_is_refused(hot: HotPath) -> None:
    with pytest.raises(ValueError, match="7 bytes"):
        table(hot, user()).missing(0, bytes(7), NOW)


@settings(max_examples=60)
@given(left=some_records, right=some_records)
def test_two_directors_who_send_what_the_other_lacks_end_with_the_same(
    hot: HotPath, left: list[User], right: list[User]
) -> None:
    one, other = table(hot, *left), table(hot, *right)
    summaries = [(one.summary(number, 1200), other.summary(number, 1200)) for number in FEW]
    for_other = b"".join(one.missing(n, theirs, 1200) for n, (_, theirs) in zip(FEW, summaries, strict=True))
    for_one = b"".join(other.missing(n, mine, 1200) for n, (mine, _) in zip(FEW, summaries, strict=True))
    other.merge(for_other)
    one.merge(for_one)
    assert one.digests(1200) == other.digests(1200)


# Expiry, digests and counts


def test_a_digest_is_that_of_the_stored_bucket(hot: HotPath) -> None:
    users = table(hot, user(key=TOP | 2, seen=1001), user(key=TOP | 1, seen=1001))
    stored = [user(key=TOP | 1, seen=1100), user(key=TOP | 2, seen=1100)]
    assert users.digest(4095, 1100) == digest(*stored)
    assert users.digests(1100) == bytes(8 * 4095) + digest(*stored)


def test_the_digest_of_a_large_bucket_is_that_of_all_its_users(hot: HotPath) -> None:
    mine = [user(key=low, seen=900) for low in range(500)]
    assert table(hot, *mine).digest(0, 900) == digest(*mine)


@pytest.mark.shows("rule 18")
def test_a_user_who_is_gone_is_in_no_digest(hot: HotPath) -> None:
    users = table(hot, user(key=1, seen=900), user(key=2, seen=1000))
    assert users.digest(0, 1499) == digest(user(key=1, seen=900), user(key=2, seen=1000))
    assert users.digest(0, 1500) == digest(user(key=2, seen=1000))
    assert users.digest(0, 1600) == bytes(8)


def test_a_digest_asked_for_again_is_that_of_now_also_when_the_clock_went_back(hot: HotPath) -> None:
    one, two = user(key=1, seen=900), user(key=2, seen=1000)
    users, both = table(hot, one, two), digest(one, two)
    assert [users.digest(0, unix) for unix in (1499, 1500, 1499, 1500)] == [both, digest(two)] * 2
    users.touch(two.key, 1100)
    assert users.digest(0, 1500) == digest(two._replace(seen=1100))
    moved = two._replace(host=8, decided=NOW + 1, seen=1100)
    users.merge(pack([moved]))
    assert users.digest(0, 1500) == digest(moved)


@pytest.mark.shows("rule 34")
def test_two_directors_that_saw_a_user_at_different_seconds_of_a_third_agree_until_the_record_is_deleted(
    hot: HotPath,
) -> None:
    early, late = table(hot, user(seen=901)), table(hot, user(seen=999))
    times = range(1500, 1700)
    assert [early.digest(0, unix) for unix in times] == [late.digest(0, unix) for unix in times]


@pytest.mark.shows("rule 18", "I-46")
def test_a_sweep_drops_expired_records_and_returns_their_number(hot: HotPath) -> None:
    users = table(
        hot, user(key=1, seen=900), user(key=2, seen=901), user(key=3, seen=900), user(key=4, seen=1000)
    )
    assert users.sweep(0, 1499) == 0
    assert users.dirty_count == 0
    assert users.sweep(0, 1500) == 2
    assert [one.key for one in unpack(users.bucket(0))] == [2, 4]
    assert (len(users), users.take_dirty()) == (2, [0])


def test_a_sweep_keeps_pinned_users(hot: HotPath) -> None:
    users = table(hot, user(seen=0, flags=PINNED))
    assert users.sweep(0, NOW) == 0
    assert users.digest(0, NOW) == digest(user(seen=0, flags=PINNED))


def test_a_sweep_leaves_other_buckets_alone(hot: HotPath) -> None:
    users = table(hot, user(key=1, seen=0), user(key=TOP, seen=0))
    assert users.sweep(4095, NOW) == 1
    assert len(users) == 1


def test_counts_are_of_living_users_by_host_in_the_named_buckets(hot: HotPath) -> None:
    users = table(
        hot,
        user(key=1, host=7, seen=701),
        user(key=2, host=7, seen=700),
        user(key=3, host=7, seen=0, flags=PINNED),
        user(key=1 << 52, host=8, seen=900),
        user(key=2 << 52, host=9, seen=900),
    )
    assert users.counts(0, 2, unix=1000, since={}) == {7: 2, 8: 1}
    assert users.counts(2, 3, unix=1000, since={}) == {9: 1}
    assert users.counts(3, 4096, unix=1000, since={}) == {}


def test_users_from_before_a_host_was_added_again_are_not_counted(hot: HotPath) -> None:
    users = table(
        hot,
        user(key=1, host=7, decided=899, seen=990),
        user(key=2, host=7, decided=900, seen=990),
        user(key=3, host=71, decided=5, seen=990),
        user(key=4, host=7, decided=899, seen=990, flags=PINNED),
        user(key=1 << 52, host=8, decided=5, seen=990),
    )
    assert users.counts(0, 4096, unix=1000, since={7: 900}) == {7: 1, 71: 1, 8: 1}
    assert users.counts(0, 4096, unix=1000, since={7: 901, 71: 6, 8: 5}) == {8: 1}


# Both are one

any_user = st.builds(
    user,
    key=few_keys,
    host=st.integers(1, 3),
    decided=st.integers(0, 3) | st.just(LATEST),
    seen=st.integers(890, 1010) | st.just(LATEST),
    flags=st.integers(0, 15) | st.just(ONE_LOGIN),
)
times = st.integers(880, 1800)
buckets = st.sampled_from(FEW)
summaries = st.lists(any_user, max_size=6).map(
    lambda users: b"".join(
        record_hash(one._replace(seen=rounded(one.seen, EXPIRE))).to_bytes(6) for one in users
    )
)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), any_user),
        st.tuples(st.just("touch"), few_keys, times),
        st.tuples(st.just("merge"), st.lists(any_user, max_size=6).map(pack)),
        st.tuples(st.just("get"), few_keys),
        st.tuples(st.just("sweep"), buckets, times),
        st.tuples(st.just("shed"), buckets, times),
        st.tuples(st.just("confirm"), st.just(0), st.sampled_from([1, 6, 4096])),
        st.tuples(st.just("bucket"), buckets),
        st.tuples(st.just("stored_bucket"), buckets),
        st.tuples(st.just("digest"), buckets, times),
        st.tuples(st.just("digests"), times),
        st.tuples(st.just("summary"), buckets, times),
        st.tuples(st.just("missing"), buckets, summaries, times),
        st.tuples(
            *(st.just("counts"), st.just(0), st.sampled_from([5, 6, 4096]), times),
            st.dictionaries(st.integers(1, 4), st.integers(0, 4) | st.just(LATEST)),
        ),
        st.tuples(st.just("take_changes")),
        st.tuples(st.just("take_displaced")),
        st.tuples(st.just("take_dirty")),
        st.tuples(st.just("mark_dirty"), buckets),
        st.tuples(st.just("__len__")),
    ),
    max_size=25,
)


@settings(max_examples=120)
@given(steps=operations)
def test_the_compiled_table_does_what_the_plain_one_does(fast: HotPath, steps: list[tuple[Any, ...]]) -> None:
    plain, packed = PURE.UserTable(EXPIRE), fast.UserTable(EXPIRE)
    for name, *arguments in steps:
        assert getattr(packed, name)(*arguments) == getattr(plain, name)(*arguments)
        assert (packed.has_changes, packed.dirty_count) == (plain.has_changes, plain.dirty_count)
        assert packed.has_displaced == plain.has_displaced
    assert few_buckets(packed) == few_buckets(plain)


@settings(max_examples=25)
@given(
    keys=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 2**12).map(lambda low: low << 40), max_size=300)
)
def test_the_compiled_table_finds_any_keys(fast: HotPath, keys: list[int]) -> None:
    plain, packed = PURE.UserTable(EXPIRE), fast.UserTable(EXPIRE)
    for key in keys:
        plain.put(user(key=key))
        packed.put(user(key=key))
    assert everything(packed) == everything(plain)
    assert [packed.get(UserKey(key)) for key in keys] == [user(key=key) for key in keys]


def test_the_keys_of_records_are_those_of_their_users() -> None:
    users = [User(UserKey(key), HostId(7), Stamp(1), 2, 3) for key in (1, 1 << 63, (1 << 64) - 1)]
    assert list(keys_of(pack(users))) == [user.key for user in users]


def test_users_of_a_great_many_hosts_are_counted(hot: HotPath) -> None:
    users = hot.UserTable(EXPIRE)
    hosts = [HostId(number * 0x01000193 % (1 << 32)) for number in range(500)]  # host 0 among them
    for turn in range(2):
        for number, host in enumerate(hosts):
            users.put(User(UserKey(turn << 40 | number << 52 | 1 << 32), host, Stamp(NOW), NOW, 0))
    assert users.counts(0, 4096, unix=NOW, since={}) == dict.fromkeys(hosts, 2)


# Times that are ahead


def test_records_with_times_that_are_ahead_are_found(hot: HotPath) -> None:
    honest = [user(key=1, decided=NOW, seen=NOW + 9), user(key=2, decided=NOW + 5, seen=0)]
    ahead = [
        user(key=3, decided=NOW + 6),
        user(key=4, seen=NOW + 10),
        user(key=5, decided=LATEST, seen=LATEST),
    ]
    users = hot.UserTable(EXPIRE)
    assert users.ahead(pack([*honest, *ahead]), NOW + 5, NOW + 9) == pack(ahead)
    assert users.ahead(pack(honest), NOW + 5, NOW + 9) == users.ahead(b"", 0, 0) == b""
    assert users.ahead(pack(ahead), LATEST, LATEST) == b""


def test_each_time_that_is_ahead_is_clipped_by_itself(hot: HotPath) -> None:
    records = pack(
        [user(key=1, decided=NOW + 6, seen=NOW), user(key=2, seen=LATEST, flags=PINNED), user(key=3)]
    )
    clipped = hot.UserTable(EXPIRE).clipped(records, NOW + 5, NOW + 9, NOW + 4)
    assert list(unpack(clipped)) == [
        user(key=1, decided=NOW + 4, seen=NOW),
        user(key=2, seen=NOW + 4, flags=PINNED),
        user(key=3),
    ]
    assert records != clipped  # what was given is not changed


@pytest.mark.parametrize("method", ["ahead", "clipped"])
def test_half_a_record_is_not_judged(hot: HotPath, method: str) -> None:
    times = (0, 0) if method == "ahead" else (0, 0, 0)
    with pytest.raises(ValueError, match="23 bytes"):
        getattr(hot.UserTable(EXPIRE), method)(bytes(23), *times)


def test_a_bucket_is_clipped_in_place_and_is_to_be_written_and_is_not_announced(hot: HotPath) -> None:
    honest, ahead = user(key=1), user(key=2, decided=LATEST, seen=LATEST, flags=BY_HAND)
    moving, other = user(key=3, decided=LATEST, flags=MOVING), user(key=TOP, decided=LATEST)
    users = table(hot, honest, ahead, moving, other)
    users.take_displaced()
    before = users.digest(0, NOW)
    new = ahead._replace(decided=Stamp(NOW + 4), seen=NOW + 4)
    moves = moving._replace(decided=Stamp(NOW + 4))
    assert users.clip(0, NOW + 5, NOW + 9, NOW + 4) == pack([new, moves])
    assert list(unpack(users.bucket(0))) == [honest, new, moves]
    assert users.get(UserKey(TOP)) == other
    assert users.digest(0, NOW) != before
    assert (users.take_dirty(), users.has_changes, users.has_displaced) == ([0], False, False)


def test_a_bucket_with_nothing_ahead_is_not_written(hot: HotPath) -> None:
    users = table(hot, user())
    assert users.clip(0, NOW, NOW, NOW - 1) == b""
    assert users.take_dirty() == []


@pytest.mark.shows("rule 45")
@settings(max_examples=50)
@given(
    st.lists(
        st.builds(
            user,
            key=st.integers(0, 1 << 52 | 3),
            decided=st.integers(0, LATEST),
            seen=st.integers(0, LATEST),
            flags=st.integers(0, 7),
        ),
        max_size=20,
        unique_by=lambda one: one.key,
    ),
    st.integers(0, LATEST),
    st.integers(0, LATEST),
    st.integers(0, LATEST),
)
def test_both_twins_clip_the_same(
    fast: HotPath, users: list[User], decided: int, seen: int, latest: int
) -> None:
    one, other = table(PURE, *users), table(fast, *users)
    records = pack(users)
    assert one.ahead(records, decided, seen) == other.ahead(records, decided, seen)
    assert one.clipped(records, decided, seen, latest) == other.clipped(records, decided, seen, latest)
    for number in (0, 1):
        clipped = one.clip(number, decided, seen, latest)
        assert clipped == other.clip(number, decided, seen, latest)
        assert one.bucket(number) == other.bucket(number)
