"""The list of directors: configuration, and what operators changed at run time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.core.protocol.messages import MemberRow
from director.core.tables.members import (
    MOST_ROWS,
    MemberTable,
    decode_member_rows,
    decode_met,
    encode_member_rows,
    merge_member_rows,
)
from director.types import MemberId
from tests.unit.core.cores import D1, D2, D3

ROWS = st.builds(MemberRow, st.sampled_from([D1, D2, D3]), st.booleans(), st.integers(0, 3))


@given(ROWS, ROWS, ROWS)
def test_rows_merge_to_the_same_whatever_the_order(one: MemberRow, two: MemberRow, three: MemberRow) -> None:
    a, b, c = (MemberRow(D1, row.present, row.at) for row in (one, two, three))
    assert merge_member_rows(a, merge_member_rows(b, c)) == merge_member_rows(merge_member_rows(c, a), b)
    assert merge_member_rows(a, a) == a


@pytest.mark.shows("R-32")
@given(st.lists(ROWS))
def test_tables_that_have_seen_the_same_rows_are_the_same(rows: list[MemberRow]) -> None:
    one, other = MemberTable([D1]), MemberTable([D1])
    one.merge(rows)
    for row in reversed(rows):
        other.merge([row, row])
    assert (one.rows, one.listed(), one.digest()) == (other.rows, other.listed(), other.digest())


def test_the_later_word_wins_and_of_two_in_one_second_the_removal() -> None:
    added, removed = MemberRow(D1, True, 5), MemberRow(D1, False, 5)
    assert merge_member_rows(added, removed) == removed
    assert merge_member_rows(MemberRow(D1, True, 6), removed).present


def test_what_was_changed_at_run_time_wins_over_the_configuration() -> None:
    table = MemberTable([D2, D1])
    assert table.listed() == [D1, D2]
    table.change(D2, 100, present=False)
    table.change(D3, 100, present=True)
    assert (table.listed(), table.removed()) == ([D1, D3], [D2])
    table.configured = (D1, D2, D3)
    assert table.listed() == [D1, D3]


def test_a_change_to_what_is_so_already_is_none() -> None:
    table = MemberTable([D1])
    assert table.change(D1, 100, present=True) is None
    assert table.change(D2, 100, present=False) is None
    assert table.rows == {}


def test_a_change_is_later_than_the_one_it_takes_back_even_against_a_clock_ahead() -> None:
    table = MemberTable([D1, D2])
    table.merge([MemberRow(D2, False, 500)])
    row = table.change(D2, 100, present=True)
    assert row == MemberRow(D2, True, 501)


def test_only_news_is_passed_on() -> None:
    table = MemberTable([D1])
    row = MemberRow(D2, True, 5)
    assert table.merge([row, MemberRow(D2, True, 4)]) == [row]
    assert table.merge([row]) == []


def test_a_list_that_is_being_rolled_out_does_not_keep_the_ring_from_agreeing() -> None:
    assert MemberTable([D1, D2]).digest() == MemberTable([D1]).digest() == b""
    one, other = MemberTable([D1]), MemberTable([D1])
    one.merge([MemberRow(D2, True, 5)])
    assert one.digest() != b""
    other.merge([MemberRow(D2, False, 5)])
    assert one.digest() != other.digest()


def test_the_document_of_the_store_comes_back_as_it_was_and_is_the_same_for_equal_tables() -> None:
    rows = [MemberRow(D2, True, 5), MemberRow(D1, False, 6)]
    data = encode_member_rows(rows)
    assert data == encode_member_rows(rows[::-1])
    assert decode_member_rows(data) == sorted(rows, key=lambda row: row.member)


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x91\x93\x01\xc3\x05"])
def test_what_is_no_document_is_named(data: bytes) -> None:
    with pytest.raises(ValueError, match=f"members' document of {len(data)} bytes"):
        decode_member_rows(data)


MADE_UP = [MemberRow(MemberId(f"10.9.{n // 250}.{n % 250}:9090"), True, n) for n in range(3000)]


@pytest.mark.shows("rule 47")
def test_of_too_many_directors_every_table_keeps_the_same_whatever_their_order() -> None:
    one, other = MemberTable([D1]), MemberTable([D1])
    one.merge(MADE_UP)
    for first in range(2900, -1, -100):
        other.merge(MADE_UP[first : first + 100])
    assert len(one.rows) == MOST_ROWS
    assert (one.rows, one.digest()) == (other.rows, other.digest())
    assert one.merge(MADE_UP) == []


def test_directors_that_are_configured_or_were_met_are_kept_however_many_are_made_up() -> None:
    table = MemberTable([D1, D2])
    table.met.add(D3)
    table.merge([MemberRow(D2, False, 1), MemberRow(D3, True, 1)])
    table.merge(MADE_UP)
    assert {D2, D3} <= table.rows.keys()
    assert (D3 in table.listed(), table.removed()) == (True, [D2])


def test_a_director_that_was_added_at_run_time_is_unmet_until_it_was_in_the_ring() -> None:
    table = MemberTable([D1, D2])
    table.merge([MemberRow(D3, True, 1)])
    assert table.unmet() == {D3}
    table.met.add(D3)
    assert table.unmet() == set()


@pytest.mark.shows("rule 47")
def test_that_a_director_was_met_is_kept_in_the_store_and_not_taken_from_the_ring() -> None:
    table = MemberTable([D1])
    table.merge([MemberRow(D2, True, 1), MemberRow(D3, True, 1)])
    assert decode_met(encode_member_rows(table.stored_rows())) == frozenset()
    table.met.add(D3)
    stored = encode_member_rows(table.stored_rows())
    assert decode_met(stored) == {D3}
    assert decode_member_rows(stored) == [MemberRow(D2, True, 1), MemberRow(D3, True, 1)]


NAMES = {"d1:9090": D1, "d2:9090": D2}


@pytest.mark.shows("rule 42")
def test_a_director_removed_by_name_stays_out_and_the_new_owner_of_its_address_stays_in() -> None:
    table = MemberTable([D1, D2], NAMES)
    row = table.change(D2, 500, present=False)
    assert row == MemberRow(D2, False, 500, "d2:9090")
    assert (table.listed(), table.removed()) == ([D1], [D2])
    table.configured, table.names = (D1, D2, D3), NAMES | {"d2:9090": D3, "d1:9090": D2}
    assert D3 not in table.listed()
    assert D2 in table.listed()
    assert table.removed() == [D3]
    table.configured, table.names = (D2,), {"d1:9090": D2}  # the removed director has no address
    assert (table.listed(), table.removed()) == ([D2], [])


def test_a_director_added_by_name_is_where_its_name_is() -> None:
    table = MemberTable([D1], {"d1:9090": D1})
    table.change(D2, 500, present=True, name="d4:9090")
    assert table.listed() == [D1, D2]
    table.names = {"d1:9090": D1, "d4:9090": D3}
    assert table.listed() == [D1, D3]
    table.names = {"d1:9090": D2}  # the other director has no address
    table.configured = (D2,)
    assert table.listed() == [D2]


@pytest.mark.shows("rule 42")
def test_the_later_word_holds_whether_it_was_said_of_the_name_or_of_the_address() -> None:
    table = MemberTable([D1, D2], NAMES)
    table.merge([MemberRow(D2, False, 500), MemberRow(D2, True, 600, "d2:9090")])
    assert table.listed() == [D1, D2]
    table.merge([MemberRow(D2, False, 700)])
    assert table.listed() == [D1]
