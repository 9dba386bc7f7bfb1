"""Rings whose directors remember fewer users than there are."""

from __future__ import annotations

import pytest

from director.core.placement.users import BUCKETS, BY_HAND, ONE_LOGIN
from director.core.settings import Settings
from tests.simulation.parts import EARLIEST_DROP
from tests.simulation.world import HASH, Node, World

LIMIT = 10


def ring(directors: int = 3, limit: int = LIMIT, hosts: int = 2) -> World:
    world = World(directors, hosts=hosts)
    world.settings_of_core = Settings(max_users=limit)
    return world.start().run_until_in_sync(5)


def names(count: int, first: int = 0) -> list[str]:
    return [f"user{number}" for number in range(first, first + count)]


def known(node: Node, users: list[str]) -> set[str]:
    return {user for user in users if node.users.get(HASH.key(user.encode())) is not None}


def shed(node: Node) -> int:
    return sum(node.users.shed(number, int(node.unix)) for number in range(BUCKETS))


@pytest.mark.shows("rule 48")
def test_a_ring_remembers_users_up_to_its_limit_and_answers_each_user_with_one_host() -> None:
    world = ring()
    users = names(30)
    hosts: dict[str, set[str | None]] = {}
    for turn in range(4):
        for number, user in enumerate(users):
            hosts.setdefault(user, set()).add(world.login(user, f"d{(number + turn) % 3 + 1}").host)
            world.run(0.02)
    assert {len(found) for found in hosts.values()} == {1}
    for node in world.ups():
        assert len(node.users) == LIMIT
        assert known(node, users) == set(users[:LIMIT])


@pytest.mark.shows("rule 48")
def test_users_admitted_by_all_directors_at_the_same_moment_are_kept_by_all() -> None:
    world = ring()
    for number in (1, 2, 3):
        world.logins(names(20, first=100 * number), f"d{number}")
    world.run(1)
    assert [len(node.users) for node in world.ups()] == [3 * LIMIT] * 3
    assert world.differences() == []


def test_all_directors_use_the_lowest_limit_of_the_ring_members() -> None:
    world = ring(limit=100)
    world.node("d2").core.set_limits(Settings(max_users=LIMIT))
    world.run(3)
    assert [node.core.assigner.limit for node in world.ups()] == [LIMIT] * 3
    world.node("d2").core.set_limits(Settings(max_users=50))
    world.run(3)
    assert [node.core.assigner.limit for node in world.ups()] == [50] * 3
    world.node("d2").stop()
    world.run(5)
    assert [node.core.assigner.limit for node in world.ups()] == [100] * 2


def test_users_with_one_login_are_dropped_everywhere_for_new_users() -> None:
    world = ring()
    world.logins(names(LIMIT), "d1")
    world.run(1)
    world.login("user9", "d2")
    world.run(EARLIEST_DROP + 12)
    first = known(world.node("d1"), names(LIMIT))
    assert len(first) < LIMIT
    assert "user9" in first, "two logins, on two directors"
    world.login("newcomer", "d3")
    world.run(1)
    for node in world.ups():
        assert known(node, ["newcomer"]) == {"newcomer"}
    assert world.differences() == []


@pytest.mark.shows("rule 49")
def test_a_host_change_restores_a_user_on_the_director_that_dropped_the_user() -> None:
    world = ring()
    users = names(LIMIT)
    world.logins(users, "d1")
    world.run(EARLIEST_DROP + 1)
    # in the middle between two walks: d2 drops all users it may drop, the others drop none
    dropped = users_of_one_login(world.node("d2"), users)
    assert shed(world.node("d2")) == len(dropped) > 0
    before = {user: world.host_at(user, "d1") for user in users}
    world.change("d1", "127.0.1.9", add=True, weight=300)
    world.run(1)
    new_home = {user for user in dropped if home(world.node("d1"), user) == "127.0.1.9"}
    assert new_home
    for user in new_home:
        assert world.where(user) == {before[user]}
        assert world.login(user, "d2").host == before[user]


@pytest.mark.shows("rule 49")
def test_a_joining_director_gets_all_users_but_those_that_may_be_dropped() -> None:
    world = ring()
    world.logins(names(LIMIT), "d1")
    world.move("d1", "user9", "127.0.1.1")
    world.run(EARLIEST_DROP + 1)
    late = users_of_one_login(world.node("d1"), names(LIMIT))
    assert "user9" not in late
    world.node("d3").crash()
    world.node("d3").store.clear()
    world.run(1)
    world.node("d3").start()
    world.run_until_in_sync(8)
    world.run(1)
    joined = known(world.node("d3"), names(LIMIT))
    assert joined == set(names(LIMIT)) - late
    record = world.node("d3").users.get(HASH.key(b"user9"))
    assert record is not None
    assert record.flags & BY_HAND
    assert world.differences() == []


def users_of_one_login(node: Node, users: list[str]) -> set[str]:
    records = {user: node.users.get(HASH.key(user.encode())) for user in users}
    return {user for user, record in records.items() if record is not None and record.flags == ONE_LOGIN}


def home(node: Node, user: str) -> str:
    backend = node.core.assigner.place(HASH.key(user.encode()) >> 32, b"")
    assert backend is not None
    return backend.address
