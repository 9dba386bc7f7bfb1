"""Which addresses of a name count, and which backends have another one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from director.core.backendnames import DROPPED_AFTER, RETURNS_AFTER, NameAddresses, carried, plan_moves
from director.core.filechanges import AppliedHost, Outcome, compare, now_applied
from director.core.protocol.events import HostMove
from director.core.tables.hosts import BackendSetting, HostTable
from director.core.tables.movedhosts import moved_rows, placeholder_address
from director.types import Address

A, B, C, D = (Address(f"10.1.0.{number}") for number in (1, 2, 3, 4))
START = 1_700_000_000


def said(*found: Address, known: Sequence[Address] = (A,), at: float = 0.0) -> NameAddresses:
    name = NameAddresses(known)
    name.answered(found, at)
    return name


def test_the_only_address_of_a_name_is_replaced_at_once_by_its_only_other_one() -> None:
    assert said(B).addresses == (B,)


def test_an_address_more_counts_at_once_and_the_others_stay() -> None:
    assert said(A, B).addresses == (A, B)
    assert said(B, C).addresses == (A, B, C)


def test_an_empty_answer_removes_no_address() -> None:
    assert said().addresses == (A,)


def test_one_of_several_goes_when_it_was_missing_for_30_seconds() -> None:
    name = said(A, known=[A, B], at=100.0)
    name.answered([A], 100.0 + DROPPED_AFTER - 1)
    assert name.addresses == (A, B)
    name.answered([A], 100.0 + DROPPED_AFTER)
    assert name.addresses == (A,)


def test_an_address_that_comes_and_goes_stays() -> None:
    name = NameAddresses([A, B])
    for turn in range(20):
        name.answered([A] if turn % 2 else [A, B], 5.0 * turn)
    assert name.addresses == (A, B)


class Cluster:
    """A host table, and what one member thinks of its file."""

    def __init__(self, **names: Address) -> None:
        self.unix = START
        self.table = HostTable(settings(**names))
        self.applied: list[AppliedHost] | None = now_applied([], settings(**names), self.table.rows)

    def sees(self, *, unresolved: Sequence[str] = (), **names: Address) -> list[tuple[str, str, str]]:
        """The file is read so now: what is moved."""
        found = self.plan_moves(unresolved=unresolved, **names)
        if found.moves:
            self.table.put(moved_rows(self.table.rows, found.moves, self.unix))
        if self.applied is not None:
            known = carried(self.applied, found.settings, self.table.rows)
            for one in compare(known, found.settings, self.table.rows):
                if one.outcome is Outcome.MADE:
                    change = one.change()
                    self.table.change(
                        change.address,
                        self.unix,
                        remove=change.remove,
                        hostname=change.hostname,
                        weight=change.weight,
                        tag=change.tag,
                    )
        known = carried(self.applied or [], found.settings, self.table.rows)
        self.applied = now_applied(known, found.settings, self.table.rows)
        return [(move.name, move.before, move.after) for move in found.moves]

    def plan_moves(self, *, unresolved: Sequence[str] = (), **names: Address):  # type: ignore[no-untyped-def]
        unknown = [BackendSetting(Address(""), name, "", 100) for name in unresolved]
        return plan_moves(self.applied, settings(**names), unknown, self.table.rows, self.unix)

    def later(self, seconds: int = 3600) -> Cluster:
        self.unix += seconds
        return self

    def there(self) -> dict[str, str]:
        return {row.hostname: row.address for row in self.table.present()}

    def another_member(self, **names: Address) -> Cluster:
        """One with the same table, whose file said this when it last applied it."""
        other = Cluster()
        other.unix, other.table = self.unix, self.table
        other.applied = now_applied([], settings(**names), HostTable(settings(**names)).rows)
        return other


def settings(**names: Address) -> list[BackendSetting]:
    return [BackendSetting(address, name, "", 100) for name, address in names.items()]


def test_a_name_with_another_address_is_moved_with_all_that_operators_said() -> None:
    cluster = Cluster(one=A, two=B).later()
    cluster.table.change(A, cluster.unix, weight=30, up=False)
    cluster.table.change(A, cluster.unix, tag="gold")
    before = cluster.table.rows[A]
    assert cluster.later().sees(one=C, two=B) == [("one", A, C)]
    now = cluster.table.rows[C]
    kept = {name: getattr(before, name) for name in ("tag", "tag_at", "weight", "weight_at", "up", "up_at")}
    assert now == msgspec.structs.replace(now, **kept)
    assert cluster.there() == {"one": C, "two": B}
    assert (cluster.table.rows[A].present, cluster.table.rows[A].moved) == (False, "one")


def test_a_director_that_resolves_again_or_learns_of_it_later_does_nothing_more() -> None:
    cluster = Cluster(one=A, two=B).later()
    cluster.sees(one=C, two=B)
    rows = dict(cluster.table.rows)
    assert cluster.sees(one=C, two=B) == []
    assert cluster.later().another_member(one=A, two=B).sees(one=C, two=B) == []
    assert cluster.table.rows == rows


@pytest.mark.shows("rule 41")
def test_a_director_with_the_old_answer_leaves_the_address_as_it_is() -> None:
    cluster = Cluster(one=A, two=B).later()
    cluster.sees(one=C, two=B)
    rows = dict(cluster.table.rows)
    old = cluster.another_member(one=A, two=B)
    for _ in range(3):
        assert old.later().sees(one=A, two=B) == []
    assert cluster.table.rows == rows


def test_a_director_that_has_missed_one_address_moves_the_host_from_the_address_in_between() -> None:
    cluster = Cluster(one=A, two=B).later()
    cluster.sees(one=C, two=B)
    late = cluster.later().another_member(one=A, two=B)
    assert late.sees(one=D, two=B) == [("one", C, D)]


def test_two_backends_that_change_places_take_everything_along() -> None:
    cluster = Cluster(one=A, two=B).later()
    cluster.table.change(A, cluster.unix, weight=30)
    assert sorted(cluster.later().sees(one=B, two=A)) == [("one", A, B), ("two", B, A)]
    assert cluster.there() == {"one": B, "two": A}
    assert (cluster.table.rows[B].weight, cluster.table.rows[A].weight) == (30, 100)
    assert (cluster.table.rows[A].moved, cluster.table.rows[B].moved) == ("one", "two")
    assert cluster.sees(one=B, two=A) == []


def test_one_may_take_the_former_address_of_another() -> None:
    cluster = Cluster(one=A, two=B).later()
    cluster.table.change(A, cluster.unix, weight=30)
    cluster.table.change(B, cluster.unix, weight=40)
    cluster.later().sees(one=C, two=A)
    assert cluster.there() == {"one": C, "two": A}
    assert (cluster.table.rows[C].weight, cluster.table.rows[A].weight) == (30, 40)
    assert not cluster.table.rows[B].present


def test_a_backend_that_has_lost_its_address_is_kept_until_it_has_one_again() -> None:
    cluster = Cluster(one=A, two=B).later()
    cluster.table.change(B, cluster.unix, weight=40, up=False)
    cluster.later().sees(one=B, unresolved=["two"])
    assert cluster.there() == {"one": B}
    assert cluster.sees(one=B, unresolved=["two"]) == []
    assert cluster.later().sees(one=B, two=D) == [("two", placeholder_address("two"), D)]
    assert cluster.there() == {"one": B, "two": D}
    assert (cluster.table.rows[D].weight, cluster.table.rows[D].up) == (40, False)
    assert cluster.sees(one=B, two=D) == []


def test_a_name_without_an_answer_is_no_less_in_the_file() -> None:
    cluster = Cluster(one=A, two=B).later()
    assert cluster.sees(one=A, unresolved=["two"]) == []
    assert cluster.there() == {"one": A, "two": B}
    assert cluster.sees(one=A, two=C) == [("two", B, C)]


@pytest.mark.shows("rule 41")
def test_a_backend_goes_back_to_where_it_was_only_after_a_while() -> None:
    cluster = Cluster(one=A, two=B).later()
    cluster.sees(one=C, two=B)
    assert cluster.later(RETURNS_AFTER - 1).plan_moves(one=A, two=B).waiting == {"one"}
    assert cluster.sees(one=A, two=B) == []
    assert cluster.there() == {"one": C, "two": B}
    assert cluster.later(1).sees(one=A, two=B) == [("one", C, A)]
    assert cluster.there() == {"one": A, "two": B}


def test_a_backend_whose_change_was_stamped_by_a_clock_far_ahead_goes_back_at_once() -> None:
    cluster = Cluster(one=A, two=B).later(3600)
    cluster.sees(one=C, two=B)
    assert cluster.later(-3600).plan_moves(one=A, two=B).waiting == frozenset()


def test_a_backend_an_operator_has_removed_stays_removed_at_its_new_address() -> None:
    cluster = Cluster(one=A, two=B).later()
    cluster.table.change(A, cluster.unix, remove=True)
    assert cluster.later().sees(one=C, two=B) == []
    assert cluster.there() == {"two": B}


def test_a_weight_of_the_file_can_be_changed_after_a_move() -> None:
    cluster = Cluster(one=A, two=B).later()
    cluster.sees(one=C, two=B)
    known = carried(cluster.applied or [], settings(one=C, two=B), cluster.table.rows)
    wanted = [BackendSetting(C, "one", "", 70), *settings(two=B)]
    (change,) = compare(known, wanted, cluster.table.rows)
    assert (change.address, change.attribute, change.outcome) == (C, "weight", Outcome.MADE)


def test_a_name_of_several_addresses_gets_one_more_and_loses_one_as_if_the_file_had_changed() -> None:
    pool = [BackendSetting(address, "pool", "", 100) for address in (A, B, C)]
    cluster = Cluster()
    cluster.table = HostTable(pool[:2])
    cluster.applied = now_applied([], pool[:2], cluster.table.rows)
    for now, what in ((pool, {C: "host"}), (pool[1:], {A: "host", C: "host"})):
        found = plan_moves(cluster.applied, now, (), cluster.table.rows, START)
        assert found.moves == []
        changes = compare(carried(cluster.applied, now, cluster.table.rows), now, cluster.table.rows)
        assert {one.address: one.attribute for one in changes} == what
        assert {one.outcome for one in changes} == {Outcome.MADE}


def test_a_host_that_a_start_has_brought_in_before_the_store_was_read_is_moved_to() -> None:
    """The file has put the new address into the table, the store the old one."""
    cluster = Cluster(one=A, two=B).later()
    stored = list(cluster.table.rows.values())
    started = HostTable(settings(one=C, two=B))
    started.adopt_stored(stored)
    cluster.table = started
    assert cluster.sees(one=C, two=B) == [("one", A, C)]
    assert cluster.there() == {"one": C, "two": B}


def test_all_backends_may_have_exchanged_addresses_between_two_answers() -> None:
    cluster = Cluster(one=A, two=B, three=C).later()
    cluster.table.change(A, cluster.unix, weight=30)
    stored = list(cluster.table.rows.values())
    started = HostTable(settings(one=B, two=C, three=A))
    started.adopt_stored(stored)
    cluster.later().table = started
    assert sorted(cluster.sees(one=B, two=C, three=A)) == [("one", A, B), ("three", C, A), ("two", B, C)]
    assert cluster.there() == {"one": B, "two": C, "three": A}
    assert [cluster.table.rows[address].weight for address in (A, B, C)] == [100, 30, 100]


def test_a_director_without_an_applied_file_moves_hosts_that_only_files_have_set() -> None:
    stored = list(HostTable(settings(one=A, two=B)).rows.values())
    started = HostTable(settings(one=C, two=B))
    started.merge_stored(stored)
    found = plan_moves(None, settings(one=C, two=B), (), started.rows, START)
    assert found.moves == [HostMove("one", A, C)]


def test_what_the_store_knows_of_an_unresolved_name_is_kept_at_the_start() -> None:
    stored = list(HostTable(settings(one=A, two=B)).rows.values())
    started = HostTable(settings(two=B), ["one"])
    started.merge_stored(stored)
    assert [row.address for row in started.present()] == [A, B]


def test_a_name_of_the_file_that_is_only_written_otherwise_is_no_move() -> None:
    stored = list(HostTable(settings(one=A, two=B)).rows.values())
    started = HostTable(settings(**{"one.example.com": A, "two": B}))
    started.adopt_stored(stored)
    assert [row.hostname for row in started.present()] == ["one.example.com", "two"]


def test_without_names_in_the_applied_file_of_an_older_release_the_host_table_gives_them() -> None:
    cluster = Cluster(one=A, two=B).later()
    assert cluster.applied is not None
    cluster.applied = [msgspec.structs.replace(one, hostname="") for one in cluster.applied]
    assert cluster.sees(one=C, two=B) == [("one", A, C)]
