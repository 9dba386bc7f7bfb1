"""Kicks under way on one director."""

from __future__ import annotations

import pytest

from director.core.moves.kicks import (
    AGAIN_AFTER,
    AT_A_TIME,
    AT_ONCE,
    BEGUN,
    KICK_TIMEOUT,
    ON_THE_WAY,
    YOUNG,
    Kicks,
    described,
)
from director.core.placement.users import MOVING, UserTable
from director.core.protocol.counters import Counters
from director.core.protocol.effects import CountSessions, Kick, LogEvent
from director.core.protocol.events import Kicked
from director.core.protocol.kicktypes import ByField, ByName, Fence, HashOnHosts, OnHost
from director.core.tables.hosts import BackendSetting, HostTable
from director.types import Address, HostId
from tests.unit.core.cores import BACKENDS, EXPIRE, START, at, of, user

OLD, NEW = user(b"alice", BACKENDS[0]), user(b"alice", BACKENDS[3], decided=START + 1)
MOVED = NEW._replace(flags=MOVING)
NOWHERE = OLD._replace(host=HostId(0))


def kicks() -> tuple[Kicks, UserTable]:
    settings = [BackendSetting(address, "", "", 100) for address in BACKENDS]
    settings.append(BackendSetting(Address("10.1.0.9"), "", "gold", 100))
    users = UserTable(EXPIRE)
    one = Kicks(HostTable(settings), users, Counters())
    one.blind = False
    return one, users


def test_a_kick_is_sent_once_and_ends_with_its_answer() -> None:
    one, _ = kicks()
    run = one.start(ByName(b"alice"), at(0))
    assert of(Kick, one.turn(at(0))) == [Kick(run.number, ByName(b"alice"))]
    assert of(Kick, one.turn(at(0.1))) == []
    assert (len(one), run.over) == (1, False)
    one.ended([Kicked(run.number, 3, "")], at(2))
    assert (len(one), run.over, run.sessions, run.problem) == (0, True, 3, "")


def test_a_kick_without_an_answer_ends_after_four_seconds_and_is_logged_and_counted() -> None:
    one, _ = kicks()
    run = one.start(OnHost("10.1.0.1"), at(1))
    one.turn(at(1))
    assert one.next_deadline() == 1 + KICK_TIMEOUT
    assert of(LogEvent, one.overdue(at(0.99 + KICK_TIMEOUT))) == []
    (log,) = of(LogEvent, one.overdue(at(1 + KICK_TIMEOUT)))
    assert (log.event, log.fields["reason"]) == ("kick_failed", "the kick channel did not answer within 4 s")
    assert (run.over, len(one), one.next_deadline()) == (True, 0, None)


@pytest.mark.shows("I-9", "I-50")
def test_an_answer_to_a_kick_that_has_ended_is_ignored() -> None:
    one, _ = kicks()
    run = one.start(OnHost("10.1.0.1"), at(1))
    one.overdue(at(1 + KICK_TIMEOUT))
    assert one.ended([Kicked(run.number, 7, "")], at(2)) == []
    assert (run.sessions, one.ended([Kicked(99, 1, "oops")], at(2))) == (0, [])


def test_a_kick_that_failed_says_why_and_names_no_user() -> None:
    one, _ = kicks()
    run = one.start(ByName(b"alice"), at(1))
    one.turn(at(1))
    (log,) = of(LogEvent, one.ended([Kicked(run.number, 0, "connection refused")], at(2)))
    note = "these sessions may continue; run `director doctor` on this proxy"
    assert log.fields == {"what": "a user's name", "reason": "connection refused", "note": note}
    assert run.problem == "connection refused"
    assert described(HashOnHosts(7, ["a", "b"])) == "hash 7 on 2 hosts"
    assert described(OnHost("10.1.0.1")) == "all sessions on 10.1.0.1"
    assert described(ByField("user_dirkey", b"7")) == "a value of user_dirkey"


def test_a_fence_ends_with_the_kicks_before_it_and_waits_for_no_later_kick() -> None:
    one, _ = kicks()
    first, second = one.start(ByName(b"a"), at(0)), one.start(ByName(b"b"), at(0))
    fence = one.start(Fence(), at(0))
    third = one.start(ByName(b"c"), at(0))
    assert [effect.kick for effect in of(Kick, one.turn(at(0)))] == [
        first.number,
        second.number,
        third.number,
    ]
    one.ended([Kicked(first.number, 0, "")], at(2))
    assert not fence.over
    one.ended([Kicked(second.number, 0, "")], at(2))
    assert fence.over
    assert one.start(Fence(), at(0)).over is False


def test_a_fence_without_earlier_kicks_ends_at_once() -> None:
    one, _ = kicks()
    assert one.start(Fence(), at(0)).over


@pytest.mark.shows("rule 19", "I-37")
def test_a_user_who_changes_hosts_is_kicked_from_all_other_hosts_of_the_pool() -> None:
    one, users = kicks()
    run = one.elsewhere(OLD, MOVED, at(0))
    assert run is not None
    users.put(NEW)
    assert one.elsewhere(OLD, NEW, at(0)) is None
    awaited, other = of(Kick, one.turn(at(0)))
    assert (
        awaited.what == other.what == HashOnHosts(OLD.key >> 32, [str(address) for address in BACKENDS[:3]])
    )
    assert awaited.kick == run.number


def test_a_user_without_a_host_or_with_the_same_host_is_not_kicked() -> None:
    one, _ = kicks()
    assert one.elsewhere(NOWHERE, NEW, at(0)) is None
    assert one.elsewhere(OLD, OLD._replace(flags=MOVING), at(0)) is None


def test_a_director_that_does_not_know_its_sessions_yet_kicks_a_moving_user_it_has_never_heard_of() -> None:
    one, _ = kicks()
    one.blind = True
    assert one.elsewhere(NOWHERE, NEW._replace(flags=MOVING), at(0)) is not None
    assert one.elsewhere(NOWHERE, NEW, at(0)) is None


@pytest.mark.shows("rule 19")
def test_a_login_in_flight_to_the_old_host_is_kicked_again() -> None:
    one, users = kicks()
    users.put(NEW)
    one.elsewhere(OLD, NEW, at(1))
    assert len(of(Kick, one.turn(at(1)))) == 1
    one.turn(at(0.99 + AGAIN_AFTER))
    one.turn(at(1 + AGAIN_AFTER))
    assert len(one) == 2


def test_a_user_who_was_moved_back_meanwhile_is_not_kicked_again() -> None:
    one, users = kicks()
    for new in (NEW, MOVED):
        users.put(new)
        one.elsewhere(OLD, new, at(1))
        one.turn(at(1))
    users.put(OLD)
    one.turn(at(1 + AGAIN_AFTER))
    assert len(one) == 2


def test_a_user_moved_back_before_the_kick_begins_is_not_kicked() -> None:
    one, users = kicks()
    one.elsewhere(OLD, NEW, at(1))
    users.put(OLD)
    assert (one.turn(at(1)), len(one), one.next_deadline()) == ([], 0, None)


def test_a_user_last_seen_long_ago_is_kicked_once() -> None:
    one, users = kicks()
    users.put(NEW)
    one.elsewhere(OLD._replace(seen=START - ON_THE_WAY), NEW, at(1))
    one.turn(at(1 + AGAIN_AFTER))
    assert len(one) == 1


def begun_until_it_rests(one: Kicks, mono: float) -> list[int]:
    """The kicks that the kick channel is given in the turns of the loop until there is nothing to do."""
    begun: list[int] = []
    while True:
        one.new_turn()
        turn = [effect.kick for effect in of(Kick, one.turn(at(mono)))]
        assert len(turn) <= BEGUN
        begun += turn
        deadline = one.next_deadline()
        if not one.has_work and (deadline is None or deadline > mono):
            return begun


@pytest.mark.shows("rule 19", "A-42")
def test_of_many_users_who_change_hosts_a_few_are_kicked_at_a_time_and_all_in_the_end() -> None:
    one, users = kicks()
    others = [user(b"user%d" % number, BACKENDS[0]) for number in range(2 * AT_A_TIME)]
    for other in others:
        new = other._replace(host=NEW.host, decided=NEW.decided)
        users.put(new)
        one.elsewhere(other._replace(seen=0), new, at(0))
    begun: list[int] = []
    while running := begun_until_it_rests(one, 0):
        assert len(running) <= AT_ONCE
        one.ended([Kicked(number, 1) for number in running], at(0))
        begun += running
    assert (len(set(begun)), len(one)) == (len(others), 0)


@pytest.mark.shows("A-42")
def test_a_slow_kick_channel_is_given_more_kicks_meanwhile_up_to_a_bound() -> None:
    one, _ = kicks()
    for number in range(2 * AT_A_TIME):
        one.later(ByName(b"user%d" % number))
    begun, mono = begun_until_it_rests(one, 0), 0.0
    assert len(begun) == AT_ONCE
    while len(begun) < AT_A_TIME:
        assert one.next_deadline() == mono + YOUNG
        assert begun_until_it_rests(one, mono + 0.9 * YOUNG) == []
        mono += YOUNG
        more = begun_until_it_rests(one, mono)
        assert 0 < len(more) <= AT_ONCE
        begun += more
    assert len(begun) == AT_A_TIME
    assert one.next_deadline() == KICK_TIMEOUT
    assert begun_until_it_rests(one, mono + YOUNG) == []


@pytest.mark.shows("A-42")
def test_a_kick_that_a_move_waits_for_goes_before_those_that_nothing_waits_for() -> None:
    one, users = kicks()
    users.put(NEW)
    for _ in range(3):
        one.elsewhere(OLD, NEW, at(0))
    awaited = one.elsewhere(OLD, MOVED, at(0))
    assert awaited is not None
    assert of(Kick, one.turn(at(0)))[0].kick == awaited.number


def test_a_count_that_does_not_begin_in_time_is_given_up_and_becomes_no_kick() -> None:
    one, _ = kicks()
    runs = [one.start(ByName(b"alice"), at(0), count_only=True) for _ in range(AT_A_TIME + 1)]
    effects = []
    for now in (*(turn * YOUNG for turn in range(AT_A_TIME // AT_ONCE)), KICK_TIMEOUT, KICK_TIMEOUT + 1):
        for _ in range(AT_A_TIME // BEGUN + 2):
            one.new_turn()
            effects += [*one.overdue(at(now)), *one.turn(at(now))]
    assert (len(of(CountSessions, effects)), of(Kick, effects), len(one)) == (AT_A_TIME, [], 0)
    assert {log.event for log in of(LogEvent, effects)} == {"sessions_not_counted"}
    assert all(run.over and run.problem for run in runs)


@pytest.mark.shows("A-45")
def test_a_kick_that_does_not_begin_in_time_is_given_up_and_begins_all_the_same() -> None:
    one, _ = kicks()
    runs = [one.start(ByName(b"user%d" % number), at(0)) for number in range(AT_A_TIME + 1)]
    for turn in range(AT_A_TIME // AT_ONCE):
        begun_until_it_rests(one, turn * YOUNG)
    one.new_turn()
    logs = of(LogEvent, one.overdue(at(KICK_TIMEOUT)))
    assert all(run.over and run.problem for run in runs)
    assert logs[0].fields["reason"] == "not begun within 4 s: too many kicks at once; it is done later"
    (kick,) = of(Kick, one.turn(at(KICK_TIMEOUT)))
    assert kick.what == runs[-1].what


def test_a_fence_waits_for_kicks_that_have_not_begun() -> None:
    one, users = kicks()
    users.put(NEW)
    one.elsewhere(OLD._replace(seen=0), NEW, at(0))
    fence = one.start(Fence(), at(0))
    (kick,) = of(Kick, one.turn(at(0)))
    assert not fence.over
    one.ended([Kicked(kick.kick, 2)], at(1))
    assert (fence.over, fence.sessions) == (True, 2)
