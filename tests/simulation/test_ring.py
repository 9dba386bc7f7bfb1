"""Rings of real cores: the readable cases. The random ones are in `test_random.py`."""

from __future__ import annotations

import pytest

from director.core.placement.assign import Gate
from director.core.ring.partition import Standing
from tests.simulation.world import World

USERS = [f"user{i}" for i in range(40)]
NETWORK_DELAY = 0.05
"""Seconds in which a change has passed round the simulated ring."""


def ring_of_three(store: str = "own", seed: int = 1) -> World:
    return World(3, store=store, seed=seed).start().run_until_in_sync(1.0)


def hosts(world: World) -> dict[str, set[str | None]]:
    return {user: world.where(user) for user in USERS}


@pytest.mark.shows("I-42")
def test_three_directors_form_a_ring_and_answer_all_users() -> None:
    world = World(3).start().run(1.0)
    assert world.in_sync()
    assert [node.core.standing for node in world.nodes.values()] == [Standing.COMPLETE] * 3


@pytest.mark.parametrize("directors", range(1, 8))
@pytest.mark.parametrize("store", ["own", "shared"])
def test_directors_started_at_the_same_time_form_a_ring(directors: int, store: str) -> None:
    world = World(directors, store=store).start().run(1.5)
    assert world.in_sync()
    assert world.differences() == []


def test_assignments_of_one_director_reach_the_others_at_once() -> None:
    world = ring_of_three()
    replies = world.logins(USERS, "d2")
    world.run(NETWORK_DELAY)
    assert {reply.user: {reply.host} for reply in replies} == hosts(world)


def test_first_logins_of_one_user_on_all_directors_at_once_get_one_backend() -> None:
    world = ring_of_three()
    replies = [world.login(user, at) for user in USERS for at in ("d1", "d2", "d3")]
    assert len({(reply.user, reply.host) for reply in replies}) == len(USERS)
    assert world.run(NETWORK_DELAY).differences() == []


def test_a_refresh_on_one_director_keeps_the_assignment_on_the_others() -> None:
    world = ring_of_three()
    world.login("alice", "d1")
    world.run(50).seen("alice", "d3")
    world.run(30)
    world.change("d2", "127.0.1.1", up=False)
    world.change("d2", "127.0.1.2", up=False)
    world.run(1)
    record = world.node("d1").users.get(next(iter(world.node("d2").store.users)))
    assert record is not None
    assert world.login("alice", "d1").host == world.login("alice", "d2").host == world.host_at("alice", "d3")


def test_new_users_wait_until_all_directors_have_a_host_change_and_assigned_users_never_wait() -> None:
    world = ring_of_three()
    known = {reply.user: reply.host for reply in world.logins(USERS, "d1")}
    world.run(NETWORK_DELAY)
    outcome = world.change("d1", "127.0.1.1", weight=10)
    new = world.login("newcomer", "d1")
    again = world.logins(USERS, "d1")
    assert new.pending
    assert outcome.pending
    assert {reply.user: reply.host for reply in again} == known
    world.run(NETWORK_DELAY)
    assert outcome.done is not None
    assert new.host == world.login("newcomer", "d3").host


@pytest.mark.parametrize("behind", ["d2", "d3"])
@pytest.mark.parametrize("moment", [0.05, 0.45])
def test_no_director_assigns_by_the_new_table_while_another_assigns_by_the_old(
    behind: str, moment: float
) -> None:
    world = ring_of_three()
    for name in ("d1", "d2", "d3"):
        world.slow_down(name, behind, 0.5)
    world.change("d1", "127.0.1.1", weight=1)
    world.run(moment)
    replies = [world.login(user, at) for user in USERS for at in ("d1", "d2", "d3")]
    world.run(5)
    assert len({(reply.user, reply.host) for reply in replies}) == len(USERS)


def test_a_host_change_is_confirmed_only_when_every_director_has_it() -> None:
    world = ring_of_three()
    world.node("d3").suspend()
    outcome = world.change("d1", "127.0.1.1", weight=10)
    world.run(3)
    assert outcome.pending
    world.node("d3").resume()
    world.run(1)
    assert outcome.done is not None
    assert {node.core.hosts.get("127.0.1.1").weight for node in world.nodes.values()} == {10}


@pytest.mark.parametrize("killed", ["d1", "d2", "d3"])
def test_the_others_keep_answering_when_a_director_is_killed(killed: str) -> None:
    world = ring_of_three()
    known = {reply.user: reply.host for reply in world.logins(USERS, killed)}
    world.run(NETWORK_DELAY)
    world.node(killed).crash()
    others = [name for name in ("d1", "d2", "d3") if name != killed]
    again = [world.login(user, at) for user in USERS for at in others]
    assert {(reply.user, reply.host) for reply in again} == set(known.items())
    new = [world.login(f"new{i}", at) for i, at in enumerate(others * 5)]
    world.run(0.2)
    assert [reply for reply in new if reply.pending] == []


@pytest.mark.parametrize("killed", ["d1", "d2", "d3"])
def test_a_restarted_director_answers_after_the_exchange_with_a_neighbour_and_then_as_the_others(
    killed: str,
) -> None:
    world = ring_of_three()
    world.logins(USERS, "d1")
    world.run(1)
    world.node(killed).crash()
    other = "d1" if killed != "d1" else "d2"
    world.run(1)
    changed = world.change(other, "127.0.1.1", weight=0)
    world.run(1)
    late = world.logins([f"late{i}" for i in range(20)], other)
    world.node(killed).start()
    asked = world.logins([reply.user for reply in late], killed)
    assert changed.done is not None
    assert world.node(killed).core.assigner.gate is Gate.CLOSED
    assert all(reply.pending for reply in asked)
    world.run(1)
    assert [reply.host for reply in asked] == [reply.host for reply in late]
    assert world.in_sync()
    assert world.differences() == []


@pytest.mark.shows("rule 7", "I-40")
def test_logins_wait_on_a_joining_director_only() -> None:
    world = ring_of_three()
    world.node("d2").crash()
    world.run(1).node("d2").start()
    waited = []
    for number in range(200):
        waited += [world.login(f"new{number}", at).pending for at in ("d1", "d3")]
        world.run(0.002)
    assert world.in_sync()
    assert not any(waited)


def test_the_last_of_three_answers_assigned_users_at_once_and_new_users_after_isolation_wait() -> None:
    world = ring_of_three()
    known = {reply.user: reply.host for reply in world.logins(USERS, "d3")}
    world.run(1)
    world.node("d1").crash()
    world.node("d2").crash()
    world.run(0.1)
    assert {reply.user: reply.host for reply in world.logins(USERS, "d3")} == known
    new = world.login("newcomer", "d3")
    world.run(19)
    assert new.pending
    world.run(2)
    assert new.host is not None
    assert world.node("d3").core.counters.isolated == 1


@pytest.mark.shows("I-34")
def test_a_director_that_holds_the_only_lease_answers_new_users_at_once() -> None:
    world = World(3, store="shared").start("d2").run(0.1)
    reply = world.login("alice", "d2")
    assert reply.host is not None


def test_the_majority_side_answers_new_users_at_once_without_a_shared_store() -> None:
    world = World(3).start("d1", "d3").run(0.5)
    assert world.login("alice", "d1").host is not None
    assert world.node("d1").core.standing is Standing.MAJORITY


@pytest.mark.shows("rule 12")
def test_both_sides_of_a_partition_with_a_shared_store_give_a_new_user_one_backend() -> None:
    world = ring_of_three("shared")
    world.partition_off("d3").run(12)
    world.change("d1", "127.0.1.1", weight=1)
    world.run(0.02)
    replies = [world.login(user, at) for user in USERS for at in ("d3", "d1")]
    world.run(0.2)
    assert not any(reply.pending for reply in replies)
    assert len({(reply.user, reply.host) for reply in replies}) == len(USERS)


def test_new_users_wait_for_a_host_change_made_during_a_partition_and_get_one_backend() -> None:
    world = ring_of_three("shared")
    world.partition_off("d3").run(8)
    outcome = world.change("d1", "127.0.1.1", weight=1)
    replies = world.logins(USERS, "d1")
    assert all(reply.pending for reply in replies)
    world.run(5.5)
    again = world.logins(USERS, "d3")
    world.run(0.5)
    assert outcome.done is not None
    assert [reply.host for reply in replies] == [reply.host for reply in again]
    assert not any(reply.pending for reply in replies)


def test_a_host_change_on_one_side_of_a_partition_reaches_the_other_side_through_the_store() -> None:
    world = ring_of_three("shared")
    world.partition_off("d3").run(12)
    outcome = world.change("d1", "127.0.1.1", weight=1)
    world.run(1)
    assert outcome.done is not None
    assert world.node("d3").core.hosts.get("127.0.1.1").weight == 1


def test_a_claimed_user_whose_host_was_removed_is_assigned_to_another_host() -> None:
    world = ring_of_three("shared")
    first = world.login("alice", "d1").host
    world.run(1).partition_off("d3").run(12)
    world.change("d1", first, remove=True)
    world.run(1)
    replies = [world.login("alice", "d3"), world.login("alice", "d1")]
    world.run(2)
    assert replies[0].host == replies[1].host is not None
    assert replies[0].host != first


def test_a_failed_claim_is_repeated() -> None:
    world = ring_of_three("shared")
    world.partition_off("d3").run(8)
    reply = world.login("alice", "d3")
    world.node("d3").store.up = False
    world.run(0.05).node("d3").store.up = True
    assert reply.pending
    world.run(1)
    assert reply.host is not None


def test_without_the_store_the_majority_side_answers_new_users_and_the_minority_side_waits() -> None:
    world = ring_of_three("shared")
    known = {reply.user: reply.host for reply in world.logins(USERS, "d1")}
    world.partition_off("d3").run(8)
    world.node("d1").store.up = False
    world.run(2)
    larger, smaller = world.login("alice", "d1"), world.login("bob", "d3")
    assert {reply.user: reply.host for reply in world.logins(USERS, "d3")} == known
    assert larger.host is not None
    assert smaller.pending
    world.run(21)
    assert smaller.host is not None


def test_after_a_partition_one_ring_agrees_on_users_and_hosts() -> None:
    world = ring_of_three()
    world.partition_off("d3").run(8)
    world.change("d1", "127.0.1.1", weight=1)
    world.logins(USERS[:20], "d1")
    world.run(25)
    world.change("d3", "127.0.1.2", weight=2)
    world.logins(USERS, "d3")
    world.run(1).heal().run(5)
    assert world.in_sync()
    assert world.differences() == []
    weights = {
        node.core.hosts.get(a).weight for node in world.nodes.values() for a in ("127.0.1.1", "127.0.1.2")
    }
    assert weights == {1, 2}


def test_users_found_on_two_hosts_after_a_partition_are_counted_and_logged() -> None:
    world = ring_of_three()
    world.partition_off("d3").run(8)
    world.change("d1", "127.0.1.1", weight=0)
    world.run(21)
    world.logins(USERS, "d1")
    world.logins(USERS, "d3")
    world.run(1).heal().run(5)
    assert sum(node.core.counters.conflicts for node in world.nodes.values()) > 0
    assert "user_on_two_hosts" in world.trace()


def test_a_suspended_director_is_left_out_and_catches_up_before_it_answers_a_login() -> None:
    world = ring_of_three()
    world.logins(USERS, "d1")
    world.run(1).node("d2").suspend()
    world.run(8)
    changed = world.change("d1", "127.0.1.1", up=False)
    world.run(7)
    elsewhere = world.logins([f"new{i}" for i in range(20)], "d1")
    asked = world.logins([reply.user for reply in elsewhere], "d2")
    world.node("d2").resume()
    assert changed.done is not None
    assert all(reply.pending for reply in asked)
    world.run(1)
    assert [reply.host for reply in asked] == [reply.host for reply in elsewhere]
    assert world.in_sync()


def test_a_briefly_suspended_director_only_pings_its_neighbours_before_it_answers() -> None:
    world = ring_of_three()
    world.node("d2").suspend()
    world.run(2)
    known = world.logins(USERS, "d1")
    asked = world.logins(USERS, "d2")
    world.node("d2").resume()
    assert all(reply.pending for reply in asked)
    world.run(NETWORK_DELAY)
    assert [reply.host for reply in asked] == [reply.host for reply in known]
    assert "silent" not in world.trace()


def test_a_resumed_director_without_a_reachable_neighbour_does_not_answer_from_old_memory() -> None:
    world = World(3).start().run(1)
    world.logins(USERS, "d3")
    world.run(1).node("d3").suspend()
    world.run(8).partition_off("d3").run(1)
    world.node("d3").resume()
    asked = world.logins(USERS, "d3")
    world.run(10)
    assert all(reply.pending for reply in asked)
    world.heal().run(5)
    assert not any(reply.pending for reply in asked)


def test_a_hung_neighbour_is_noticed_within_five_seconds_and_the_others_link_at_once() -> None:
    world = ring_of_three()
    world.run(1).node("d2").crash(silently=True)
    begun = world.now
    world.run_until(lambda: not world.node("d1").core.synced, within=6)
    noticed = world.now - begun
    world.run_until(world.in_sync, within=2.5)
    assert 3.9 < noticed < 5.1


def test_concurrent_changes_of_one_host_on_two_directors_end_the_same_everywhere() -> None:
    world = ring_of_three()
    outcomes = [
        world.change("d1", "127.0.1.1", weight=10),
        world.change("d3", "127.0.1.1", weight=20),
        world.change("d2", "127.0.1.1", up=False),
    ]
    world.run(1)
    rows = {node.core.hosts.get("127.0.1.1") for node in world.nodes.values()}
    assert [outcome.done.address for outcome in outcomes] == ["127.0.1.1"] * 3
    assert len(rows) == 1
    assert {row.weight for row in rows} < {10, 20}
    assert {row.up for row in rows} == {False}


def test_changes_not_begun_when_a_director_stops_are_refused_and_not_made() -> None:
    world = ring_of_three(seed=2)
    begun = world.change("d1", "127.0.1.1", weight=20)
    queued = [world.change("d1", "127.0.1.2", weight=20)]
    world.node("d1").stop()
    queued.append(world.change("d1", "127.0.1.3", weight=20))
    world.run(2)
    assert begun.done is not None
    assert [change.failed for change in queued] == [
        "this director is stopping; run the command on another director"
    ] * 2
    rows = world.node("d2").core.hosts.rows
    assert [rows[f"127.0.1.{n}"].weight for n in (1, 2, 3)] == [20, 100, 100]


def test_queued_changes_are_made_one_after_another() -> None:
    world = ring_of_three()
    outcomes = [world.change("d1", "127.0.1.1", weight=weight) for weight in (10, 20, 30)]
    assert [outcome.pending for outcome in outcomes] == [True, True, True]
    world.run(1)
    assert [outcome.done.weight for outcome in outcomes] == [10, 20, 30]


def test_a_login_without_a_usable_host_in_its_pool_waits_until_a_host_is_added() -> None:
    world = ring_of_three()
    reply = world.login("alice", "d1", tag="gold")
    world.run(5)
    assert reply.pending
    world.change("d3", "127.0.2.1", add=True, tag="gold", weight=100)
    world.run(NETWORK_DELAY * 4)
    assert reply.host == "127.0.2.1"


@pytest.mark.shows("rule 37")
def test_a_login_without_a_usable_host_is_refused_thirty_seconds_after_it_arrived() -> None:
    world = ring_of_three()
    first = world.login("alice", "d1", tag="gold")
    world.run(17)
    second = world.login("bob", "d1", tag="gold")
    world.run(31)
    assert [round(reply.answered - reply.asked, 2) for reply in (first, second)] == [30.0, 30.0]
    assert (first.refused, second.refused) == ("no hosts, waited 30 s",) * 2
    assert len(world.node("d1").core.pending) == 0


def test_a_login_whose_connection_closed_is_dropped() -> None:
    world = ring_of_three()
    world.hang_up(world.login("alice", "d1", tag="gold"))
    assert len(world.node("d1").core.pending) == 0


@pytest.mark.shows("I-48")
def test_duplicate_messages_change_nothing() -> None:
    world = World(3, seed=4)
    world.duplicates = 1.0
    world.start().run(1)
    replies = [world.login(user, at) for user in USERS for at in ("d1", "d2", "d3")]
    outcome = world.change("d1", "127.0.1.1", weight=1)
    world.run(1)
    assert outcome.done is not None
    assert len({(reply.user, reply.host) for reply in replies}) == len(USERS)
    assert world.in_sync()
    assert world.differences() == []


@pytest.mark.parametrize("store", ["own", "shared"])
def test_after_a_restart_of_all_directors_users_and_hosts_are_read_before_the_first_answer(
    store: str,
) -> None:
    world = ring_of_three(store)
    world.change("d1", "127.0.1.1", weight=10)
    world.change("d2", "127.0.1.2", up=False)
    world.change("d3", "127.0.2.1", add=True, tag="gold", weight=50)
    world.change("d1", "127.0.1.3", remove=True)
    world.run(1)
    before = {reply.user: reply.host for reply in world.logins(USERS, "d1")}
    golden = world.login("alice", "d2", tag="gold")
    rows = world.run(1).node("d1").core.hosts.rows
    for name in ("d1", "d2", "d3"):
        world.node(name).crash()
    world.run(1).start()
    asked = [world.login(user, at) for user in USERS for at in ("d1", "d2", "d3")]
    gold = world.login("alice", "d3", tag="gold")
    world.run(1)
    assert {(reply.user, reply.host) for reply in asked} == set(before.items())
    assert gold.host == golden.host == "127.0.2.1"
    assert [node.core.hosts.rows for node in world.nodes.values()] == [rows] * 3


@pytest.mark.shows("rule 31")
def test_a_store_unreachable_at_the_start_is_read_when_it_is_reachable() -> None:
    world = ring_of_three("shared")
    before = {reply.user: reply.host for reply in world.logins(USERS, "d1")}
    world.change("d1", "127.0.1.1", weight=0)
    world.run(1)
    for node in world.nodes.values():
        node.crash()
    world.node("d1").store.up = False
    world.run(1).start().run(1)
    world.node("d1").store.up = True
    world.run(1)
    assert {reply.user: reply.host for reply in world.logins(USERS, "d2")} == before
    assert {node.core.hosts.get("127.0.1.1").weight for node in world.nodes.values()} == {0}


def test_the_others_form_a_ring_at_once_after_a_clean_stop() -> None:
    world = ring_of_three()
    world.node("d2").stop()
    new = world.login("newcomer", "d1")
    world.run(0.2)
    assert world.in_sync()
    assert new.host is not None


@pytest.mark.shows("rule 9", "I-11")
def test_a_lost_token_is_repeated_within_300_ms() -> None:
    world = ring_of_three()
    outcome = world.lose_tokens(for_seconds=0.1).change("d1", "127.0.1.1", weight=10)
    world.run(0.1)
    assert world.tokens_lost > 0
    assert outcome.pending
    world.run(0.3)
    assert outcome.done is not None


def test_two_directors_whose_clocks_differ_too_much_form_no_ring_and_both_log_why() -> None:
    world = World(2)
    world.node("d2").skew = 3.0
    world.start().run(3)
    assert not world.in_sync()
    reasons = [line for line in world.lines if "synchronize both (NTP)" in line]
    assert {line.split()[1] for line in reasons} == {"d1", "d2"}


def test_a_director_with_another_secret_is_refused_and_both_ends_log_why() -> None:
    world = World(2)
    world.node("d2").identity = {"secret": b"another secret of the ring"}
    world.start().run(3)
    reasons = [line for line in world.lines if "wrong ring secret" in line]
    assert {line.split()[1] for line in reasons} == {"d1", "d2"}
    assert "another secret" not in world.trace()


def test_a_director_that_is_not_listed_is_refused_and_both_ends_log_why() -> None:
    world = World(2)
    world.servers[world.members[0]] = [world.members[0]]
    world.start().run(3)
    reasons = [line for line in world.lines if "not in ring.servers" in line]
    assert {line.split()[1] for line in reasons} == {"d1", "d2"}


@pytest.mark.shows("I-51", "R-47")
def test_a_neighbour_that_refuses_the_link_is_dialled_with_back_off() -> None:
    world = World(2)
    world.servers[world.members[0]] = [world.members[0]]
    world.start().run(30)
    refused = [line for line in world.lines if "d2 ring_link_closed" in line]
    assert 3 < len(refused) < 16


@pytest.mark.shows("rule 14")
def test_after_a_silent_loss_a_host_change_waits_until_the_other_side_has_noticed_the_loss() -> None:
    world = ring_of_three()
    world.run(0.5).partition_off("d3")
    outcome = world.change("d1", "127.0.1.1", weight=10)
    world.run(10)
    assert outcome.pending
    world.run(3)
    assert outcome.done is not None


def test_the_ring_has_the_same_order_on_all_directors() -> None:
    world = World(5).start().run(1)
    assert {node.core.barrier.ring for node in world.nodes.values()} == {tuple(world.members)}


def test_a_host_change_in_a_slow_ring_makes_no_storm_of_tokens() -> None:
    world = World(20).start().run_until_in_sync(2.0)
    world.delays = (0.03,)
    world.change("d1", "127.0.1.1", weight=10)  # so that the directors measure how long a lap takes
    world.run(5)
    before = sum(node.core.counters.messages_in["Token"] for node in world.nodes.values())
    outcome = world.change("d7", "127.0.1.1", weight=20)
    world.run(5)
    assert outcome.done is not None
    tokens = sum(node.core.counters.messages_in["Token"] for node in world.nodes.values()) - before
    assert tokens <= 4 * 20
