"""Moves, kicks and flushes of whole rings: the readable cases. The random ones are in `test_random.py`."""

from __future__ import annotations

from typing import Any

import pytest

from director.core.moves.moves import Moves
from director.core.moves.movestate import TRANSITIONS, Stage
from director.core.protocol.kicktypes import ByField, ByName, HashOnHosts, OnHost
from director.core.settings import Settings
from tests.simulation.parts import EXPIRE
from tests.simulation.scripting import recorded
from tests.simulation.world import HASH, World

HOSTS = [f"127.0.1.{number}" for number in (1, 2, 3, 4)]
KICK_DELAY = 2.0


def ring_of(directors: int, store: str = "own", **settings: object) -> World:
    world = World(directors, store=store)
    world.proxying = True
    world.settings_of_core = Settings(**settings)  # type: ignore[arg-type]
    return world.start().run_until_in_sync(1.0).run(0.1)


def logged_in(world: World, user: str = "alice", *at: str) -> str:
    """Log a user in on these directors. Returns the host of all answers."""
    hosts = {world.login(user, name).host for name in at or ("d1",)}
    world.run(0.1)
    (host,) = hosts
    assert host is not None
    return host


def other_than(*hosts: str) -> str:
    return next(host for host in HOSTS if host not in hosts)


def at_rest(world: World) -> None:
    """Check that all directors agree, and that all counters of work in progress are 0."""
    for node in world.ups():
        core = node.core
        assert (len(core.kicks), len(core.moves), core.moves.led, len(core.jobs)) == (0, 0, 0, 0)
        assert (len(core.near), core.assigner.users_held, len(core.kick_rounds), len(core.pending)) == (
            0,
            0,
            0,
            0,
        )
    assert world.differences() == []


@pytest.mark.shows("rule 24")
@pytest.mark.parametrize("directors", [1, 2, 3, 5])
def test_a_moved_user_has_no_session_on_the_old_host_before_the_new_host_is_used(directors: int) -> None:
    world = ring_of(directors)
    names = [f"d{i + 1}" for i in range(directors)]
    old = logged_in(world, "alice", *names)
    new = other_than(old)
    outcome = world.move(names[-1], "alice", new)
    world.run(0.05)
    replies = [world.login("alice", name) for name in names]
    world.run(0.5)
    assert world.sessions("alice") == []
    assert all(reply.pending for reply in replies)
    world.run(KICK_DELAY)
    assert {reply.host for reply in replies} == {new}
    assert outcome.users is not None
    assert (outcome.users.moved, outcome.users.kicked, outcome.users.timed_out) == (1, directors, 0)
    assert outcome.users.not_reached == []
    at_rest(world)


def test_the_later_of_two_moves_to_one_host_is_ended_by_the_others_when_both_directors_crash() -> None:
    world = ring_of(3)
    world.node("d1").skew = 1.0
    old = logged_in(world, "alice", "d1", "d2", "d3")
    new = other_than(old)
    world.run(3)
    world.move("d2", "alice", new)
    world.run(0.0001)  # less than a message takes
    world.move("d1", "alice", new)  # by a clock ahead: stamped later
    world.run(0.05)
    for name in ("d1", "d2"):
        world.node(name).crash()
    world.run(1)
    reply = world.login("alice", "d3")
    world.run(40)
    assert len(world.node("d3").core.moves) == 0
    assert not reply.pending
    assert world.login("alice", "d3").host == new


def test_a_move_to_the_present_host_refreshes_the_user_and_ends_no_session() -> None:
    world = ring_of(3)
    host = logged_in(world)
    outcome = world.move("d2", "alice", host)
    world.run(0.1)
    assert outcome.users is not None
    assert (outcome.users.moved, outcome.users.unchanged) == (0, 1)
    assert world.sessions("alice") == [host]
    assert [node.kicks for node in world.nodes.values()] == [[], [], []]
    at_rest(world)


def test_an_unassigned_user_is_moved_at_once_without_a_kick() -> None:
    world = ring_of(3)
    outcome = world.move("d1", "bob", HOSTS[2])
    world.run(0.5)
    assert outcome.users is not None
    assert world.where("bob") == {HOSTS[2]}
    assert [node.kicks for node in world.nodes.values()] == [[], [], []]
    at_rest(world)


def test_a_user_who_is_being_moved_is_not_moved_again_by_an_operator() -> None:
    world = ring_of(3)
    old = logged_in(world)
    world.move("d1", "alice", other_than(old))
    world.run(0.2)
    again = world.move("d3", "alice", old)
    world.run(0.1)
    assert again.failed is not None
    world.run(5)
    at_rest(world)


@pytest.mark.shows("I-21", "K10")
@pytest.mark.parametrize("directors", [2, 3, 5])
def test_two_directors_that_move_the_same_users_at_once_agree_and_report_correct_results(
    directors: int,
) -> None:
    world = ring_of(directors)
    users = [f"user{i}" for i in range(40)]
    for user in users:
        world.login(user, "d1")
    world.run(1)
    first = {user: world.move("d1", user, HOSTS[0]) for user in users}
    second = {user: world.move("d2", user, HOSTS[1]) for user in users}
    world.run(8)
    for user in users:
        (where,) = world.where(user)
        for outcome, wanted in ((first[user], HOSTS[0]), (second[user], HOSTS[1])):
            assert outcome.users is not None, outcome
            confirmed = outcome.users.moved + outcome.users.unchanged
            assert confirmed == (where == wanted), (user, where, outcome)
            assert outcome.users.superseded == (where != wanted)
        assert set(world.sessions(user)) <= {where}
    at_rest(world)


@pytest.mark.parametrize("moment", [0.0, 0.001, 0.004, 0.01, 0.05, 0.5, 1.9, 2.2])
@pytest.mark.parametrize("store", ["own", "shared"])
def test_a_move_whose_origin_crashes_is_ended_by_the_others(moment: float, store: str) -> None:
    world = ring_of(3, store)
    old = logged_in(world, "alice", "d1", "d2", "d3")
    world.move("d1", "alice", other_than(old))
    world.run(moment)
    world.node("d1").crash()
    world.run(0.05)
    replies = [world.login("alice", name) for name in ("d2", "d3")]
    world.run(12)
    assert len({reply.host for reply in replies}) == 1
    assert not any(reply.pending for reply in replies)
    at_rest(world)


def test_a_move_in_progress_is_ended_after_a_restart_of_all_directors() -> None:
    world = ring_of(3, "shared")
    old = logged_in(world, "alice", "d1", "d2")
    new = other_than(old)
    world.move("d1", "alice", new)
    world.run(0.6)
    for node in world.nodes.values():
        node.crash()
    world.run(3)
    world.start()
    world.run(20)
    assert world.where("alice") == {new}
    assert world.sessions("alice") == []
    at_rest(world)


def test_an_unanswered_kick_is_counted_and_delays_the_user_until_its_time_out_only() -> None:
    world = ring_of(3)
    old = logged_in(world)
    world.node("d2").kick_channel = lambda: None
    outcome = world.move("d1", "alice", other_than(old))
    world.run(0.05)
    reply = world.login("alice", "d3")
    world.run(8)
    assert outcome.users is not None
    assert outcome.users.timed_out == 1
    assert reply.host == other_than(old)
    assert sum(node.core.counters.kicks_timed_out for node in world.nodes.values()) > 0
    at_rest(world)


def test_a_suspended_director_is_named_as_not_reached_and_ends_its_sessions_when_it_resumes() -> None:
    world = ring_of(3, "shared")
    old = logged_in(world, "alice", "d1", "d3")
    world.node("d3").suspend()
    world.run(7)
    outcome = world.move("d1", "alice", other_than(old))
    world.run(12)
    assert outcome.users is not None
    assert outcome.users.not_reached == [world.node("d3").member]
    world.node("d3").resume()
    world.run(4)
    assert world.sessions("alice") == []
    at_rest(world)


@pytest.mark.shows("rule 29")
def test_sessions_on_the_machine_of_a_crashed_director_end_when_it_runs_again() -> None:
    world = ring_of(3, "shared")
    old = logged_in(world, "alice", "d1", "d3")
    world.node("d3").crash()
    world.run(2)
    world.move("d1", "alice", other_than(old))
    world.run(8)
    assert world.sessions("alice") == [old]
    world.node("d3").start()
    world.run(4)
    assert world.sessions("alice") == []
    at_rest(world)


def test_a_started_director_adopts_sessions_of_unassigned_users() -> None:
    world = ring_of(1, "own")
    host = logged_in(world)
    node = world.node("d1")
    node.crash()
    node.store.buckets["users"].clear()
    moved = next(h for h in HOSTS if h != host)
    node.sessions[0].host = moved  # type: ignore[assignment]
    world.run(1)
    node.start()
    world.run_until_in_sync(2).run(1)
    assert world.where("alice") == {moved}


def test_a_flush_moves_the_users_of_one_host_only_and_never_more_than_the_limit_at_a_time() -> None:
    world = ring_of(3, max_parallel_moves=10)
    users = [f"user{i}" for i in range(100)]
    for user in users:
        world.login(user, "d1")
    world.run(1)
    before = {user: world.where(user) for user in users}
    world.change("d1", HOSTS[0], weight=0)
    world.run(1)
    outcome = world.flush("d2", HOSTS[0])
    most = 0
    for _ in range(400):
        world.run(0.1)
        most = max(most, *(len(node.core.moves) for node in world.nodes.values()))
    assert outcome.users is not None
    concerned = [user for user in users if before[user] == {HOSTS[0]}]
    assert outcome.users.moved == len(concerned) > 20
    assert all(world.where(user) == before[user] for user in users if user not in concerned)
    assert all(world.where(user) != {HOSTS[0]} for user in concerned)
    assert most == 10
    at_rest(world)


def test_a_second_flush_before_the_first_has_ended_leaves_no_login_waiting() -> None:
    world = ring_of(3)
    users = [f"user{i}" for i in range(60)]
    for user in users:
        world.login(user, "d1")
    world.run(1)
    world.change("d1", HOSTS[0], weight=0)
    world.run(0.5)
    first = world.flush("d1")
    world.change("d1", HOSTS[0], weight=300)
    world.run(0.5)
    second = world.flush("d1")
    replies = world.logins(users, "d3")
    world.run(9)
    assert first.users is not None
    assert second.users is not None
    assert not any(reply.pending for reply in replies)
    assert sum(node.core.counters.moves_timed_out for node in world.nodes.values()) == 0
    at_rest(world)


def test_a_flush_without_a_usable_host_kicks_and_forgets_users_everywhere() -> None:
    world = ring_of(3)
    users = [f"user{i}" for i in range(20)]
    for user in users:
        for name in ("d1", "d2", "d3"):
            world.login(user, name)
    world.run(1)
    for host in HOSTS:
        world.change("d1", host, up=False)
    world.run(1)
    outcome = world.flush("d1")
    world.run(5)
    assert outcome.users is not None
    assert outcome.users.moved == 20
    assert [world.sessions(user) for user in users] == [[]] * 20
    assert {host for user in users for host in world.where(user)} == {None}
    at_rest(world)


@pytest.mark.shows("I-54")
def test_a_flush_with_nothing_to_do_answers_at_once() -> None:
    world = ring_of(3)
    outcome = world.flush("d1")
    world.run(0.2)
    assert outcome.users is not None
    assert outcome.users.moved == 0


def test_forgotten_users_are_forgotten_everywhere_and_their_sessions_end() -> None:
    world = ring_of(3, "shared")
    users = [f"user{i}" for i in range(30)]
    for user in users:
        world.login(user, "d2")
    world.run(1)
    outcome = world.forget("d1", HOSTS[1])
    world.run(1)
    assert outcome.users is not None
    forgotten = [user for user in users if world.where(user) == {None}]
    assert outcome.users.moved == len(forgotten) > 3
    assert {host for user in users for host in world.sessions(user)} == set(HOSTS) - {HOSTS[1]}
    world.run(1)
    at_rest(world)


def test_a_forgotten_user_is_not_brought_back_by_a_director_that_was_down() -> None:
    world = ring_of(3)
    host = logged_in(world)
    world.node("d3").crash()
    world.run(2)
    world.forget("d1", host)
    world.run(1)
    world.node("d3").start()
    world.run(3)
    assert world.where("alice") == {None}


@pytest.mark.parametrize(
    "what",
    [ByName(b"alice"), ByField("user_session", b"alice"), OnHost("all"), HashOnHosts(0, [])],
)
def test_a_kick_ends_sessions_on_all_directors_and_moves_no_user(what: object) -> None:
    world = ring_of(3)
    host = logged_in(world, "alice", "d1", "d2", "d3")
    if isinstance(what, OnHost):
        what = OnHost(host)
    if isinstance(what, HashOnHosts):
        what = HashOnHosts(world.node("d1").sessions[0].hash32, HOSTS)
    outcome = world.kick("d2", what)  # type: ignore[arg-type]
    world.run(0.5)
    assert outcome.users is not None
    assert (outcome.users.kicked, outcome.users.not_reached) == (3, [])
    assert world.sessions("alice") == []
    assert world.where("alice") == {host}
    at_rest(world)


def test_kicks_beyond_the_limit_wait_in_order_or_are_refused() -> None:
    world = ring_of(3, max_parallel_kicks=2)
    for node in world.nodes.values():
        node.kick_channel = lambda: 1.0
    outcomes = [world.kick("d1", ByName(b"user%d" % i)) for i in range(5)]
    world.run(0.1)
    refused = world.kick("d1", ByName(b"bob"), wait=False)
    world.run(0.1)
    assert refused.failed is not None
    world.run(10)
    assert [outcome.users is not None for outcome in outcomes] == [True] * 5
    at_rest(world)


def test_a_pinned_user_stays_on_the_host_through_expiry_and_flushes_until_unpinned() -> None:
    world = ring_of(3, "shared")
    old = logged_in(world)
    new = other_than(old)
    world.move("d1", "alice", new, pin=True)
    world.run(4)
    world.change("d2", new, weight=0)
    world.run(3 * EXPIRE)
    flushed = world.flush("d3", new)
    world.run(3)
    assert flushed.users is not None
    assert flushed.users.moved == 0
    assert world.login("alice", "d3").host == new
    outcome = world.unpin("d3", "alice")
    world.run(2)
    assert outcome.users is not None
    assert outcome.users.moved == 1
    world.run(3 * EXPIRE)
    assert world.login("alice", "d1").host != new
    world.run(3)
    at_rest(world)


@pytest.mark.shows("rule 36")
def test_the_users_of_a_host_that_gets_another_tag_are_moved_as_in_a_flush() -> None:
    world = ring_of(3)
    users = [f"user{i}" for i in range(40)]
    for user in users:
        world.login(user, "d1")
    world.run(0.1)  # in the same second as the logins
    concerned = [user for user in users if world.where(user) == {HOSTS[0]}]
    change = world.change("d2", HOSTS[0], tag="gold", retag=True)
    world.run(0.2)
    assert change.done is not None
    early = world.login(concerned[0], "d3")
    world.run(0.5)
    assert early.pending
    assert world.sessions(concerned[0]) == []
    outcome = world.flush("d2", HOSTS[0], old_tag=b"", before=change.done.tag_at)
    world.run(6)
    assert outcome.users is not None
    assert outcome.users.moved + 1 == len(concerned)
    assert early.host not in (None, HOSTS[0])
    assert all(world.sessions(user) == [] for user in concerned[1:])
    assert world.login("new", "d1", tag="gold").host == HOSTS[0]
    world.run(1)
    at_rest(world)


@pytest.mark.shows("rule 36")
@pytest.mark.parametrize("ahead", [0.0, 1.9])
def test_a_user_who_logged_in_in_the_second_of_a_tag_change_is_moved_too(ahead: float) -> None:
    world = ring_of(3)
    world.node("d3").skew = ahead
    host = logged_in(world, "alice", "d3")
    change = world.change("d1", host, tag="gold", retag=True)
    world.run(0.2)
    assert change.done is not None
    reply = world.login("alice", "d2")
    world.run(0.1)
    assert reply.pending
    world.run(3)
    assert reply.host not in (None, host)
    assert world.login("bob", "d1", tag="gold").host == host
    world.run(3)
    at_rest(world)


def test_adding_a_host_with_another_tag_does_not_change_its_tag() -> None:
    world = ring_of(3)
    outcome = world.change("d1", HOSTS[0], add=True, tag="gold")
    world.run(0.2)
    assert outcome.failed == "host tag can't be changed"


@pytest.mark.shows("K12")
@pytest.mark.parametrize(("ok", "after"), [(True, 0.6), (False, 2.6)])
def test_the_flush_program_runs_once_at_the_origin_and_its_success_replaces_the_kick_delay(
    ok: bool, after: float
) -> None:
    world = ring_of(3, flush_program=True)
    old = logged_in(world)
    for node in world.nodes.values():
        node.flush_program = (0.5, ok)
    world.move("d2", "alice", other_than(old))
    world.run(0.05)
    reply = world.login("alice", "d1")
    world.run(after - 0.2)
    assert reply.pending
    world.run(0.3)
    assert reply.host == other_than(old)
    assert [len(node.flushes) for node in world.nodes.values()] == [0, 1, 0]
    at_rest(world)


def test_a_hanging_flush_program_is_abandoned_after_30_seconds_and_the_user_can_log_in() -> None:
    world = ring_of(3, flush_program=True)
    old = logged_in(world)
    for node in world.nodes.values():
        node.flush_program = None
    outcome = world.move("d2", "alice", other_than(old))
    world.run(31)
    assert outcome.users is not None
    assert "move_timed_out" in world.trace()
    assert world.login("alice", "d1").host == other_than(old)
    world.run(1)
    at_rest(world)


def test_all_sessions_of_a_removed_host_end() -> None:
    world = ring_of(3)
    host = logged_in(world, "alice", "d1", "d2", "d3")
    world.change("d1", host, remove=True)
    world.run(0.5)
    assert world.sessions("alice") == []
    at_rest(world)


def test_a_session_in_flight_to_a_removed_host_ends() -> None:
    world = ring_of(3)
    world.on_the_way = lambda: 0.5
    host = logged_in(world, "alice", "d1", "d2", "d3")
    world.change("d1", host, remove=True)
    world.run(0.1)
    assert world.login("alice", "d1").host != host
    world.run(1.5)
    assert host not in world.sessions("alice")


def test_sessions_to_a_host_removed_while_their_director_was_down_end_when_it_runs_again() -> None:
    world = ring_of(3)
    host = logged_in(world, "alice", "d1", "d2", "d3")
    world.node("d1").crash()
    world.change("d2", host, remove=True)
    world.run(2)
    world.node("d1").start()
    world.run(2)
    assert world.sessions("alice") == []


def test_sessions_to_a_host_removed_and_added_again_end_when_their_suspended_director_resumes() -> None:
    world = ring_of(3)
    host = logged_in(world, "alice", "d1", "d2", "d3")
    world.node("d1").suspend()
    world.run(8)
    world.change("d2", host, remove=True)
    world.run(0.5)
    world.change("d2", host, add=True, weight=8)
    world.run(6)
    assert world.sessions("alice") == [host], "the session of d1"
    world.node("d1").resume()
    world.run(2)
    assert world.sessions("alice") == []


def test_a_user_can_log_in_when_the_target_of_the_move_is_removed() -> None:
    world = ring_of(3)
    old = logged_in(world)
    new = other_than(old)
    outcome = world.move("d1", "alice", new)
    world.run(0.3)
    world.change("d2", new, remove=True)
    world.run(5)
    assert outcome.users is not None
    reply = world.login("alice", "d3")
    world.run(3)
    assert reply.host not in (None, new)
    at_rest(world)


def test_a_user_is_not_moved_to_a_target_that_gets_another_tag_meanwhile() -> None:
    world = ring_of(3)
    old = logged_in(world)
    new = other_than(old)
    world.change("d2", new, tag="gold", retag=True)
    world.move("d1", "alice", new)  # d1 has not heard of it
    world.run(8)
    reply = world.login("alice", "d3")
    world.run(6)
    assert reply.host not in (None, new)
    assert set(world.sessions("alice")) == {reply.host}
    at_rest(world)


def test_the_winning_move_of_two_waits_for_the_kicks_of_both() -> None:
    world = ring_of(2)
    old = logged_in(world, "alice", "d2")
    first, second = other_than(old), other_than(old, other_than(old))
    takes = iter([0.01, 3.0])
    world.node("d2").kick_channel = lambda: next(takes, 0.01)
    won, lost = world.move("d1", "alice", first), world.move("d2", "alice", second)
    world.run(0.3)
    reply = world.login("alice", "d1")
    world.run(2.5)
    assert reply.pending, "the kick of the winning move takes 3 s at d2"
    world.run(6)
    assert won.users is not None
    assert lost.users is not None
    assert (won.users.moved, lost.users.superseded) == (1, 1)
    assert (reply.host, world.sessions("alice")) == (first, [first])
    at_rest(world)


@pytest.mark.shows("I-32")
def test_an_interrupted_flush_ends_with_the_moves_it_had_begun() -> None:
    world = ring_of(3, max_parallel_moves=5)
    users = [f"user{i}" for i in range(60)]
    for user in users:
        world.login(user, "d1")
    world.change("d1", HOSTS[0], weight=0)
    world.run(1)
    outcome = world.flush("d1", HOSTS[0])
    world.run(0.5)
    world.interrupt("d1", outcome)
    world.run(4)
    assert outcome.users is not None
    assert outcome.users.moved == 5
    at_rest(world)


@pytest.mark.parametrize("silent", ["d1", "d2"])
def test_an_unanswered_kick_delays_a_move_for_four_seconds_at_most(silent: str) -> None:
    world = ring_of(3)
    old = logged_in(world, "alice", silent)
    world.run(31)  # no session is in flight any more, so no second kick ends the wait
    world.node(silent).kick_channel = lambda: None
    outcome = world.move("d1", "alice", other_than(old))
    world.run(4 + KICK_DELAY + 0.5)
    assert outcome.users is not None
    assert (outcome.users.moved, outcome.users.timed_out) == (1, 1)
    at_rest(world)


def test_moves_take_every_transition_of_the_table_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[Stage, Stage]] = set()
    enter, end = Moves._enter, Moves._end

    def watched_enter(moves: Moves, own: Any, stage: Stage, until: float) -> None:
        seen.add((own.stage, stage))
        enter(moves, own, stage, until)

    def watched_end(moves: Moves, own: Any) -> None:
        seen.add((own.stage, Stage.OVER))
        end(moves, own)

    monkeypatch.setattr(Moves, "_enter", watched_enter)
    monkeypatch.setattr(Moves, "_end", watched_end)
    for options, slow, moment in (
        ("", "store down", "300ms"),
        (" program=yes", "kicks of d1 take 3s", "2s"),
        ("", "delay 400ms", "300ms"),
        (" program=yes", "flush program takes 1s", "500ms"),
        ("", "delay 1ms", "1s"),
    ):
        for by_hand in ("", " by-hand"):
            recorded(
                f"ring 2{options}\nlogin alice at d1\n{slow}\nmove alice to b4 at d1\n"
                f"run {moment}\ntell d1 alice b2 decided=+9 seen=+0{by_hand}\nrun 5s\n"
            )
    table = {(stage, to) for stage, ways in TRANSITIONS.items() for to in ways}
    assert seen == table


def test_a_first_login_that_crosses_a_move_has_no_session_left_when_the_new_host_is_used() -> None:
    world = ring_of(3)
    world.on_the_way = lambda: 0.5
    placed = world.node("d1").core.assigner.place(HASH.hash(b"alice"), b"")
    assert placed is not None
    new = other_than(placed.address)
    world.move("d1", "alice", new)
    assert world.login("alice", "d3").host == placed.address
    world.run(0.1)
    reply = world.login("alice", "d2")
    world.run_until(lambda: not reply.pending, 3.0)
    assert (reply.host, world.sessions("alice")) == (new, [new])
    world.run(1)
    at_rest(world)


def test_sessions_to_a_retagged_host_end_when_their_director_runs_again() -> None:
    world = ring_of(3, "shared")
    old = logged_in(world, "alice", "d1", "d3")
    world.node("d3").crash()
    world.run(2)
    change = world.change("d1", old, tag="gold", retag=True)
    world.run(1)
    assert change.done is not None
    world.flush("d1", old, old_tag=b"", before=change.done.tag_at)
    world.run(6)
    world.node("d3").start()
    world.run(5)
    assert world.sessions("alice") == []
    at_rest(world)
