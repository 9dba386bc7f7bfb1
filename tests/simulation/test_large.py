"""Rings far larger than any in use."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.test_moves import at_rest, other_than
from tests.simulation.world import World

RINGS = [50, 200]
STEP = 0.05
"""Seconds between two checks of a condition, which take long in a ring of 200."""


def ring_of(directors: int) -> World:
    """Return a ring in sync whose directors started at the same time."""
    world = World(directors, store="shared")
    world.proxying = True
    return until(world.start(), world.in_sync, 5.0)


def until(world: World, true: Callable[[], bool], within: float) -> World:
    """Run until a condition holds. Fails if it does not hold in time."""
    end = world.now + within
    while not true():
        assert world.now < end, f"not within {within} s"
        world.run(STEP)
    return world


@pytest.mark.timeout(120)  # for slow machines; the test measures virtual time
@pytest.mark.parametrize("directors", RINGS)
def test_a_large_ring_forms_and_passes_every_change_to_all_directors(directors: int) -> None:
    world = ring_of(directors)
    middle, last = f"d{directors // 2}", f"d{directors}"

    old = world.login("alice", "d1").host
    assert old is not None
    until(world, lambda: world.where("alice") == {old}, 2.0)

    change = world.change(middle, "127.0.1.2", weight=7)
    until(world, lambda: change.done is not None and world.in_sync(), 5.0)

    moved = world.move(last, "alice", other_than(old))
    until(world, lambda: moved.users is not None, 5.0)
    assert moved.users is not None
    assert (moved.users.moved, moved.users.kicked, moved.users.not_reached) == (1, 1, [])

    world.node(middle).crash()
    until(world, world.in_sync, 5.0)
    world.run(1.5)
    at_rest(world)
