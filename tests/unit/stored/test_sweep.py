"""A sweep deletes long expired records and names without records, and keeps all others."""

from __future__ import annotations

import pytest

from director.core.placement.names import entry
from director.core.placement.users import BY_HAND, MOVING, PINNED, User, pack
from director.stored.sweep import LATER, sweep_names, sweep_users
from director.types import HostId, Stamp, UserKey
from tests.twins import NAMES, hot_path

EXPIRE = 900
SEEN = 1_800_000_000
"""A multiple of a third of EXPIRE: stored as it is."""
GONE = SEEN + 2 * EXPIRE + LATER


def user(key: int, *, seen: int = SEEN, flags: int = 0, host: int = 1) -> User:
    return User(UserKey(key), HostId(host), Stamp(seen), seen, flags)


def test_a_record_that_expired_two_minutes_ago_is_dropped_and_the_others_stay_in_their_order() -> None:
    blob = pack([user(1), user(2, seen=SEEN + 300), user(3), user(4, seen=SEEN + 600)])
    swept = sweep_users(blob, GONE, EXPIRE)
    assert swept.blob == pack([user(2, seen=SEEN + 300), user(4, seen=SEEN + 600)])
    assert (swept.dropped, swept.due) == (2, GONE + 300)


@pytest.mark.shows("S-36")
def test_an_expired_record_stays_for_another_expiry_and_two_minutes() -> None:
    blob = pack([user(1), user(2)])
    assert sweep_users(blob, GONE - 1, EXPIRE) == (blob, 0, GONE)
    assert sweep_users(blob, GONE, EXPIRE) == (b"", 2, None)


@pytest.mark.shows("S-36")
def test_a_pin_and_a_move_in_progress_are_never_swept() -> None:
    blob = pack([user(1, flags=PINNED | BY_HAND), user(2, flags=MOVING | BY_HAND)])
    assert sweep_users(blob, GONE + 10**6, EXPIRE) == (blob, 0, None)


@pytest.mark.shows("S-36")
def test_the_record_of_a_forgotten_user_is_swept_when_it_has_long_expired() -> None:
    tombstone = user(1, host=0, flags=BY_HAND)
    assert sweep_users(pack([tombstone]), GONE - 1, EXPIRE).dropped == 0
    assert sweep_users(pack([tombstone]), GONE, EXPIRE).dropped == 1


@pytest.mark.parametrize("blob", [b"marker of a split bucket", pack([user(1)])[:-1]])
def test_what_is_no_whole_number_of_records_is_left_as_it_is(blob: bytes) -> None:
    assert sweep_users(blob, GONE, EXPIRE) == (blob, 0, None)


@pytest.mark.parametrize("twin", NAMES)
def test_a_record_that_a_user_table_still_has_is_not_swept(twin: str) -> None:
    users = hot_path(twin).UserTable(EXPIRE)
    users.merge(pack([user(1), user(2, seen=SEEN + 1), user(3, seen=SEEN + 300), user(4, flags=PINNED)]))
    stored = users.stored_bucket(0)
    for now in range(GONE - LATER - 600, GONE + 1200, 10):
        kept = sweep_users(stored, now, EXPIRE).blob
        users.sweep(0, now)
        known = users.stored_bucket(0)
        assert {known[at : at + 22] for at in range(0, len(known), 22)} <= {
            kept[at : at + 22] for at in range(0, len(kept), 22)
        }
    assert len(users) == 1


def test_names_of_users_without_a_record_are_swept() -> None:
    entries = entry(UserKey(1), b"alice") + entry(UserKey(2), b"bob")
    swept = sweep_names(entries, lambda key: key == 2)
    assert (swept.blob, swept.dropped) == (entry(UserKey(2), b"bob"), 1)
    assert sweep_names(entries, lambda key: True).blob == entries


def test_names_that_are_too_long_to_be_kept_go_though_their_users_are_known() -> None:
    entries = entry(UserKey(1), b"x" * 256) + entry(UserKey(2), b"x" * 255)
    swept = sweep_names(entries, lambda key: True)
    assert (swept.blob, swept.dropped) == (entry(UserKey(2), b"x" * 255), 1)


def test_truncated_names_are_left_as_they_are() -> None:
    entries = entry(UserKey(1), b"alice")[:-1]
    assert sweep_names(entries, lambda key: False) == (entries, 0, None)
