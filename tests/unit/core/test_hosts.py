"""The host table as a lattice: whatever comes in whatever order, all end with the same."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.core.placement.addresses import host_id
from director.core.placement.users import User
from director.core.protocol.messages import HostRow
from director.core.tables.hosts import (
    BackendSetting,
    HostTable,
    backend_of,
    decode_rows,
    encode_rows,
    merge_rows,
)
from director.types import Address, HostId, Stamp, UserKey

ONE, TWO = Address("10.1.0.1"), Address("10.1.0.2")

stamps = st.integers(0, 3)
rows = st.builds(
    HostRow,
    address=st.just(str(ONE)),
    hostname=st.sampled_from(["", "a.example", "b.example"]),
    present=st.booleans(),
    present_at=stamps,
    tag=st.sampled_from(["", "gold"]),
    tag_at=stamps,
    weight=st.integers(0, 3),
    weight_at=stamps,
    up=st.booleans(),
    up_at=stamps,
)


def table(*addresses: Address, weight: int = 100) -> HostTable:
    return HostTable(BackendSetting(address, "", "", weight) for address in addresses)


def row(address: Address = ONE, **fields: Any) -> HostRow:
    usual = HostRow(str(address), "", True, 0, "", 0, 100, 0, True, 0)
    return msgspec.structs.replace(usual, **fields)


@given(rows, rows)
def test_merging_is_commutative(one: HostRow, two: HostRow) -> None:
    assert merge_rows(one, two) == merge_rows(two, one)


@given(rows, rows, rows)
def test_merging_is_associative(one: HostRow, two: HostRow, three: HostRow) -> None:
    assert merge_rows(merge_rows(one, two), three) == merge_rows(one, merge_rows(two, three))


@given(rows, rows)
def test_merging_is_idempotent(one: HostRow, two: HostRow) -> None:
    merged = merge_rows(one, two)
    assert merge_rows(one, one) == one
    assert merge_rows(merged, one) == merge_rows(merged, two) == merged


@pytest.mark.shows("R-32")
@given(st.lists(rows, min_size=2, max_size=4))
def test_tables_that_have_seen_the_same_rows_are_the_same(given_rows: list[HostRow]) -> None:
    digests = set()
    for order in permutations(given_rows):
        hosts = table(ONE, TWO)
        for one in order:
            hosts.merge([one])
        digests.add((hosts.digest(), encode_rows(list(hosts.rows.values()))))
    assert len(digests) == 1


@given(st.lists(rows, min_size=1, max_size=4))
def test_a_merge_reports_what_is_new_and_only_that(given_rows: list[HostRow]) -> None:
    hosts = table(ONE)
    for one in given_rows:
        before = hosts.rows[ONE]
        assert hosts.merge([one]) == ([hosts.rows[ONE]] if hosts.rows[ONE] != before else [])


def test_attributes_are_merged_each_by_its_own_stamp() -> None:
    merged = merge_rows(row(weight=5, weight_at=10, up=False, up_at=3), row(weight=7, weight_at=9, up_at=4))
    assert (merged.weight, merged.up) == (5, True)


def test_the_host_name_belongs_to_the_later_appearance() -> None:
    old, new = row(hostname="z.example", present_at=5), row(hostname="a.example", present_at=6)
    assert merge_rows(old, new).hostname == merge_rows(new, old).hostname == "a.example"


@pytest.mark.shows("I-49")
def test_at_equal_stamps_the_more_careful_value_wins() -> None:
    merged = merge_rows(row(present=False, weight=1, tag="b"), row(up=False, weight=9, tag="a"))
    assert (merged.present, merged.up, merged.weight, merged.tag) == (False, False, 1, "a")


def test_stamps_grow_even_where_the_clock_of_the_operator_is_behind() -> None:
    hosts = table(ONE)
    hosts.merge([row(weight=5, weight_at=2000, up=False, up_at=3000)])
    changed = hosts.change(ONE, 1000, weight=6, up=True)
    assert changed is not None
    assert (changed.weight_at, changed.up_at) == (2001, 3001)


@pytest.mark.shows("rule 4")
@pytest.mark.parametrize("configured", [0, 50, 1000])
def test_a_file_never_wins_over_an_operator(configured: int) -> None:
    hosts = table(ONE, weight=100)
    hosts.change(ONE, 1000, weight=70, up=False)
    hosts.merge(table(ONE, weight=configured).rows.values())
    changed = hosts.get(ONE)
    assert changed is not None
    assert (changed.weight, changed.up) == (70, False)


@pytest.mark.parametrize("configured", [0, 50, 1000])
def test_the_file_of_another_member_does_not_win_over_an_operator_who_added_the_host(configured: int) -> None:
    hosts = table()
    hosts.change(ONE, 1000, weight=70, tag="gold")
    hosts.merge(table(ONE, weight=configured).rows.values())
    added = hosts.get(ONE)
    assert added is not None
    assert (added.weight, added.tag, added.up) == (70, "gold", True)


@pytest.mark.shows("rule 35")
def test_a_member_that_was_unreachable_does_not_add_a_removed_host_again() -> None:
    hosts = table(ONE)
    hosts.change(ONE, 1000, remove=True)
    hosts.merge([row()])
    assert hosts.get(ONE) is None
    assert hosts.removed() == [ONE]


def test_a_host_that_is_added_again_comes_as_new() -> None:
    hosts = table(ONE)
    hosts.change(ONE, 1000, weight=7, up=False)
    hosts.change(ONE, 1001, remove=True)
    again = hosts.change(ONE, 1001, tag="gold")
    assert again is not None
    assert (again.weight, again.up, again.tag, again.present_at) == (100, True, "gold", 1008)


def test_a_tag_that_a_host_has_already_gives_no_row_and_no_stamp() -> None:
    hosts = table(ONE)
    assert hosts.change(ONE, 1000, tag="") is None
    assert hosts.rows[ONE] == row()


@pytest.mark.shows("rule 3")
def test_a_weight_and_state_that_hold_already_win_over_an_earlier_change_heard_of_later() -> None:
    hosts, partitioned = table(ONE), table(ONE)
    earlier = partitioned.change(ONE, 1000, weight=2, up=False)
    assert earlier is not None
    assert hosts.change(ONE, 1001, weight=100, up=True) is not None
    hosts.merge([earlier])
    assert (hosts.rows[ONE].weight, hosts.rows[ONE].up) == (100, True)


def test_users_of_a_removed_host_are_not_kept_and_those_of_one_never_heard_of_may_be() -> None:
    hosts = table(ONE)
    early, late = (User(UserKey(1), host_id(ONE), Stamp(decided), 0, 0) for decided in (999, 1007))
    stranger = User(UserKey(1), HostId(12345), Stamp(1), 0, 0)
    assert not hosts.host_removed(early)
    hosts.change(ONE, 1000, remove=True)
    assert hosts.host_removed(early)
    hosts.change(ONE, 1001, weight=10)
    assert (hosts.host_removed(early), hosts.host_removed(late), hosts.host_removed(stranger)) == (
        True,
        False,
        False,
    )
    assert (hosts.knows(early.host), hosts.knows(stranger.host)) == (True, False)


def test_the_digest_is_of_what_counts_for_placement_not_of_stamps_and_tombstones() -> None:
    one, two = table(ONE), table(ONE)
    two.merge([row(weight_at=5), row(TWO, present=False, present_at=9)])
    assert one.digest() == two.digest()
    two.change(ONE, 1000, weight=99)
    assert one.digest() != two.digest()


def test_a_host_that_was_removed_and_added_again_as_it_was_has_another_digest() -> None:
    one, two = table(ONE), table(ONE)
    one.change(ONE, 1000, remove=True)
    one.change(ONE, 1000, weight=100)
    assert one.digest() != two.digest()


@pytest.mark.shows("I-31", "R-32")
@pytest.mark.parametrize("what", [{"weight": 99}, {"up": False}, {"remove": True}])
def test_every_change_of_placement_changes_the_digest(what: dict[str, Any]) -> None:
    hosts = table(ONE, TWO)
    before = hosts.digest()
    hosts.change(ONE, 1000, **what)
    assert hosts.digest() != before


@pytest.mark.shows("rule 4")
def test_what_was_stored_wins_over_the_file_where_an_operator_decided_it() -> None:
    hosts = table(ONE, weight=50)
    hosts.merge_stored([row(weight=70, weight_at=1000, tag="gold", tag_at=1000, up=False, up_at=1001)])
    stored = hosts.get(ONE)
    assert stored is not None
    assert (stored.weight, stored.tag, stored.up) == (70, "gold", False)


def test_the_file_as_it_is_now_wins_over_what_a_file_once_said() -> None:
    hosts = HostTable([BackendSetting(ONE, "new.example", "gold", 50)])
    hosts.merge_stored([row(hostname="old.example", tag="", weight=100, up=False, up_at=1001)])
    stored = hosts.get(ONE)
    assert stored is not None
    assert (stored.hostname, stored.tag, stored.weight, stored.up) == ("new.example", "gold", 50, False)


def test_where_it_is_known_what_was_applied_the_stored_table_counts_as_it_is() -> None:
    hosts = HostTable([BackendSetting(ONE, "new.example", "gold", 50)])
    stored = [row(hostname="old.example"), row(TWO, hostname="two.example")]
    hosts.adopt_stored(stored)
    assert hosts.present() == [row(hostname="new.example"), row(TWO, hostname="two.example")]


def test_the_stored_name_of_a_host_that_an_operator_added_stays() -> None:
    hosts = HostTable([BackendSetting(ONE, "file.example", "", 100)])
    hosts.adopt_stored([row(hostname="operator.example", present_at=1000)])
    assert hosts.rows[ONE].hostname == "operator.example"


def test_a_host_that_is_new_in_the_file_is_there_beside_the_stored_ones() -> None:
    hosts = table(ONE, TWO)
    hosts.adopt_stored([row(ONE, present=False, present_at=1000)])
    assert [one.address for one in hosts.present()] == [TWO]


def test_a_host_that_was_only_ever_in_a_file_is_gone_when_the_file_lists_it_no_more() -> None:
    hosts = table(ONE)
    assert hosts.merge_stored([row(TWO)]) == []
    assert hosts.get(TWO) is None


def test_a_host_that_an_operator_added_is_back_after_a_restart() -> None:
    before = table(ONE)
    before.change(TWO, 1000, weight=30)
    hosts = table(ONE)
    hosts.merge_stored(before.rows.values())
    assert hosts.rows == before.rows


def test_a_host_that_an_operator_removed_stays_removed_after_a_restart() -> None:
    before = table(ONE, TWO)
    before.change(TWO, 1000, remove=True)
    hosts = table(ONE, TWO)
    hosts.merge_stored(before.rows.values())
    assert (hosts.get(TWO), hosts.removed()) == (None, [TWO])


def test_a_host_is_found_by_its_id_while_it_is_present() -> None:
    hosts = table(ONE)
    assert hosts.by_id(host_id(ONE)) == row()
    hosts.change(ONE, 1000, remove=True)
    assert hosts.by_id(host_id(ONE)) is None


def test_an_address_has_its_own_id_to_itself() -> None:
    hosts = table(ONE)
    assert (hosts.taken_by(ONE), hosts.taken_by(TWO)) == (None, None)


@pytest.mark.shows("rule 1")
def test_an_address_whose_32_bit_id_another_host_has_is_refused_and_that_host_is_named() -> None:
    one, other = Address("10.1.251.8"), Address("10.22.198.2")
    assert HostTable.id_of(one) == HostTable.id_of(other)
    assert table(one).taken_by(other) == one


@given(st.lists(rows, max_size=1), st.booleans())
def test_the_host_document_is_read_as_it_was_written(given_rows: list[HostRow], more: bool) -> None:
    document = given_rows + [row(TWO)] * more
    assert decode_rows(encode_rows(document)) == sorted(document, key=lambda one: one.address)


@pytest.mark.parametrize("data", [b"", b"\x00", b"rubbish", b"\x91\x91\xa11"])
def test_a_damaged_host_document_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        decode_rows(data)


def test_a_host_says_when_its_tag_was_changed_after_it_appeared() -> None:
    assert backend_of(row(present_at=5, tag="gold", tag_at=6)).retagged == 6


def test_another_tag_is_later_than_every_choice_made_under_the_old_one_by_whatever_clock() -> None:
    hosts = table(ONE)
    changed = hosts.change(ONE, Stamp(1000), tag="gold")
    assert changed is not None
    assert changed.tag_at > 1000 + 2
    again = hosts.change(ONE, Stamp(1000), tag="")
    assert again is not None
    assert again.tag_at > changed.tag_at


@pytest.mark.parametrize("tag_at", [0, 4, 5])
def test_a_tag_that_a_host_appeared_with_is_no_change(tag_at: int) -> None:
    assert backend_of(row(present_at=5, tag="gold", tag_at=tag_at)).retagged == 0


def test_a_choice_by_a_clock_ahead_from_before_a_host_was_removed_does_not_count_when_it_is_back() -> None:
    table = HostTable([BackendSetting(Address("10.0.0.1"), "", "", 8)])
    table.change(Address("10.0.0.1"), 100, remove=True)
    table.change(Address("10.0.0.1"), 100, weight=8)
    two_seconds_ahead = User(UserKey(1), table.id_of("10.0.0.1"), Stamp(102), 102, 0)
    assert table.host_removed(two_seconds_ahead)


def test_the_other_hosts_of_a_pool_follow_every_change() -> None:
    hosts = HostTable([BackendSetting(Address(f"10.1.0.{n}"), "", "", 100) for n in (1, 2, 3)])
    one, two = hosts.id_of("10.1.0.1"), hosts.id_of("10.1.0.2")
    assert hosts.other_addresses(one, two) == ["10.1.0.1", "10.1.0.3"]
    hosts.put([msgspec.structs.replace(hosts.rows[Address("10.1.0.3")], tag="gold", tag_at=1)])
    assert hosts.other_addresses(one, two) == ["10.1.0.1"]
    assert [row.address for row in hosts.present()] == ["10.1.0.1", "10.1.0.2", "10.1.0.3"]
    hosts.put([msgspec.structs.replace(hosts.rows[Address("10.1.0.1")], present=False, present_at=1)])
    assert [row.address for row in hosts.present()] == ["10.1.0.2", "10.1.0.3"]
