"""Clocks that step, in rings of real cores: incarnations and stamps decide, not the time of day."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.simulation.world import UNIX, World

HOUR = 3600.0
WEIGHT = {"weight": 5}


def set_clocks(world: World, skew: float) -> None:
    """Step the clocks of all directors at once, as one NTP correction does."""
    for node in world.nodes.values():
        node.skew = skew


def check_serves(world: World) -> None:
    """Check that all directors answer new users and make host changes."""
    world.run_until_in_sync(10)
    assert [node.core.ring.departed for node in world.nodes.values()] == [set()] * len(world.nodes)
    changed = world.change("d1", "127.0.1.1", **WEIGHT)
    world.run(2)
    replies = [world.login("newcomer", f"d{number + 1}") for number in range(len(world.members))]
    world.run(2)
    assert changed.done is not None
    assert len({reply.host for reply in replies}) == 1
    assert replies[0].host is not None


@pytest.mark.shows("rule 44")
@pytest.mark.parametrize("directors", [2, 3, 5])
@pytest.mark.parametrize("store", ["own", "shared"])
@pytest.mark.parametrize("name", ["d1", "d2"])
def test_a_director_restarted_after_all_clocks_were_set_back_joins_the_ring_again(
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


@pytest.mark.parametrize("store", ["own", "shared"])
@pytest.mark.parametrize(
    "end", [datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC), datetime(2106, 2, 7, 6, 28, 15, tzinfo=UTC)]
)
def test_a_ring_runs_through_2038_and_2106_and_answers(end: datetime, store: str) -> None:
    """The last seconds of 31-bit and 32-bit times."""
    world = World(3, store=store)
    set_clocks(world, end.timestamp() - UNIX - 110)
    world.start().run_until_in_sync(5)
    before = [world.login(f"user{number}", "d1") for number in range(20)]
    world.run(30)
    again = [world.login(f"user{number}", "d2") for number in range(20)]
    assert [reply.host for reply in before] == [reply.host for reply in again]
    assert None not in [reply.host for reply in before]
    moved = world.move("d3", "user1", "127.0.1.2")
    world.run(5)
    assert moved.users is not None
    world.node("d1").stop()
    world.run(3)
    world.node("d1").start()
    check_serves(world)
