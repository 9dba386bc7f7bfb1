"""Changed configuration files, restarts in any order, and operators who change things meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from director.core.filechanges import (
    AppliedHost,
    Difference,
    Outcome,
    compare,
    decode_applied,
    encode_applied,
    now_applied,
)
from director.core.protocol.effects import OperationDone
from director.core.protocol.events import HostChange
from director.core.protocol.messages import HostRow
from director.core.tables.changes import Changes
from director.core.tables.hosts import BackendSetting, HostTable
from director.core.tables.members import MemberTable
from director.types import Address, Now

ONE, TWO, THREE = (Address(f"10.1.0.{number}") for number in (1, 2, 3))
File = tuple[BackendSetting, ...]
Effective = dict[Address, tuple[str, int]]


def file(**weights: int) -> File:
    """`one=100` and so on; no tag."""
    names = {"one": ONE, "two": TWO, "three": THREE}
    return tuple(BackendSetting(names[name], "", "", weight) for name, weight in weights.items())


class Member:
    """One director: its table, its file, and what it applied last."""

    def __init__(self) -> None:
        self.table = HostTable()
        self.applied: list[AppliedHost] | None = None
        self.own_store: list[HostRow] = []

    def differences(self, settings: File) -> list[Difference]:
        return compare(self.applied, settings, self.table.rows)


class Cluster:
    """Members who all hear of every change, with one store for all or one for each. `unix` only grows."""

    def __init__(self, settings: File, *, shared: bool, members: int = 3) -> None:
        self.members = [Member() for _ in range(members)]
        self.shared, self.unix = shared, 1_700_000_000
        for member in self.members:
            self.restart(member, settings)

    def spread(self) -> None:
        for member in self.members:
            for other in self.members:
                other.table.merge(list(member.table.rows.values()))
        for member in self.members:
            member.own_store = list(member.table.rows.values())

    def restart(self, member: Member, settings: File, *, dies_after: int | None = None) -> list[Difference]:
        """Returns what was made. dies_after: so many changes, before it is written what was applied."""
        stored = self.members[0].own_store if self.shared else member.own_store
        member.table = HostTable(settings)
        if member.applied is None:
            member.table.merge_stored(stored)
        else:
            member.table.adopt_stored(stored)
        self.spread()
        made = []
        while member.applied is not None:
            if len(made) == dies_after:
                return made
            wanted = [d for d in member.differences(settings) if d.outcome is Outcome.MADE]
            if not wanted:
                break
            made.append(wanted[0])
            self.operate(wanted[0].change(), at=member)
        if dies_after is None:
            member.applied = now_applied(member.applied or [], settings, member.table.rows)
        return made

    def operate(self, change: HostChange, *, at: Member) -> None:
        self.unix += 10
        changes = Changes(at.table, MemberTable([]))
        changes.add(change, Now(0.0, self.unix))
        changes.begin(Now(0.0, self.unix))
        self.spread()

    def effective(self) -> Effective:
        """Return the rows that all directors have, after a check that they agree."""
        tables = [
            {Address(row.address): (row.tag, row.weight) for row in m.table.present()} for m in self.members
        ]
        assert all(table == tables[0] for table in tables)
        return tables[0]


def effect_of(settings: File) -> Effective:
    return {one.address: (one.tag, one.weight) for one in settings}


@pytest.fixture(params=[True, False], ids=["one store", "own stores"])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return Cluster(file(one=100, two=100), shared=request.param)


def test_the_first_start_makes_the_table_of_the_file(cluster: Cluster) -> None:
    assert cluster.effective() == effect_of(file(one=100, two=100))


@pytest.mark.parametrize(
    "new", [file(one=200, two=100), file(one=50, two=100), file(two=100), file(one=100, two=100, three=7)]
)
def test_a_rolling_restart_with_a_new_file_ends_with_the_new_table(cluster: Cluster, new: File) -> None:
    for member in cluster.members:
        cluster.restart(member, new)
        assert cluster.effective() == effect_of(new)


@pytest.mark.shows("S-19")
@pytest.mark.parametrize("new", [file(one=200, two=100), file(two=100), file(one=100, two=100, three=7)])
def test_a_director_with_the_old_file_that_restarts_in_between_undoes_nothing(
    cluster: Cluster, new: File
) -> None:
    first, second, third = cluster.members
    cluster.restart(first, new)
    assert cluster.restart(second, file(one=100, two=100)) == []
    assert cluster.effective() == effect_of(new)
    cluster.restart(second, new)
    cluster.restart(third, new)
    assert cluster.effective() == effect_of(new)


def test_a_host_removed_from_the_file_may_come_back_in_a_later_one(cluster: Cluster) -> None:
    for settings in (file(two=100), file(one=30, two=100)):
        for member in cluster.members:
            cluster.restart(member, settings)
    assert cluster.effective() == effect_of(file(one=30, two=100))


def test_a_weight_that_an_operator_changed_stays_and_that_is_told(cluster: Cluster) -> None:
    first = cluster.members[0]
    cluster.operate(HostChange(0, ONE, weight=5), at=first)
    (told,) = first.differences(file(one=200, two=100))
    assert (told.address, told.attribute, told.outcome) == (ONE, "weight", Outcome.KEPT)
    assert told.decided == cluster.unix
    assert cluster.restart(first, file(one=200, two=100)) == []
    assert cluster.effective()[ONE] == ("", 5)


def test_an_operator_between_two_restarts_is_not_overruled_by_the_second(cluster: Cluster) -> None:
    first, second, third = cluster.members
    new = file(one=200, two=100)
    cluster.restart(first, new)
    cluster.operate(HostChange(0, ONE, weight=100), at=third)  # back to what it was
    cluster.restart(second, new)
    cluster.restart(third, new)
    assert cluster.effective()[ONE] == ("", 100)


def test_what_an_operator_set_to_what_the_file_says_is_up_to_the_file_again(cluster: Cluster) -> None:
    first = cluster.members[0]
    cluster.operate(HostChange(0, ONE, weight=5), at=first)
    cluster.restart(first, file(one=200, two=100))
    cluster.operate(HostChange(0, ONE, weight=200), at=first)
    cluster.restart(first, file(one=200, two=100))
    cluster.restart(first, file(one=300, two=100))
    assert cluster.effective()[ONE] == ("", 300)


def test_what_an_operator_changed_stays_over_any_number_of_files(cluster: Cluster) -> None:
    first = cluster.members[0]
    cluster.operate(HostChange(0, ONE, weight=5), at=first)
    cluster.operate(HostChange(0, ONE, tag="mine", retag=True), at=first)
    for number in (200, 300, 400):
        cluster.restart(first, (BackendSetting(ONE, "", f"t{number}", number),))
    assert cluster.effective()[ONE] == ("mine", 5)


def test_a_host_that_the_file_and_an_operator_list_goes_with_the_file(cluster: Cluster) -> None:
    first = cluster.members[0]
    cluster.operate(HostChange(0, ONE, remove=True), at=first)
    cluster.operate(HostChange(0, ONE, add=True), at=first)
    for settings in (file(two=100), file(two=100)):
        cluster.restart(first, settings)
        assert ONE in cluster.effective()
    cluster.restart(first, file(one=7, two=100))
    cluster.restart(first, file(two=100))
    assert ONE not in cluster.effective()


def test_a_host_that_an_operator_removed_stays_removed_though_the_file_lists_it(cluster: Cluster) -> None:
    first = cluster.members[0]
    cluster.operate(HostChange(0, ONE, remove=True), at=first)
    (told,) = first.differences(file(one=300, two=100))
    assert (told.attribute, told.outcome) == ("host", Outcome.STAYS)
    cluster.restart(first, file(one=300, two=100))
    assert ONE not in cluster.effective()


def test_a_host_that_an_operator_added_again_stays_though_the_file_drops_it(cluster: Cluster) -> None:
    first = cluster.members[0]
    cluster.operate(HostChange(0, ONE, remove=True), at=first)
    cluster.operate(HostChange(0, ONE, add=True, weight=9), at=first)
    (told,) = first.differences(file(two=100))
    assert (told.attribute, told.outcome) == ("host", Outcome.KEPT)
    cluster.restart(first, file(two=100))
    assert cluster.effective()[ONE] == ("", 9)


def test_a_host_that_only_an_operator_ever_added_is_told_and_stays(cluster: Cluster) -> None:
    first = cluster.members[0]
    cluster.operate(HostChange(0, THREE, add=True, weight=9), at=first)
    (told,) = first.differences(file(one=100, two=100))
    assert (told.address, told.outcome) == (THREE, Outcome.STAYS)


def test_another_tag_in_the_file_is_another_tag_in_the_table(cluster: Cluster) -> None:
    gold = (BackendSetting(ONE, "", "gold", 100), BackendSetting(TWO, "", "", 100))
    for member in cluster.members:
        cluster.restart(member, gold)
    assert cluster.effective() == effect_of(gold)


def test_a_file_goes_on_to_decide_after_its_stamps_were_clipped() -> None:
    """The clock was ahead when it was applied, and was set back."""
    clipped = HostRow(ONE, "", True, 2000, "", 0, 100, 2000, True, 0)
    applied = [AppliedHost(ONE, True, 90_000, "", 0, 100, 90_000)]
    again = now_applied(applied, file(one=100), {ONE: clipped})
    assert again == [AppliedHost(ONE, True, 2000, "", 0, 100, 2000)]
    (change,) = compare(again, file(one=50), {ONE: clipped})
    assert change.outcome is Outcome.MADE
    later = replace(clipped, weight=70, weight_at=2001)  # an operator's
    assert now_applied(applied, file(one=100), {ONE: later})[0].weight_at == 90_000
    (change,) = compare(again, file(one=50), {ONE: later})
    assert change.outcome is Outcome.KEPT


def test_what_is_not_known_to_be_applied_is_decided_by_the_file_where_no_operator_did() -> None:
    table = HostTable(file(one=100, two=100))
    table.change(TWO, 1_700_000_000, weight=9)  # type: ignore[arg-type]
    told = compare(None, file(one=200, two=200, three=7), table.rows)
    assert [(one.address, one.attribute, one.outcome) for one in told] == [
        (ONE, "weight", Outcome.MADE),
        (TWO, "weight", Outcome.STAYS),
        (THREE, "host", Outcome.MADE),
    ]


def test_a_change_of_the_file_is_not_carried_out_where_the_host_has_changed_meanwhile() -> None:
    table = HostTable(file(one=100))
    applied = now_applied([], file(one=100), table.rows)
    (wanted,) = compare(applied, file(one=200), table.rows)
    row = table.change(ONE, 1_700_000_000, weight=5)  # type: ignore[arg-type]
    changes = Changes(table, MemberTable([]))
    changes.add(wanted.change(), Now(0.0, 1_700_000_001))
    assert changes.begin(Now(0.0, 1_700_000_001)) == ([OperationDone(0, row)], [])  # type: ignore[arg-type]


# ---- whatever happens

addresses = st.sampled_from([ONE, TWO, THREE])
tags = st.sampled_from(["", "gold"])
settings = st.dictionaries(addresses, st.tuples(tags, st.integers(0, 3)), min_size=1).map(
    lambda hosts: tuple(BackendSetting(a, "", tag, weight) for a, (tag, weight) in sorted(hosts.items()))
)
operations: st.SearchStrategy[HostChange] = st.one_of(
    st.builds(HostChange, st.just(0), addresses, weight=st.integers(0, 3)),
    st.builds(HostChange, st.just(0), addresses, tag=tags, retag=st.just(True)),
    st.builds(HostChange, st.just(0), addresses, remove=st.just(True)),
    st.builds(HostChange, st.just(0), addresses, add=st.just(True), weight=st.integers(0, 3)),
)


@pytest.mark.shows("S-19")
@given(settings, st.lists(settings, min_size=1, max_size=3), st.booleans())
def test_each_rolling_restart_ends_with_the_table_of_its_file(
    old: File, files: Sequence[File], shared: bool
) -> None:
    cluster = Cluster(old, shared=shared)
    for new in files:
        for member in cluster.members:
            cluster.restart(member, new)
            assert cluster.effective() == effect_of(new)


@pytest.mark.shows("S-19")
@given(settings, settings, st.lists(operations, max_size=4), st.data())
def test_what_an_operator_did_last_holds_through_a_rolling_restart(
    old: File, new: File, done: Sequence[HostChange], data: st.DataObject
) -> None:
    cluster = Cluster(old, shared=data.draw(st.booleans()))
    first, second, third = cluster.members
    steps: list[Callable[[], object]] = [
        lambda: cluster.restart(first, new),
        lambda: cluster.restart(second, old),
        lambda: cluster.restart(second, new),
        lambda: cluster.restart(third, new),
    ]
    weights: dict[Address, int] = {}
    presence: dict[Address, bool] = {}
    for change in done:
        for _ in range(data.draw(st.integers(0, len(steps)))):
            steps.pop(0)()
        before = cluster.members[0].table.get(change.address)
        if before is None and not change.add:
            continue
        cluster.operate(change, at=data.draw(st.sampled_from(cluster.members)))
        if change.remove or before is None:
            presence[change.address] = not change.remove
            weights.pop(change.address, None)
        if change.weight is not None:
            weights[change.address] = change.weight
    for step in steps:
        step()
    table = cluster.effective()
    for address, present in presence.items():
        assert (address in table) is present
    for address, weight in weights.items():
        assert address not in table or table[address][1] == weight


@pytest.mark.shows("S-20")
@given(settings, settings, st.lists(operations, max_size=3), st.booleans())
def test_the_plan_is_what_happens(old: File, new: File, done: Sequence[HostChange], shared: bool) -> None:
    cluster = Cluster(old, shared=shared)
    member = cluster.members[0]
    for change in done:
        cluster.operate(change, at=member)
    planned, before = member.differences(new), cluster.effective()
    expected = dict(before)
    for one in planned:
        if one.outcome is Outcome.MADE:
            if one.setting is None:
                del expected[one.address]
                continue
            tag, weight = expected.get(one.address, ("", 0))
            tag = one.setting.tag if one.attribute in ("host", "tag") else tag
            weight = one.setting.weight if one.attribute in ("host", "weight") else weight
            expected[one.address] = tag, weight
    cluster.restart(member, new)
    assert cluster.effective() == expected
    told = {(one.address, one.attribute) for one in planned if one.outcome is not Outcome.MADE}
    assert told == {(one.address, one.attribute) for one in member.differences(new)}


@given(settings, settings, st.lists(operations, max_size=2), st.integers(0, 6), st.booleans())
def test_a_director_that_dies_between_two_changes_makes_the_rest_when_it_is_back(
    old: File, new: File, done: Sequence[HostChange], dies_after: int, shared: bool
) -> None:
    straight, broken = Cluster(old, shared=shared), Cluster(old, shared=shared)
    for cluster in (straight, broken):
        for change in done:
            cluster.operate(change, at=cluster.members[1])
    straight.restart(straight.members[0], new)
    broken.restart(broken.members[0], new, dies_after=dies_after)
    for member in broken.members:
        broken.restart(member, new)
    assert broken.effective() == straight.effective()


@given(settings, settings, st.lists(operations, max_size=3), st.booleans())
def test_a_restart_with_the_file_it_had_changes_nothing(
    old: File, new: File, done: Sequence[HostChange], shared: bool
) -> None:
    cluster = Cluster(old, shared=shared)
    cluster.restart(cluster.members[0], new)
    for change in done:
        cluster.operate(change, at=cluster.members[2])
    before = cluster.effective()
    cluster.restart(cluster.members[0], new)
    cluster.restart(cluster.members[1], old)
    assert cluster.effective() == before


@given(settings, settings)
def test_the_document_is_read_as_it_was_written(one: File, two: File) -> None:
    applied = {name: now_applied([], file, HostTable(file).rows) for name, file in (("b", one), ("a", two))}
    assert decode_applied(encode_applied(applied)) == applied
    assert encode_applied(dict(sorted(applied.items()))) == encode_applied(applied)


@pytest.mark.parametrize("data", [b"", b"\x90", b"\xff", b"\x81\xa1a\x91\x01"])
def test_what_is_no_such_document_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="document of applied configurations"):
        decode_applied(data)
