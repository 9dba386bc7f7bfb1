"""Ring members and their links: joins, leaves, removals, one-way links."""

from __future__ import annotations

import pytest

from director.core.placement.assign import Gate
from director.core.protocol.events import Received
from director.core.protocol.messages import Leaving
from director.core.ring.link import TRANSITIONS, LinkState, Neighbour
from tests.simulation.world import HASH, UNIX, World

USERS = [f"user{i}" for i in range(30)]


def ring_of(directors: int, store: str = "own") -> World:
    return World(directors, store=store).start().run_until_in_sync(1.5).run(0.1)


def slowest_new_login(world: World, at: list[str], seconds: float) -> float:
    """Log new users in all the time. Returns the longest wait in seconds."""
    replies = []
    end = world.now + seconds
    while world.now < end:
        replies += [world.login(f"new{world.next_number()}", name) for name in at]
        world.run(0.005)
    world.run(2)
    assert all(reply.answered is not None and reply.host for reply in replies)
    return max(reply.answered - reply.asked for reply in replies if reply.answered is not None)


@pytest.mark.shows("rule 11", "I-5")
@pytest.mark.parametrize("store", ["own", "shared"])
@pytest.mark.parametrize(
    ("directors", "leaver"), [(3, "d1"), (3, "d2"), (3, "d3"), (5, "d4"), (2, "d1"), (2, "d2")]
)
def test_no_login_waits_for_a_clean_stop(directors: int, leaver: str, store: str) -> None:
    world = ring_of(directors, store)
    others = [f"d{i + 1}" for i in range(directors) if f"d{i + 1}" != leaver]
    world.after(0.05, world.node(leaver).stop)
    assert slowest_new_login(world, others, 1.0) <= 0.05
    assert not world.node(leaver).up
    assert world.in_sync()


@pytest.mark.parametrize("store", ["own", "shared"])
def test_no_login_waits_for_a_repeated_clean_stop(store: str) -> None:
    world = ring_of(3, store)
    for _ in range(3):
        world.after(0.05, world.node("d1").stop)
        assert slowest_new_login(world, ["d2", "d3"], 1.0) <= 0.05
        world.node("d1").start()
        world.run_until_in_sync(2.0)


@pytest.mark.parametrize("directors", [2, 3, 5])
def test_a_cleanly_stopped_director_joins_the_ring_again_after_its_start(directors: int) -> None:
    world = ring_of(directors)
    world.node("d2").stop()
    world.run(5)
    assert not world.node("d2").up
    world.node("d2").start()
    world.run_until_in_sync(2.0)


def test_the_last_director_after_clean_stops_of_the_others_answers_all_users_at_once() -> None:
    world = ring_of(3)
    world.node("d1").stop()
    world.run(1)
    world.node("d2").stop()
    world.run(1)
    reply = world.login("newcomer", "d3")
    assert reply.host is not None


@pytest.mark.shows("I-38")
@pytest.mark.parametrize("killed", ["d1", "d2", "d3"])
def test_new_users_wait_for_half_a_second_at_most_after_a_hung_director_is_noticed(killed: str) -> None:
    world = ring_of(3, "shared")
    world.node(killed).suspend()
    begun = world.now
    others = [f"d{i}" for i in (1, 2, 3) if f"d{i}" != killed]

    def noticed() -> bool:
        return all(
            world.node(killed).member not in {n.peer for n in world.node(o).core.ring.live_links()}
            for o in others
        )

    world.run_until(noticed, 6.1)
    assert world.now - begun <= 6.1

    def closed() -> bool:
        return all(world.node(o).core.assigner.gate is Gate.OPEN for o in others)

    noticed_at = world.now
    world.run_until(closed, 2)
    assert world.now - noticed_at <= 0.5


def test_a_director_that_was_late_itself_does_not_take_its_neighbours_for_silent() -> None:
    world = ring_of(3)
    world.node("d1").suspend()
    world.run(0.9)
    world.node("d1").resume()
    world.run(1)
    assert "silent" not in world.trace()


def test_a_director_removed_at_run_time_learns_it_and_refuses_all_logins() -> None:
    world = ring_of(3)
    world.login("alice", "d3")
    world.run(0.1)
    outcome = world.change_member("d1", "d3", remove=True)
    world.run(1)
    assert outcome.done is not None
    assert world.node("d3").core.ring.removed
    refused = [world.login("alice", "d3"), world.login("bob", "d3")]
    assert all(reply.refused for reply in refused)
    assert world.node("d1").core.barrier.ring == (world.members[0], world.members[1])
    assert world.login("bob", "d1").host is not None
    world.run(30)
    assert world.login("carol", "d3").refused is not None


@pytest.mark.parametrize("store", ["own", "shared"])
def test_a_director_removed_while_it_was_down_learns_it_when_it_starts(store: str) -> None:
    world = ring_of(3, store)
    world.node("d3").crash()
    world.run(2)
    world.change_member("d1", "d3", remove=True)
    world.run(1)
    world.node("d3").start()
    world.run(1)
    reply = world.login("alice", "d3")
    world.run(1)
    assert reply.refused is not None
    world.change_member("d2", "d3")
    world.run_until_in_sync(8)


@pytest.mark.shows("I-41")
@pytest.mark.parametrize("store", ["own", "shared"])
def test_a_removal_survives_a_restart_of_all_directors_until_the_director_is_added_again(store: str) -> None:
    world = ring_of(3, store)
    world.change_member("d1", "d3", remove=True)
    world.run(2)
    for node in world.nodes.values():
        node.crash()
    world.run(5)
    world.start()
    world.run(25)
    assert world.login("alice", "d3").refused is not None
    assert world.login("alice", "d1").host is not None
    outcome = world.change_member("d2", "d3")
    world.run(3)
    assert outcome.done is not None
    world.run_until_in_sync(3)
    assert world.login("alice", "d3").host is not None


def test_a_director_removed_and_added_again_at_once_is_in_the_ring() -> None:
    world = ring_of(3)
    world.change_member("d1", "d3", remove=True)
    world.change_member("d1", "d3")
    world.run(3)
    assert world.in_sync()


def test_a_director_may_remove_itself() -> None:
    world = ring_of(3)
    outcome = world.change_member("d3", "d3", remove=True)
    world.run(2)
    assert outcome.done is not None
    assert world.login("alice", "d3").refused is not None
    assert world.login("alice", "d1").host is not None


def test_commands_to_a_removed_director_are_refused_at_once() -> None:
    world = ring_of(2)
    world.change_member("d1", "d2", remove=True)
    world.run(1)
    outcomes = [world.change("d2", "127.0.1.1", weight=1), world.move("d2", "alice", "127.0.1.1")]
    world.run(0.1)
    assert ["removed from the ring" in str(outcome.failed) for outcome in outcomes] == [True, True]


def test_removing_an_unlisted_director_is_refused_and_adding_a_listed_one_succeeds() -> None:
    world = ring_of(2)
    world.change_member("d1", "d2", remove=True)
    world.run(1)
    assert world.change_member("d1", "d2", remove=True).failed is not None
    world.run(0.1)
    assert world.change_member("d1", "d1").done is not None


def test_an_added_director_joins_without_a_restart_of_the_others() -> None:
    world = World(3)
    for name in ("d1", "d2"):
        world.servers[world.node(name).member] = world.members[:2]
    world.start("d1", "d2")
    world.run(1)
    outcome = world.change_member("d1", "d3")
    world.run(1)
    assert outcome.done is not None
    world.start("d3")
    world.run_until_in_sync(3)


def test_configured_directors_may_get_other_addresses_at_run_time() -> None:
    world = World(3)
    for member in world.members:
        world.servers[member] = world.members[:2]
    world.servers[world.members[2]] = [world.members[0], world.members[2]]
    world.start("d1", "d2").run(1)
    world.node("d2").crash()
    world.run(1)
    world.start("d3")
    world.node("d1").list_members([world.members[0], world.members[2]])
    world.run(3)
    assert world.node("d1").core.barrier.ring == (world.members[0], world.members[2])


@pytest.mark.parametrize("directors", [2, 3, 4])
@pytest.mark.parametrize("store", ["own", "shared"])
def test_a_director_that_its_left_neighbours_cannot_dial_joins_the_ring(directors: int, store: str) -> None:
    world = World(directors, store=store)
    target = world.node("d2").member
    world.blocked = {(member, target) for member in world.members if member != target}
    world.start()
    world.run_until_in_sync(8)
    world.run(20)
    assert world.in_sync()
    replies = [world.login(user, f"d{i + 1}") for user in USERS for i in range(directors)]
    assert len({(reply.user, reply.host) for reply in replies}) == len(USERS)


@pytest.mark.shows("rule 35")
def test_a_director_that_was_down_for_a_day_brings_back_no_removed_record() -> None:
    world = ring_of(3)
    world.change("d1", "127.0.1.4", weight=20)
    world.login("alice", "d1")
    world.run(2)
    world.node("d3").crash()
    world.change("d1", "127.0.1.3", remove=True)
    world.run(1)
    world.change("d2", "127.0.1.4", weight=0)
    world.change("d2", "127.0.1.2", up=False)
    for node in world.nodes.values():
        node.skew += 24 * 3600  # a day passes
    world.run(70)
    world.node("d3").start()
    world.run(5)
    assert world.in_sync()
    assert world.differences() == []
    assert {row.address for row in world.node("d3").core.hosts.present()} == {
        "127.0.1.1",
        "127.0.1.2",
        "127.0.1.4",
    }
    assert world.login("alice", "d3").host == world.login("alice", "d2").host == "127.0.1.1"


def test_a_resumed_director_does_not_wait_for_a_suspended_neighbour() -> None:
    world = ring_of(3)
    known = world.login("alice", "d1")
    world.run(0.1)
    world.node("d1").suspend()
    world.run(2)
    world.node("d3").suspend()
    world.node("d1").resume()
    reply = world.login("alice", "d1")
    world.run(1.2)
    assert reply.host == known.host


def test_links_take_every_transition_of_the_table_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[LinkState, LinkState]] = set()

    def watched(neighbour: Neighbour, name: str, value: object) -> None:
        before = neighbour.__dict__.get("state", value)
        neighbour.__dict__[name] = value
        if name == "state" and before is not value:
            assert isinstance(before, LinkState)
            assert isinstance(value, LinkState)
            seen.add((before, value))

    monkeypatch.setattr(Neighbour, "__setattr__", watched)
    for crash_after in (0.2, 0.35, 0.45, 0.55, 0.7, 1.9):
        world = World(2)
        world.delays = (0.1, 0.1, 0.1)
        world.start().run(crash_after)
        world.node("d1").crash()
        world.run(3)
    refused = World(2)
    refused.node("d2").identity = {"username_hash": "%u"}
    refused.start().run(1)
    assert seen == {(state, to) for state, ways in TRANSITIONS.items() for to in ways}


def test_a_director_whose_clock_jumps_is_named_and_left_out_until_its_clock_is_correct() -> None:
    world = ring_of(3, "shared")
    world.node("d2").skew = 3600.0
    world.run(3)
    assert world.node("d1").core.barrier.ring == (world.members[0], world.members[2])
    assert "3600.0 s ahead of" in world.trace()
    replies = [world.login("alice", name) for name in ("d1", "d3")]
    world.run(0.5)
    assert replies[0].host == replies[1].host is not None
    record = world.node("d3").users.get(HASH.key(b"alice"))
    assert record is not None
    assert record.seen < UNIX + world.now + 60
    world.node("d2").skew = 0.0
    world.run(7)
    assert world.in_sync()


def test_a_director_removed_stopped_and_added_while_it_was_down_joins_after_its_start() -> None:
    world = ring_of(3)
    world.change_member("d1", "d3", remove=True)
    world.run(1)
    world.node("d3").stop()
    world.run(2)
    d1, d3 = world.node("d1"), world.node("d3")
    (source,) = [n for n in d1.core.ring.live_links() if n.peer == world.members[1] and n.rightward]
    d1.handle(Received(source.link, [Leaving(d3.member, d3.core.ring.presence.number)]))
    world.change_member("d1", "d3")
    world.run(1)
    world.node("d3").start()
    world.run_until_in_sync(5)
