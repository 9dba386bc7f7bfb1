"""A second flush, drain or tag of a host joins the first: alone it would find no user to move."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from director.core.settings import Settings
from director.records import MoveInfo, UsersChange
from tests.unit.service.parts import HOSTS, Node, running
from tests.waiting import until

pytestmark = pytest.mark.anyio

USERS = [f"user{number}" for number in range(5)]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """Its first host has users and no weight: all of them are to go."""
    async with running(Node(settings=Settings(kick_delay=0.05, remember_names=True))) as node:
        for user in USERS:
            node.put(user, HOSTS[0])
        await node.operations.hosts.update(HOSTS[0], 0, reason="")
        yield node


async def ended(node: Node, move: MoveInfo) -> UsersChange:
    await until(lambda: node.operations.jobs.info(move.id).ended is not None)
    result = node.operations.jobs.info(move.id).result
    assert result is not None
    return result


async def test_a_second_flush_of_a_host_is_the_first_one(node: Node) -> None:
    first = await node.operations.users.flush(HOSTS[0], reason="one", follow=True)
    second = await node.operations.users.flush(HOSTS[0], reason="two", follow=True)
    assert (second.id, first.joined, second.joined) == (first.id, False, True)
    assert (await ended(node, second)).moved == len(USERS)
    assert [move.id for move in node.operations.jobs.all()] == [first.id]


async def test_a_second_flush_that_waits_is_told_the_counts_of_the_first(node: Node) -> None:
    found: list[UsersChange] = []

    async def flush() -> None:
        found.append(await node.operations.users.flush(HOSTS[0], reason=""))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flush)
            tasks.start_soon(flush)
    assert [one.moved for one in found] == [len(USERS)] * 2


async def test_a_second_flush_while_users_of_the_first_are_on_the_move_joins_it(node: Node) -> None:
    """No user is assigned to the host any more, so a flush of its own would end at once."""
    first = await node.operations.users.flush(HOSTS[0], reason="", follow=True)
    await until(lambda: node.director.moves.moving.by_key)
    assert (await node.operations.users.flush(HOSTS[0], reason="", follow=True)).id == first.id


async def test_a_flush_with_another_pace_or_of_another_host_is_one_of_its_own(node: Node) -> None:
    first = await node.operations.users.flush(HOSTS[0], max_parallel=1, reason="", follow=True)
    others = [
        await node.operations.users.flush(HOSTS[0], max_parallel=2, reason="", follow=True),
        await node.operations.users.flush(HOSTS[1], reason="", follow=True),
        await node.operations.users.forget(HOSTS[0], reason="", follow=True),
        await node.operations.users.rebalance(None, 1, reason="", follow=True),
    ]
    assert [one.joined for one in others] == [False] * 4
    assert (
        await node.operations.users.flush(HOSTS[0], max_parallel=1, reason="", follow=True)
    ).id == first.id
    assert (await node.operations.users.flush(HOSTS[0], reason="", follow=True)).id == first.id


async def test_a_flush_that_has_ended_is_not_joined(node: Node) -> None:
    first = await node.operations.users.flush(HOSTS[0], reason="", follow=True)
    await ended(node, first)
    second = await node.operations.users.flush(HOSTS[0], reason="", follow=True)
    assert (second.joined, second.id != first.id) == (False, True)
    assert (await ended(node, second)).moved == 0


async def test_a_second_change_to_the_same_tag_joins_the_first(node: Node) -> None:
    first = await node.operations.hosts.set_tag(HOSTS[0], "gold", reason="", follow=True)
    second = await node.operations.hosts.set_tag(HOSTS[0], "gold", reason="", follow=True)
    waited = await node.operations.hosts.set_tag(HOSTS[0], "gold", reason="")
    assert (second.id, second.joined) == (first.id, True)
    assert waited.users is not None
    assert waited.users.moved == (await ended(node, first)).moved == len(USERS)
    assert (await node.operations.hosts.set_tag(HOSTS[0], "gold", reason="")).users is None


async def test_users_who_are_moved_away_from_a_host_are_shown_there_until_they_have_gone(node: Node) -> None:
    first = await node.operations.users.flush(HOSTS[0], reason="", follow=True)
    await until(lambda: len(node.director.moves.moving.by_key) == len(USERS))
    host = (await node.operations.queries.hosts())[0]
    assert (host.address, host.users, host.leaving) == (HOSTS[0], 0, len(USERS))
    await ended(node, first)
    assert [host.leaving for host in await node.operations.queries.hosts()] == [0, 0, 0]
