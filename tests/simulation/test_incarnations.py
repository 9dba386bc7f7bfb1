"""Incarnations are not stored: a director whose clock was set back starts with a low one, and hears of every
higher one that a director remembers as soon as a chain of links leads there."""

from __future__ import annotations

import pytest

from tests.simulation.world import World

DAY = 86_400.0


def numbers_of(world: World, name: str) -> list[int]:
    """Return the incarnations of a director that the others remember."""
    member = world.node(name).member
    others = [node for node in world.ups() if node.member != member]
    words = [node.core.ring.presence._words.get(member) for node in others]
    return [word.number for word in words if word is not None]


@pytest.mark.shows("rule 44")
@pytest.mark.parametrize("partitioned", ["d1", "d2", "d3"])
@pytest.mark.parametrize("store", ["own", "shared"])
def test_an_incarnation_remembered_only_beyond_a_partition_is_exceeded_when_the_ring_is_complete(
    partitioned: str, store: str
) -> None:
    """All clocks are a day ahead when the director stops. Then the clocks are corrected, another director is
    partitioned off, and the rest restart."""
    world = World(4, store=store)
    for node in world.nodes.values():
        node.stepped = DAY
    world.start().run_until_in_sync(10)
    world.node("d4").stop()
    world.run(3)
    assert not world.node("d4").up
    world.partition_off(partitioned)
    for node in world.nodes.values():
        node.stepped = 0.0
    restarted = [name for name in ("d1", "d2", "d3") if name != partitioned]
    for name in restarted:
        world.node(name).crash()
    for name in (*restarted, "d4"):
        world.node(name).start()
    world.run(20)
    stopped, remembers = world.node("d4"), world.node(partitioned)
    remembered = remembers.core.ring.presence._words[stopped.member]
    assert remembered.leaves
    assert stopped.core.ring.presence.number < remembered.number
    together = {world.node(name).member for name in (*restarted, "d4")}
    assert set(stopped.core.barrier.ring) == together  # no director there remembers a higher number
    world.heal().run(15)
    assert {node.core.barrier.ring for node in world.nodes.values()} == {tuple(world.members)}
    assert stopped.core.ring.presence.number > remembered.number
    assert set(numbers_of(world, "d4")) <= {stopped.core.ring.presence.number}
    assert all(not node.core.ring.departed for node in world.nodes.values())


@pytest.mark.shows("rule 44")
def test_a_director_that_started_alone_with_a_low_incarnation_joins_once_it_is_reachable() -> None:
    """All others are unreachable when it starts, and all remember its departure with a higher number."""
    world = World(3)
    for node in world.nodes.values():
        node.stepped = DAY
    world.start().run_until_in_sync(10)
    world.node("d2").stop()
    world.run(3)
    for node in world.nodes.values():
        node.stepped = 0.0
    world.partition_off("d2")
    world.node("d2").start()
    world.run(10)
    alone = world.node("d2")
    highest = max(numbers_of(world, "d2"))
    assert alone.core.ring.presence.number < highest
    world.heal().run(15)
    assert {node.core.barrier.ring for node in world.nodes.values()} == {tuple(world.members)}
    assert alone.core.ring.presence.number > highest
