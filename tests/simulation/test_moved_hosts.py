"""Backend hosts that get other addresses, in whole rings: directors notice it at once, late or in a
partition, and users log in all the time."""

from __future__ import annotations

import pytest

from director.core.protocol.events import HostMove, HostsMoved
from director.core.tables.hosts import BackendSetting
from director.types import Address
from tests.simulation.world import World

A, B, NEW = (Address(f"127.0.1.{number}") for number in (1, 2, 9))
USERS = [f"user{number}" for number in range(60)]
SEEDS = range(1, 9)


def ring(seed: int, store: str = "shared") -> World:
    world = World(3, store=store, seed=seed)
    world.settings = [
        BackendSetting(setting.address, f"backend{number}", "", setting.weight)
        for number, setting in enumerate(world.settings, 1)
    ]
    world.start().run_until_in_sync(1.5).run(0.1)
    for user in USERS:
        world.login(user, "d1")
    world.run(0.5)
    world.move("d1", "pinned", A, pin=True)
    return world.run(4)


def moves(world: World, at: str, *wanted: tuple[str, Address, Address]) -> None:
    """Have a director notice the new addresses, as `core.backendnames` does."""
    hosts = world.node(at).core.hosts
    there = [move for move in wanted if [row.address for row in hosts.named(move[0])] == [move[1]]]
    if there:
        rows = [hosts.rows[before] for _, before, _ in there]
        world.operate(at, HostsMoved(0, [HostMove(*move) for move in there], rows))


def hosts_of(world: World) -> dict[str, str | None]:
    return {user: world.host_at(user, "d2") for user in [*USERS, "pinned"]}


@pytest.mark.parametrize("seed", SEEDS)
def test_directors_that_notice_a_moved_host_at_the_same_time_agree(seed: int) -> None:
    world = ring(seed)
    before = hosts_of(world)
    delays = [world.random.choice([0.0, 0.001, 0.02, 0.3]) for _ in range(3)]
    for number, delay in enumerate(delays, 1):
        world.after(delay, lambda at=f"d{number}": moves(world, at, ("backend1", A, NEW)))  # type: ignore[misc]
    for turn in range(40):
        world.login(USERS[turn], f"d{turn % 3 + 1}")
        world.run(0.01)
    world.run(70)
    assert world.differences() == []
    assert hosts_of(world) == {user: NEW if host == A else host for user, host in before.items()}
    assert [node.core.counters.conflicts for node in world.nodes.values()] == [0, 0, 0]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_director_that_was_down_agrees_after_two_backends_swapped_addresses(seed: int) -> None:
    world = ring(seed)
    before = hosts_of(world)
    world.node("d3").crash()
    world.run(4)
    for at in ("d1", "d2"):
        moves(world, at, ("backend1", A, B), ("backend2", B, A))
    for turn in range(20):
        world.login(USERS[turn], f"d{turn % 2 + 1}")
        world.run(0.01)
    world.run(5)
    world.node("d3").start()
    world.run_until_in_sync(5).run(70)
    places = {A: B, B: A}
    assert world.differences() == []
    assert hosts_of(world) == {user: places.get(Address(str(host)), host) for user, host in before.items()}


@pytest.mark.parametrize("store", ["own", "shared"])
def test_a_partitioned_off_director_agrees_on_a_moved_host_after_the_partition(store: str) -> None:
    world = ring(3, store)
    before = hosts_of(world)
    world.partition_off("d3")
    world.run(8)
    moves(world, "d1", ("backend1", A, NEW))
    moves(world, "d3", ("backend1", A, NEW))
    world.run(8).heal()
    world.run_until_in_sync(10).run(70)
    assert world.differences() == []
    assert hosts_of(world) == {user: NEW if host == A else host for user, host in before.items()}
