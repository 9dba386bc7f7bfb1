"""Users of a backend that has another address, followed by the whole core."""

from __future__ import annotations

import msgspec
import pytest

from director.core.moves.jobs import MoveUser
from director.core.placement.addresses import host_id
from director.core.placement.assign import Gate, Wait
from director.core.placement.hashing import UserHash
from director.core.placement.users import BY_HAND, MOVING, PINNED, User, pack
from director.core.protocol.effects import Answer, Effect, Kick, LogEvent, OperationDone
from director.core.protocol.events import HostChange, HostMove, HostsMoved, Lookup, SessionsListed
from director.core.protocol.kicktypes import OnHost
from director.core.protocol.messages import Hosts, Users
from director.core.tables.hosts import BackendSetting, HostTable, merge_rows
from director.core.tables.movedhosts import moved_rows, placeholder_address
from director.types import Address, RequestId, Stamp, UserKey
from director.wire import hotpath
from tests.unit.core.cores import EXPIRE, START, Played, in_ring, messages, of

A, B, C = (Address(f"10.1.0.{number}") for number in (1, 2, 3))
NEW = Address("10.1.0.9")
KEY = UserKey(5 << 32)


def table() -> HostTable:
    return HostTable([BackendSetting(A, "one", "", 100), BackendSetting(B, "two", "", 100)])


def moved(hosts: HostTable, *moves: tuple[str, Address, Address], stamp: int = START) -> HostTable:
    rows = [HostMove(*move) for move in moves]
    hosts.put(moved_rows(hosts.rows, rows, stamp))
    return hosts


def user(host: str, decided: int = START - 50, flags: int = 0) -> User:
    return User(KEY, host_id(Address(host)), Stamp(decided), decided, flags)


def heir(hosts: HostTable, one: User) -> tuple[str, int] | None:
    new = hosts.moved_record(one)
    if new is None:
        return None
    row = hosts.row(new.host)
    assert row is not None
    return row.address, new.flags


def test_a_user_follows_the_backend_to_its_new_address_and_stays_pinned() -> None:
    hosts = moved(table(), ("one", A, C))
    assert heir(hosts, user(A, flags=PINNED | BY_HAND)) == (C, PINNED | BY_HAND)
    assert heir(hosts, user(B)) is None


@pytest.mark.shows("rule 40")
def test_users_of_two_backends_that_change_places_change_places() -> None:
    hosts = moved(table(), ("one", A, B), ("two", B, A))
    assert (heir(hosts, user(A)), heir(hosts, user(B))) == ((B, 0), (A, 0))


def test_a_user_assigned_at_the_same_moment_by_a_clock_ahead_is_moved_too() -> None:
    hosts = moved(table(), ("one", A, B), ("two", B, A))
    assert heir(hosts, user(A, decided=START + 5)) == (B, 0)


def test_a_user_whose_record_was_readdressed_once_is_not_readdressed_back() -> None:
    hosts = moved(table(), ("one", A, B), ("two", B, A))
    new = hosts.moved_record(user(A))
    assert new is not None
    assert hosts.moved_record(new) is None


def test_a_record_of_long_ago_leads_to_where_the_backend_is_now() -> None:
    hosts = moved(table(), ("one", A, C))
    moved(hosts, ("one", C, NEW), ("two", B, A), stamp=START + 100)
    assert heir(hosts, user(A)) == (NEW, 0)
    assert heir(hosts, user(B)) == (A, 0)
    moved(hosts, ("one", NEW, B), stamp=START + 200)
    assert heir(hosts, user(A)) == (B, 0)


def test_a_backend_that_comes_back_to_its_address_finds_its_users() -> None:
    hosts = moved(table(), ("one", A, C))
    moved(hosts, ("one", C, A), stamp=START + 100)
    assert heir(hosts, user(A)) == (A, 0)
    assert heir(hosts, user(C, decided=START + 5)) == (A, 0)


def test_users_of_a_backend_that_was_removed_after_it_had_moved_are_placed_anew() -> None:
    hosts = moved(table(), ("one", A, C))
    hosts.change(C, START + 50, remove=True)
    assert heir(hosts, user(A)) is None


def test_users_of_a_host_that_has_come_to_a_used_address_and_was_removed_do_not_go_to_its_former_one() -> (
    None
):
    hosts = moved(table(), ("one", A, C), ("two", B, A))
    hosts.change(A, START + 50, remove=True)
    assert heir(hosts, user(A, decided=START + 40)) is None


@pytest.mark.shows("rule 40")
def test_a_record_comes_to_the_same_wherever_it_is_met() -> None:
    """Members that make the move a moment apart, each with the record of another moment."""
    one, other = moved(table(), ("one", A, C)), moved(table(), ("one", A, C), stamp=START + 1)
    rows = [merge_rows(one.rows[address], other.rows[address]) for address in one.rows]
    for hosts in (one, other):
        hosts.merge(rows)
    assert one.digest() == other.digest()
    assert one.moved_record(user(A)) == other.moved_record(user(A))


def test_rows_of_a_move_merge_to_the_same_in_any_order() -> None:
    first, second = table().rows, moved(table(), ("one", A, B), ("two", B, A)).rows
    for address in (A, B):
        assert merge_rows(first[address], second[address]) == second[address]
        assert merge_rows(second[address], first[address]) == second[address]


def test_a_backend_whose_address_another_one_has_is_nowhere_until_it_is_found() -> None:
    hosts = moved(table(), ("one", A, B), ("two", B, placeholder_address("two")))
    assert [row.address for row in hosts.present()] == [B]
    assert heir(hosts, user(B)) is None
    moved(hosts, ("two", placeholder_address("two"), C), stamp=START + 100)
    assert heir(hosts, user(B)) == (C, 0)


@pytest.mark.parametrize("flags", [0, PINNED, MOVING])
def test_the_hot_path_lets_a_user_wait_whose_host_has_another_address(flags: int) -> None:
    hosts = moved(table(), ("one", A, C))
    users = hotpath.UserTable(EXPIRE)
    assigner = hotpath.Assigner(users, UserHash())
    assigner.gate, assigner.unix = Gate.OPEN, START
    assigner.set_backends(hosts.backends())
    users.put(user(A, flags=flags))
    assert assigner.assign(KEY, b"") is Wait.READDRESSED


def played() -> Played:
    """One director alone, its first two backends by name; C is free."""
    one = Played()
    one.handle(SessionsListed(()), 0.5)
    return named(one)


def named(one: Played) -> Played:
    names = {A: "one", B: "two"}
    rows = one.core.hosts.rows
    one.core.hosts.put([msgspec.structs.replace(rows[address], hostname=names[address]) for address in names])
    return one


def moves_of(*moves: tuple[str, Address, Address]) -> list[HostMove]:
    return [HostMove(*move) for move in moves]


def carry_out(one: Played, *moves: tuple[str, Address, Address]) -> list[Effect]:
    rows = [one.core.hosts.rows[before] for _, before, _ in moves]
    return one.handle(HostsMoved(9, moves_of(*moves), rows), 1.0)


def host_of(one: Played) -> str | None:
    record = one.users.get(KEY)
    row = one.core.hosts.row(record.host) if record is not None else None
    return row.address if row is not None else None


def test_a_move_is_one_change_that_is_logged_ends_sessions_and_is_confirmed() -> None:
    one = played()
    effects = carry_out(one, ("one", A, NEW))
    assert [done.operation for done in of(OperationDone, effects)] == [9]
    logged = [log.fields for log in of(LogEvent, effects) if log.event == "host_address_changed"]
    assert logged == [{"name": "one", "before": A, "after": NEW}]
    assert [kick.what for kick in of(Kick, effects)] == [OnHost(A)]


@pytest.mark.shows("rule 40")
def test_a_login_is_answered_with_the_new_address_at_once() -> None:
    one = played()
    one.users.put(user(A, flags=PINNED))
    one.core.hosts.put(moved_rows(one.core.hosts.rows, moves_of(("one", A, NEW)), START))  # no walk has begun
    one.core.assigner.set_backends(one.core.hosts.backends())
    (answer,) = of(Answer, one.handle(Lookup(RequestId(1), KEY, b"", b"alice"), 2.0))
    assert (answer.backend.address, host_of(one)) == (NEW, NEW)
    record = one.users.get(KEY)
    assert record is not None
    assert record.flags == PINNED


@pytest.mark.shows("rule 40")
def test_all_others_are_found_by_the_walk_and_nothing_is_announced() -> None:
    one = named(in_ring())
    one.users.merge(pack([user(A, flags=PINNED)]))
    effects = carry_out(one, ("one", A, NEW))
    effects += one.until(2.0)
    assert host_of(one) == NEW
    assert of(Users, messages(effects)) == []
    assert of(Hosts, messages(effects))


def test_a_record_that_comes_in_late_is_found_by_a_later_walk() -> None:
    one = played()
    carry_out(one, ("one", A, NEW))
    one.until(2.0)
    one.users.merge(pack([user(A)]))
    one.until(8.0)
    assert host_of(one) == NEW


def test_another_change_of_a_host_is_no_reason_to_walk_again() -> None:
    one = played()
    carry_out(one, ("one", A, NEW))
    one.until(70.0)
    one.users.merge(pack([user(A)]))
    one.handle(HostChange(5, B, weight=7), 70.0)
    one.until(80.0)
    assert host_of(one) == A


def test_a_pinned_user_of_a_backend_without_an_address_waits_and_others_do_not() -> None:
    for flags, answered in ((PINNED, 0), (0, 1)):
        one = played()
        one.users.put(user(B, flags=flags))
        carry_out(one, ("one", A, B), ("two", B, placeholder_address("two")))
        assert len(of(Answer, one.handle(Lookup(RequestId(1), KEY, b"", b"alice"), 2.0))) == answered


def test_a_user_on_the_move_to_a_backend_that_moves_gets_there() -> None:
    one = played()
    one.users.put(user(B))
    one.handle(MoveUser(4, KEY, A), 0.8)
    carry_out(one, ("one", A, NEW))
    one.until(20.0)
    assert host_of(one) == NEW
    record = one.users.get(KEY)
    assert record is not None
    assert not record.flags & MOVING


def test_a_move_is_not_carried_out_where_the_table_is_another_one_by_then() -> None:
    one = played()
    rows = [one.core.hosts.rows[A]]
    one.core.hosts.change(A, START, weight=7)
    effects = one.handle(HostsMoved(9, moves_of(("one", A, NEW)), rows), 1.0)
    assert [done.operation for done in of(OperationDone, effects)] == [9]
    assert one.core.hosts.get(NEW) is None
