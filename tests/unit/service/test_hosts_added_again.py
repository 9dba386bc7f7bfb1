"""A host that was removed and is added again has none of its former users."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from director.errors import UnknownName
from tests.unit.service.parts import HOSTS, Node
from tests.waiting import until

pytestmark = pytest.mark.anyio

GOLD = "127.0.3.9"


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """The only host of the pool gold had a user and a pinned one, was removed and is there again."""
    node = Node()
    await node.persistence.open()
    node.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.persistence.run)
        await tasks.start(node.operations.run)
        await until(lambda: not node.director.loading)
        operations = node.operations
        await operations.set_host(GOLD, "gold", 100, reason="")
        await operations.move_user("gina", GOLD, "gold", reason="")
        await operations.move_user("pia", GOLD, "gold", pin=True, reason="")
        await until(lambda: not len(node.director.moves))
        await operations.remove_host(GOLD, reason="", force=True)
        await operations.set_host(GOLD, "gold", 100, reason="")
        yield node
        tasks.cancel_scope.cancel()
    node.driver.stop()
    await node.persistence.stop()


async def users_of(node: Node, address: str) -> int:
    (host,) = [one for one in await node.operations.hosts() if one.address == address]
    return host.users


async def test_a_host_added_again_counts_no_users_from_before(node: Node) -> None:
    assert node.operations.user_status("gina", "gold", numeric_is_hash=False).current is None
    assert await users_of(node, GOLD) == 0
    await node.operations.move_user("gina", GOLD, "gold", reason="")
    assert await users_of(node, GOLD) == 1
    node.put("alice", HOSTS[0])
    assert await users_of(node, HOSTS[0]) == 1


async def test_a_listed_user_that_is_pinned_is_named_so(node: Node) -> None:
    await node.operations.move_user("pia", GOLD, "gold", pin=True, reason="")
    await node.operations.move_user("gina", GOLD, "gold", reason="")
    listed = [user async for page in node.operations.users() for user in page]
    assert {user.name: user.pinned for user in listed} == {"pia": True, "gina": False}


async def test_a_host_added_again_can_be_removed_because_no_user_needs_it(node: Node) -> None:
    await node.operations.remove_host(GOLD, reason="")


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_user_is_not_said_to_stay_on_a_host_that_was_removed_since(node: Node, dry_run: bool) -> None:
    assert not node.operations.user_status("pia", "gold", numeric_is_hash=False).pinned
    with pytest.raises(UnknownName, match="pia: not pinned"):
        await node.operations.unpin_user("pia", "gold", reason="", dry_run=dry_run)
