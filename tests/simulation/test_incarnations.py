"""The number of a director is not stored: it starts with a low one where its clock was set back, and every
higher one that some director remembers is told to it as soon as a chain of links leads there."""

from __future__ import annotations

import pytest

from tests.simulation.world import World

DAY = 86_400.0


def numbers_of(world: World, name: str) -> list[int]:
    """What the others remember of a director: the numbers of its last words."""
    member = world.node(name).member
    others = [node for node in world.ups() if node.member != member]
    words = [node.core.ring.presence._words.get(member) for node in others]
    return [word.number for word in words if word is not None]


@pytest.mark.shows("rule 44")
@pytest.mark.parametrize("partitioned", ["d1", "d2", "d3"])
@pytest.mark.parametrize("store", ["own", "shared"])
def test_a_number_that_only_a_partitioned_neighbour_remembers_is_exceeded_when_the_ring_is_whole_again(
    partitioned: str, store: str
) -> None:
    """All clocks were a day ahead when the director stopped. They are set right, all others but one are
    started anew, and that one is partitioned off."""
    world = World(4, store=store)
    for node in world.nodes.values():
        node.stepped = DAY
    world.start().run_until_in_sync(10)
    world.node("d4").stop()
    world.run(3)
    assert not world.node("d4").up
    world.cut(partitioned)
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
    assert set(stopped.core.barrier.ring) == together  # nobody there misses a higher number
    world.heal().run(15)
    assert {node.core.barrier.ring for node in world.nodes.values()} == {tuple(world.members)}
    assert stopped.core.ring.presence.number > remembered.number
    assert set(numbers_of(world, "d4")) <= {stopped.core.ring.presence.number}
    assert all(not node.core.ring.departed for node in world.nodes.values())


@pytest.mark.shows("rule 44")
def test_a_director_that_started_alone_with_a_low_number_is_in_the_ring_again_once_it_is_reached() -> None:
    """All others are unreachable when it starts, and all remember its departure with a higher number."""
    world = World(3)
    for node in world.nodes.values():
        node.stepped = DAY
    world.start().run_until_in_sync(10)
    world.node("d2").stop()
    world.run(3)
    for node in world.nodes.values():
        node.stepped = 0.0
    world.cut("d2")
    world.node("d2").start()
    world.run(10)
    alone = world.node("d2")
    highest = max(numbers_of(world, "d2"))
    assert alone.core.ring.presence.number < highest
    world.heal().run(15)
    assert {node.core.barrier.ring for node in world.nodes.values()} == {tuple(world.members)}
    assert alone.core.ring.presence.number > highest
