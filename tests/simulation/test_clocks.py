"""Clocks that step, in rings of real cores: what is compared over time are numbers, not the time of day."""

from __future__ import annotations

import pytest

from tests.simulation.world import World

HOUR = 3600.0
WEIGHT = {"weight": 5}


def set_clocks(world: World, skew: float) -> None:
    """Step the clocks of all directors at once, as one NTP correction does."""
    for node in world.nodes.values():
        node.skew = skew


def check_serves(world: World) -> None:
    """New users and host changes are served everywhere."""
    world.run_until_in_sync(10)
    assert [node.core.ring.departed for node in world.nodes.values()] == [set()] * len(world.nodes)
    changed = world.change("d1", "127.0.1.1", **WEIGHT)
    world.run(2)
    replies = [world.login("newcomer", f"d{number + 1}") for number in range(len(world.members))]
    world.run(2)
    assert changed.done is not None
    assert len({reply.host for reply in replies}) == 1
    assert replies[0].host is not None


@pytest.mark.parametrize("directors", [2, 3, 5])
@pytest.mark.parametrize("store", ["own", "shared"])
@pytest.mark.parametrize("name", ["d1", "d2"])
def test_a_director_that_restarts_after_all_clocks_were_set_back_is_in_the_ring_again(
    name: str, store: str, directors: int
) -> None:
    world = World(directors, store=store)
    set_clocks(world, HOUR)
    world.start().run_until_in_sync(10)
    set_clocks(world, 0.0)
    world.run(5)
    assert world.in_sync()
    world.node(name).stop()
    world.run(3)
    world.node(name).start()
    check_serves(world)
