"""How far ahead a time may be, and what becomes of those that are further ahead."""

from __future__ import annotations

import msgspec
import pytest

from director.core.placement.users import LATEST
from director.core.protocol.messages import HostRow, MemberRow
from director.core.protocol.stamps import (
    AHEAD,
    Bound,
    after,
    bound_at,
    clipped_host,
    clipped_member,
    restored_host,
    restored_member,
)
from director.core.tables.hosts import merge_rows

NOW = 1_795_000_000
BOUND = bound_at(NOW, 900, 2.0)
ROW = HostRow("10.1.0.1", "imap", True, 0, "gold", 0, 50, 0, False, 0)
STAMPS = ("present_at", "tag_at", "weight_at", "up_at")


@pytest.mark.shows("rule 3")
def test_a_stamp_is_later_than_the_one_it_replaces_and_saturates() -> None:
    assert after(NOW, 0) == NOW
    assert after(NOW, NOW) == NOW + 1
    assert after(NOW, NOW, 7) == NOW + 7
    assert [after(NOW, LATEST, apart) for apart in (1, 7)] == [LATEST, LATEST]
    assert after(LATEST + 6, 0) == LATEST


def test_an_hour_ahead_is_the_bound_and_what_others_clip_by_their_clocks_is_below_it() -> None:
    assert (
        Bound(latest=NOW + AHEAD, hosts=NOW + AHEAD - 4, decided=NOW + AHEAD + 12, seen=NOW + AHEAD + 312)
        == BOUND
    )
    for skew in (-2, 0, 2):
        other = bound_at(NOW + skew, 900, 2.0)
        assert other.latest <= BOUND.decided
        assert other.hosts <= BOUND.latest  # a host is there before the users that are clipped elsewhere
        assert other.hosts + 7 <= BOUND.decided  # and may be added again


@pytest.mark.parametrize("unix", [-5, 0, LATEST - 10, LATEST + 10, 10**12])
def test_the_bound_fits_into_a_record_whatever_the_clock_says(unix: int) -> None:
    assert all(0 <= time <= LATEST for time in bound_at(unix, 900, 2.0))


@pytest.mark.shows("rule 45")
@pytest.mark.parametrize("ahead", [0, 3, 6, 7, 8, 60, AHEAD])
def test_honest_stamps_are_not_changed(ahead: int) -> None:
    row = msgspec.structs.replace(ROW, **dict.fromkeys(STAMPS, NOW + ahead))
    assert clipped_host(row, BOUND, None) is row
    member = MemberRow("10.0.0.1:9090", True, NOW + ahead)
    assert clipped_member(member, BOUND, None) is member


@pytest.mark.parametrize("stamp", STAMPS)
@pytest.mark.parametrize("far", [NOW + AHEAD + 13, LATEST, LATEST + 1, 1 << 63])
def test_each_stamp_that_is_too_far_ahead_is_clipped_by_itself(stamp: str, far: int) -> None:
    row = msgspec.structs.replace(ROW, **{stamp: far})
    clipped = clipped_host(row, BOUND, None)
    assert clipped == msgspec.structs.replace(ROW, **{stamp: BOUND.hosts})
    assert clipped_host(clipped, BOUND, None) is clipped


def test_the_rows_of_a_director_are_clipped_too() -> None:
    assert clipped_member(MemberRow("10.0.0.1:9090", False, LATEST, "d1:9090"), BOUND, None) == MemberRow(
        "10.0.0.1:9090", False, BOUND.hosts, "d1:9090"
    )


def test_what_is_repeated_with_a_stamp_far_ahead_changes_nothing_here() -> None:
    mine = msgspec.structs.replace(ROW, **dict.fromkeys(STAMPS, NOW))
    theirs = msgspec.structs.replace(ROW, **dict.fromkeys(STAMPS, LATEST))
    assert merge_rows(mine, clipped_host(theirs, BOUND, mine)) == mine
    member = MemberRow("10.0.0.1:9090", True, NOW)
    assert clipped_member(msgspec.structs.replace(member, at=LATEST), BOUND, member) == member


def test_former_stamps_come_back_and_what_was_decided_since_is_later() -> None:
    wrong = BOUND.decided
    before = msgspec.structs.replace(ROW, present_at=5, tag_at=NOW + 90_000, weight_at=NOW + 90_000, up_at=7)
    clipped = clipped_host(before, BOUND, None)
    assert restored_host(clipped, before, wrong) == before
    since = msgspec.structs.replace(clipped, weight=70, weight_at=BOUND.hosts + 1, up=True, up_at=NOW)
    assert restored_host(since, before, wrong) == msgspec.structs.replace(
        before, weight=70, weight_at=NOW + 90_001, up=True, up_at=NOW
    )
    member = MemberRow("10.0.0.1:9090", True, NOW + 90_000)
    assert restored_member(clipped_member(member, BOUND, None), member, wrong) == member
    removed = MemberRow("10.0.0.1:9090", False, NOW)
    assert restored_member(removed, member, wrong) == MemberRow("10.0.0.1:9090", False, NOW + 90_001)
    assert restored_member(MemberRow("10.0.0.1:9090", False, NOW + 90_002), member, wrong).at == NOW + 90_002


@pytest.mark.shows("rule 46")
def test_an_earlier_word_by_a_right_clock_that_came_meanwhile_does_not_undo_what_was_clipped() -> None:
    wrong = BOUND.decided
    before = msgspec.structs.replace(ROW, weight_at=NOW + 90_000)
    earlier = msgspec.structs.replace(ROW, weight=7, weight_at=NOW + 89_000)
    assert restored_host(earlier, before, wrong) == before
    member = MemberRow("10.0.0.1:9090", True, NOW + 90_000)
    assert restored_member(MemberRow("10.0.0.1:9090", False, NOW + 89_000), member, wrong) == member


def test_a_row_with_the_values_of_the_configuration_moves_no_user() -> None:
    theirs = msgspec.structs.replace(ROW, **dict.fromkeys(STAMPS, LATEST))
    assert merge_rows(ROW, clipped_host(theirs, BOUND, ROW)) == ROW


def test_a_stored_row_that_says_what_the_configuration_says_is_an_operators_word_all_the_same() -> None:
    stored = msgspec.structs.replace(ROW, present_at=LATEST)
    assert merge_rows(ROW, clipped_host(stored, BOUND, None)).present_at == BOUND.hosts
