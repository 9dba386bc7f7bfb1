"""Rings as large as nobody has them."""

from __future__ import annotations

import pytest

from tests.simulation.test_moves import at_rest, other_than
from tests.simulation.world import World

RINGS = [50, 200]


def ring_of(directors: int) -> World:
    """All start in one moment."""
    world = World(directors, store="shared")
    world.proxying = True
    return world.start().run_until_in_sync(30.0)


@pytest.mark.parametrize("directors", RINGS)
def test_a_large_ring_forms_and_what_one_does_all_know(directors: int) -> None:
    world = ring_of(directors)
    middle, last = f"d{directors // 2}", f"d{directors}"

    old = world.login("alice", "d1").host
    assert old is not None
    world.run_until(lambda: world.where("alice") == {old}, 2.0)

    change = world.change(middle, "127.0.1.2", weight=7)
    world.run_until(lambda: change.done is not None and world.in_sync(), 5.0)

    moved = world.move(last, "alice", other_than(old))
    world.run_until(lambda: moved.users is not None, 5.0)
    assert moved.users is not None
    assert (moved.users.moved, moved.users.kicked, moved.users.not_reached) == (1, 1, ())

    world.node(middle).crash()
    world.run_until(world.in_sync, 5.0)
    world.run(1.5)
    at_rest(world)
