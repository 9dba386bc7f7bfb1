"""Directors and a shared store that is slow, unreachable, lapsed or restored."""

from __future__ import annotations

import pytest

from director.core.placement.assign import Gate
from director.core.ring.trust import LAPSED_WAIT
from tests.simulation.world import LEASE_TTL, World


def suspended(seed: int = 1) -> tuple[World, str]:
    """Suspend a director beyond its lease. The other director moves a user meanwhile, and stops. Returns the
    world and the present host of the user."""
    world = World(2, store="shared", seed=seed).start().run_until_in_sync(2).run(1)
    host = world.login("alice", "d1").host
    assert host is not None
    world.run(2)
    target = next(f"127.0.1.{number}" for number in (1, 2) if f"127.0.1.{number}" != host)
    world.node("d1").suspend()
    world.run(2 * LEASE_TTL + 4)
    moved = world.move("d2", "alice", target)
    world.run(6)
    assert moved.users is not None
    world.node("d2").stop()
    world.run(3)
    assert not world.node("d2").up
    return world, target


@pytest.mark.shows("rule 28")
@pytest.mark.parametrize("seed", range(8))
def test_a_director_suspended_beyond_its_lease_does_not_answer_from_old_memory(seed: int) -> None:
    """Symptom: the first login after the suspension went to the host from which the user had been moved."""
    world, target = suspended(seed)
    early = world.login("alice", "d1")
    world.node("d1").resume()
    late = world.login("alice", "d1")
    world.run(1)
    assert (early.host, late.host) == (target, target)


def test_a_resumed_director_answers_at_once_if_its_store_is_unreachable() -> None:
    world, _ = suspended()
    world.node("d1").store.up = False
    world.node("d1").resume()
    reply = world.login("alice", "d1")
    world.run(0.5)
    assert reply.host is not None


@pytest.mark.shows("rule 28")
def test_logins_of_a_resumed_director_wait_two_seconds_for_a_silent_store() -> None:
    world, _ = suspended()
    world.store_takes = 1e6
    world.node("d1").resume()
    reply = world.login("alice", "d1")
    world.run(LAPSED_WAIT - 0.1)
    assert reply.pending
    world.run(0.2)
    assert reply.host is not None


def test_a_director_suspended_for_less_than_its_lease_answers_assigned_users_at_once() -> None:
    world = World(1, store="shared").start().run_until_in_sync(2).run(1)
    host = world.login("alice", "d1").host
    world.run(1)
    world.node("d1").suspend()
    world.run(1.5).node("d1").resume()
    assert world.node("d1").core.assigner.gate is Gate.OPEN
    assert world.login("alice", "d1").host == host
