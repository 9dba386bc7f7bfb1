"""Assignments near expiry, when the hash would select another host: all directors give one answer
(docs/ring.md, rules 21-23)."""

from __future__ import annotations

import pytest

from director.core.placement.users import margin, rounded
from tests.simulation.parts import EXPIRE
from tests.simulation.world import HASH, UNIX, World

HOSTS = [f"127.0.1.{number}" for number in (1, 2, 3, 4)]
MARGIN = margin(EXPIRE)


def near_expiry(directors: int, store: str = "own", before: float = 1.0) -> tuple[World, str]:
    """A ring in which alice's assignment expires in `before` seconds; the hash selects another host."""
    world = World(directors, store=store).start().run_until_in_sync(1.5).run(0.1)
    host = world.login("alice", "d1").host
    assert host is not None
    at = world.now
    world.run(5)
    world.change("d1", host, weight=0)
    world.run(1)
    world.run(at + EXPIRE - before - world.now)
    return world, host


def seen_of_alice(world: World, name: str) -> int:
    user = world.node(name).users.get(HASH.key(b"alice", b""))
    assert user is not None
    return user.seen


def at_rest(world: World) -> None:
    world.run(3)
    for node in world.ups():
        assert (len(node.core.near), node.core.assigner.users_held, len(node.core.pending)) == (0, 0, 0)
    assert world.differences() == []


@pytest.mark.parametrize("directors", [1, 2, 3, 5])
@pytest.mark.parametrize("before", [MARGIN - 0.1, 1.0, 0.5, 0.0, -0.5, -1.0, 0.1 - MARGIN])
def test_all_directors_give_one_answer_before_and_after_the_expiry(directors: int, before: float) -> None:
    world, _ = near_expiry(directors, before=before)
    replies = [world.login("alice", f"d{i + 1}") for i in range(directors)]
    world.run(0.1)
    assert len({reply.host for reply in replies}) == 1
    assert replies[0].host is not None
    assert {host for host in world.where("alice")} == {replies[0].host}
    at_rest(world)


@pytest.mark.parametrize("skews", [(0.9, -0.9, 0.0), (-0.9, 0.9, 0.5)])
@pytest.mark.parametrize("delay", [0.0, 0.0003, 0.001, 0.003, 0.01])
def test_directors_with_different_clocks_give_one_answer_near_the_expiry(
    skews: tuple[float, ...], delay: float
) -> None:
    world = World(3)
    for node, skew in zip(world.nodes.values(), skews, strict=True):
        node.skew = skew
    world.start().run_until_in_sync(1.5).run(0.1)
    host = world.login("alice", "d1").host
    at = world.now
    world.run(5)
    assert host is not None
    world.change("d1", host, weight=0)
    world.run(at + EXPIRE - world.now)
    replies = []
    for name in ("d1", "d2", "d3"):
        replies.append(world.login("alice", name))
        world.run(delay)
    world.run(0.2)
    assert len({reply.host for reply in replies}) == 1
    at_rest(world)


@pytest.mark.shows("I-27")
def test_a_later_refresh_on_another_director_keeps_the_user_on_the_host() -> None:
    world, host = near_expiry(3, before=14.0)
    world.seen("alice", "d3")
    world.run(13.5)
    reply = world.login("alice", "d1")
    world.run(0.1)
    assert reply.host == host
    at_rest(world)


@pytest.mark.parametrize("first", ["d1", "d3"])
def test_a_refresh_too_early_to_be_passed_on_keeps_the_user_on_the_host(
    first: str,
) -> None:
    world, host = near_expiry(3, before=EXPIRE - 7)
    world.seen("alice", "d1")
    world.run(1)
    seen = seen_of_alice(world, "d1")
    assert seen_of_alice(world, "d3") == seen
    world.run(rounded(seen, EXPIRE) - 0.5 - UNIX - world.now)
    world.seen("alice", "d3")
    world.run(seen + EXPIRE + MARGIN + 1 - UNIX - world.now)
    assert seen_of_alice(world, "d1") == seen < seen_of_alice(world, "d3") - MARGIN
    replies = [world.login("alice", first)]
    world.run(0.02)
    replies += [world.login("alice", name) for name in ("d1", "d2", "d3")]
    world.run(0.1)
    assert {reply.host for reply in replies} == {host}
    at_rest(world)


@pytest.mark.shows("rule 21")
def test_the_ring_is_not_asked_far_from_expiry() -> None:
    world, host = near_expiry(3, before=MARGIN + 2)
    reply = world.login("alice", "d2")
    assert reply.host == host


def test_logins_held_by_a_round_continue_after_its_origin_crashed() -> None:
    world, _ = near_expiry(3, before=0.5)
    world.login("alice", "d1")
    world.run(0.001)
    world.node("d1").crash()
    world.run(0.01)
    replies = [world.login("alice", name) for name in ("d2", "d3")]
    world.run(3)
    assert len({reply.host for reply in replies}) == 1
    assert not any(reply.pending for reply in replies)
    at_rest(world)


def test_a_lost_round_is_repeated() -> None:
    world, _ = near_expiry(3, before=0.5)
    world.lose_rounds(for_seconds=0.25)
    reply = world.login("alice", "d2")
    world.run(0.2)
    assert reply.pending
    world.run(0.5)
    assert reply.host is not None
    at_rest(world)


@pytest.mark.shows("rule 10")
def test_a_user_near_expiry_waits_while_a_host_change_is_in_progress() -> None:
    world, _ = near_expiry(3, before=2.0)
    world.node("d3").suspend()
    world.change("d1", HOSTS[3], weight=7)
    world.run(0.2)
    reply = world.login("alice", "d2")
    world.run(0.3)
    assert reply.pending
    world.node("d3").resume()
    world.run(1)
    assert reply.host is not None


def test_a_user_near_expiry_is_claimed_through_the_store_in_a_partition() -> None:
    world, _ = near_expiry(3, "shared", before=9.0)
    world.partition_off("d3")
    world.run(8.5)
    replies = [world.login("alice", name) for name in ("d1", "d2", "d3")]
    world.run(1)
    assert len({reply.host for reply in replies}) == 1
    assert replies[0].host is not None
