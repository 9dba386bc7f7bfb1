"""A host that was removed and is added again has none of its former users."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from director.errors import UnknownName
from tests.unit.service.parts import HOSTS, Node, running
from tests.waiting import until

pytestmark = pytest.mark.anyio

GOLD = "127.0.3.9"


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """The only host of the pool gold had a user and a pinned one, was removed and is there again."""
    async with running(Node()) as node:
        operations = node.operations
        await operations.hosts.set(GOLD, "gold", 100, reason="")
        await operations.users.move("gina", GOLD, "gold", reason="")
        await operations.users.move("pia", GOLD, "gold", pin=True, reason="")
        await until(lambda: not len(node.director.moves))
        await operations.hosts.remove(GOLD, reason="", force=True)
        await operations.hosts.set(GOLD, "gold", 100, reason="")
        yield node


async def users_of(node: Node, address: str) -> int:
    (host,) = [one for one in await node.operations.queries.hosts() if one.address == address]
    return host.users


async def test_a_host_added_again_counts_no_users_from_before(node: Node) -> None:
    assert node.operations.queries.user_status("gina", "gold", numeric_is_hash=False).current is None
    assert await users_of(node, GOLD) == 0
    await node.operations.users.move("gina", GOLD, "gold", reason="")
    assert await users_of(node, GOLD) == 1
    node.put("alice", HOSTS[0])
    assert await users_of(node, HOSTS[0]) == 1


async def test_a_listed_user_that_is_pinned_is_named_so(node: Node) -> None:
    await node.operations.users.move("pia", GOLD, "gold", pin=True, reason="")
    await node.operations.users.move("gina", GOLD, "gold", reason="")
    listed = [user async for page in node.operations.queries.users() for user in page]
    assert {user.name: user.pinned for user in listed} == {"pia": True, "gina": False}


async def test_a_host_added_again_can_be_removed_because_no_user_needs_it(node: Node) -> None:
    await node.operations.hosts.remove(GOLD, reason="")


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_user_is_not_said_to_stay_on_a_host_that_was_removed_since(node: Node, dry_run: bool) -> None:
    assert not node.operations.queries.user_status("pia", "gold", numeric_is_hash=False).pinned
    with pytest.raises(UnknownName, match="pia: not pinned"):
        await node.operations.users.unpin("pia", "gold", reason="", dry_run=dry_run)
