"""Operators' changes of hosts."""

from __future__ import annotations

from typing import Any

import pytest

from director.core.protocol.effects import OperationDone, OperationFailed
from director.core.protocol.events import HostChange, MemberChange
from director.core.tables.changes import REMOVE_AFTER, SYNC_TIMEOUT, Changes, problem_with
from director.core.tables.hosts import BackendSetting, HostTable
from director.core.tables.members import MemberTable
from director.errors import BadRequest, OperationError, Refused, TryAgain, UnknownName
from director.types import Address, MemberId, Now

ONE, TWO = Address("10.1.0.1"), Address("10.1.0.2")


def at(mono: float) -> Now:
    return Now(mono, 1_000_000 + mono)


def table() -> HostTable:
    return HostTable([BackendSetting(ONE, "", "gold", 100)])


def queued(hosts: HostTable, *changes: HostChange) -> Changes:
    queue = Changes(hosts, MemberTable([]))
    for change in changes:
        queue.add(change, at(0))
    return queue


def test_a_change_is_carried_out_and_confirmed_when_the_ring_is_in_sync_again() -> None:
    hosts = table()
    changes = queued(hosts, HostChange(1, ONE, weight=7))
    effects, rows = changes.begin(at(1))
    assert (effects, rows) == ([], [hosts.get(ONE)])
    assert not changes.can_begin
    assert changes.confirm() == [OperationDone(1, hosts.rows[ONE])]
    assert hosts.rows[ONE].weight == 7
    assert changes.confirm() == []


@pytest.mark.shows("rule 9")
def test_changes_are_made_one_at_a_time() -> None:
    changes = queued(table(), HostChange(1, ONE, weight=7), HostChange(2, ONE, weight=8))
    changes.begin(at(1))
    assert not changes.can_begin
    changes.confirm()
    assert changes.can_begin


@pytest.mark.shows("I-33")
def test_what_changes_nothing_is_done_at_once() -> None:
    hosts = table()
    effects, rows = queued(hosts, HostChange(1, ONE, tag="gold")).begin(at(1))
    assert (effects, rows) == ([OperationDone(1, hosts.rows[ONE])], [])


def test_what_is_reported_is_what_holds_when_it_is_confirmed() -> None:
    hosts = table()
    changes = queued(hosts, HostChange(1, ONE, weight=7))
    changes.begin(at(1))
    hosts.change(ONE, 2_000_000, weight=9)
    (done,) = changes.confirm()
    assert isinstance(done, OperationDone)
    assert done.row.weight == 9


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (HostChange(1, TWO, weight=7), UnknownName, "10.1.0.2: no such backend host"),
        (HostChange(1, TWO, remove=True), UnknownName, "10.1.0.2: no such backend host"),
        (HostChange(1, TWO, up=False), UnknownName, "10.1.0.2: no such backend host"),
        (HostChange(1, ONE, weight=1001), BadRequest, "vhost count too large: 1001; 0 to 1000 are possible"),
        (HostChange(1, ONE, weight=-5), BadRequest, "vhost count too small: -5; 0 to 1000 are possible"),
        (
            HostChange(1, TWO, add=True, weight=1001),
            BadRequest,
            "vhost count too large: 1001; 0 to 1000 are possible",
        ),
        (HostChange(1, ONE, add=True, tag="silver"), Refused, "host tag can't be changed"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    change: HostChange, error: type[OperationError], text: str
) -> None:
    hosts = table()
    before = dict(hosts.rows)
    changes = queued(hosts, change)
    effects, rows = changes.begin(at(1))
    assert (effects, rows) == ([OperationFailed(1, error, text)], [])
    assert (hosts.rows, changes.next_deadline(without_sync=False)) == (before, None)


@pytest.mark.shows("A-60")
@pytest.mark.parametrize("tag", ["a\tb", "\udcff", "\u200b", "x" * 256])
@pytest.mark.parametrize("field", ["tag", "hostname"])
def test_a_text_that_no_neighbour_takes_is_refused_before_it_is_told_to_one(field: str, tag: str) -> None:
    fields: dict[str, Any] = {field: tag}
    error, text = problem_with(table(), HostChange(1, TWO, add=True, **fields)) or (None, "")
    assert error is BadRequest
    assert text.endswith("at most 255 printable characters are possible")
    assert text.isprintable()


@pytest.mark.parametrize(
    "fields", [{"tag": "gold"}, {"tag": "x" * 255}, {"tag": None}, {"weight": 1000}, {"weight": 0}]
)
def test_what_is_at_the_limit_is_allowed(fields: dict[str, Any]) -> None:
    assert problem_with(table(), HostChange(1, ONE, add=True, retag=True, **fields)) is None


def test_without_sync_a_change_is_given_up_before_it_is_made() -> None:
    hosts = table()
    changes = queued(hosts, HostChange(1, ONE, weight=7))
    assert changes.next_deadline(without_sync=False) == SYNC_TIMEOUT
    assert changes.overdue(at(SYNC_TIMEOUT - 0.1)) == []
    assert changes.overdue(at(SYNC_TIMEOUT)) == [OperationFailed(1, TryAgain, "Ring sync timed out")]
    assert (hosts.rows[ONE].weight, changes.can_begin, changes.next_deadline(without_sync=False)) == (
        100,
        False,
        None,
    )


@pytest.mark.shows("I-10", "K4")
def test_a_change_that_is_made_and_not_confirmed_says_so_and_stays_made() -> None:
    hosts = table()
    changes = queued(hosts, HostChange(1, ONE, weight=7))
    changes.begin(at(20))
    assert changes.overdue(at(49.9)) == []
    (failed,) = changes.overdue(at(50))
    assert failed == OperationFailed(1, TryAgain, "Ring sync timed out; the change is made on this director")
    assert hosts.rows[ONE].weight == 7
    assert changes.confirm() == []


def test_each_change_in_the_queue_has_its_own_time() -> None:
    changes = queued(table(), HostChange(1, ONE, weight=7))
    changes.add(HostChange(2, ONE, weight=8), at(10))
    assert [
        effect.operation for effect in changes.overdue(at(30)) if isinstance(effect, OperationFailed)
    ] == [1]
    assert changes.next_deadline(without_sync=False) == 40


def test_a_director_is_removed_after_five_seconds_without_sync_whatever_else_waits() -> None:
    members = MemberTable([MemberId("10.0.0.1:9090"), MemberId("10.0.0.2:9090")])
    changes = Changes(table(), members)
    changes.add(HostChange(1, ONE, weight=7), at(0))
    changes.begin(at(0))
    changes.add(HostChange(2, ONE, weight=8), at(1))
    changes.add(MemberChange(3, MemberId("10.0.0.3:9090")), at(1))
    changes.add(MemberChange(4, MemberId("10.0.0.2:9090"), remove=True), at(2))
    assert changes.next_deadline(without_sync=False) == SYNC_TIMEOUT
    assert changes.next_deadline(without_sync=True) == 2 + REMOVE_AFTER
    assert changes.begin_removal(at(2 + REMOVE_AFTER - 0.1)) == ([], [])
    effects, rows = changes.begin_removal(at(2 + REMOVE_AFTER))
    assert (effects, rows) == ([], [members.rows["10.0.0.2:9090"]])
    assert members.listed() == ["10.0.0.1:9090"]
    assert changes.begin_removal(at(20)) == ([], [])
    confirmed = [effect.operation for effect in changes.confirm() if isinstance(effect, OperationDone)]
    assert confirmed == [1, 4]
    assert changes.can_begin
