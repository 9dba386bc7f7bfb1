"""Directors that operators have added at run time, and that are in no other director's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import pytest

from director.core.ring.partition import Standing
from tests.simulation.world import Node, World


def grown(directors: int, added: Sequence[str], store: str = "own") -> World:
    """Return a ring in sync to which operators have added some of the directors at run time."""
    world = World(directors, store=store)
    added_members = [world.node(name).member for name in added]
    configured = [member for member in world.members if member not in added_members]
    for member in configured:
        world.servers[member] = configured
    for member in added_members:
        world.servers[member] = sorted([*configured, member])
    world.start(*(name for name in names(world) if name not in added))
    world.run(2)
    for name in added:
        outcome = world.change_member(names(world, configured)[0], name)
        world.run(1)
        assert outcome.done is not None
        world.start(name)
    return world.run_until_in_sync(8)


def names(world: World, members: Sequence[str] | None = None) -> list[str]:
    return [f"d{n}" for n, member in enumerate(world.members, 1) if members is None or member in members]


def partitions(all_names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield one side of each possible partition into two sides."""
    first, *others = all_names
    for many in range(len(others)):
        for side in combinations(others, many):
            yield (first, *side)


def answered(world: World, at: Sequence[str]) -> set[str]:
    """Return the directors that answer new users."""
    replies = {name: world.login(f"new{world.next_number()}", name) for name in at}
    world.run(0.5)
    return {name for name, reply in replies.items() if reply.host is not None}


GROWN = [
    *((4, (f"d{n}",)) for n in range(1, 5)),
    (4, ("d2", "d4")),
    (5, ("d3",)),
    (5, ("d1", "d4")),
]
"""Numbers of directors, and the directors that were added."""


@pytest.mark.shows("rule 47")
@pytest.mark.parametrize(
    ("directors", "added", "side"),
    [(number, added, side) for number, added in GROWN for side in partitions(names(World(number)))],
)
def test_one_side_of_a_partition_assigns_new_users_though_directors_were_added_at_run_time(
    directors: int, added: tuple[str, ...], side: tuple[str, ...]
) -> None:
    world = grown(directors, added)
    world.run(1)
    other = [name for name in names(world) if name not in side]
    world.partition_off(*side)
    for _ in range(6):
        world.run(2)
        if not in_one_ring(world):  # all directors have noticed the partition
            assert not (answered(world, side) and answered(world, other))
    assert sorted(bool(answered(world, part)) for part in (side, other)) == [False, True]


def in_one_ring(world: World) -> bool:
    """Whether a director still takes all members for linked."""
    return any(node.core.barrier.ring == tuple(world.members) for node in world.nodes.values())


@pytest.mark.shows("rule 47")
@pytest.mark.parametrize("store", ["own", "shared"])
@pytest.mark.parametrize(("directors", "added"), [(4, "d1"), (4, "d3"), (5, "d2"), (7, "d4")])
def test_directors_without_a_link_to_an_added_director_open_one_for_a_moment(
    directors: int, added: str, store: str
) -> None:
    world = grown(directors, [added], store)
    world.run(0.5)
    member = world.node(added).member
    assert [node.core.ring.unmet for node in world.nodes.values()] == [set()] * directors
    assert [node.core.ring.counted for node in world.nodes.values()] == [world.members] * directors
    assert {len(node.core.ring.live_links()) for node in world.nodes.values()} == {2}
    assert [neighbours(node) for node in world.nodes.values()] == [
        (world.members[number - 1], world.members[(number + 1) % directors]) for number in range(directors)
    ]
    lines = len(world.lines)
    world.run(20)
    assert [line for line in world.lines[lines:] if "ring_link" in line or member in line] == []


def neighbours(node: Node) -> tuple[object, object]:
    left, right = node.core.ring.left, node.core.ring.right
    return left.peer if left else None, right.peer if right else None


def test_a_restarted_director_remembers_that_it_met_an_added_director() -> None:
    world = grown(4, ["d4"])
    world.run(1)
    world.node("d2").crash()
    world.node("d4").crash()
    world.run(2)
    world.node("d2").start()
    world.run(0.01)
    assert world.node("d4").member in world.node("d2").core.ring.counted


def test_a_store_unreachable_at_the_start_is_read_later_for_the_added_directors_that_were_met() -> None:
    world = grown(4, ["d4"])
    world.run(1)
    d2, d4 = world.node("d2"), world.node("d4")
    d2.crash()
    d4.crash()
    d2.store.up = False
    world.run(2)
    d2.start()
    world.run(3)
    assert d4.member in d2.core.ring.servers  # another director has passed the row on
    assert d4.member not in d2.core.ring.counted
    d2.store.up = True
    world.run(2)
    assert d4.member in d2.core.ring.counted


def test_an_added_director_counts_as_missing_only_after_it_was_met() -> None:
    world = World(3)
    for name in ("d1", "d2"):
        world.servers[world.node(name).member] = world.members[:2]
    world.start("d1", "d2").run(2)
    outcome = world.change_member("d1", "d3")
    world.run(1)
    assert outcome.done is not None
    assert world.node("d1").core.standing is Standing.COMPLETE
    assert answered(world, ["d1", "d2"]) == {"d1", "d2"}


def test_directors_run_by_a_liar_delay_new_users_for_isolation_wait_only_and_can_be_removed() -> None:
    """A member with several addresses can run directors that prove the secret, so these directors count."""
    run_by_a_liar = ["d4", "d5", "d6", "d7"]
    world = grown(7, run_by_a_liar)
    world.run(1)
    for name in run_by_a_liar:
        world.node(name).crash()
    world.run(1)
    reply = world.login("newcomer", "d1")
    world.run(10)
    assert reply.host is None
    world.run(11)  # isolation_wait
    assert reply.host is not None
    for name in run_by_a_liar:
        outcome = world.change_member("d1", name, remove=True)
        world.run(1)
        assert outcome.done is not None
    assert {world.node(name).core.standing for name in ("d1", "d2", "d3")} == {Standing.COMPLETE}
    assert answered(world, ["d1", "d2", "d3"]) == {"d1", "d2", "d3"}
