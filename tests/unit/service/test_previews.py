"""The users that a flush would move, counted while logins are answered."""

from __future__ import annotations

import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from director.core.placement.addresses import host_id
from director.core.placement.users import User
from director.types import Address, Stamp, UserKey
from tests.unit.service.parts import HOSTS, Node, running
from tests.waiting import until

pytestmark = pytest.mark.anyio
USERS = 5000


class Counting:
    """An assigner that counts the users it is asked about."""

    def __init__(self, assigner: Any) -> None:
        self._assigner = assigner
        self.asked = 0

    def place(self, hash32: int, tag: bytes) -> Any:
        self.asked += 1
        return self._assigner.place(hash32, tag)


async def test_a_dry_run_of_a_flush_looks_at_some_users_of_a_full_bucket_at_a_time(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = int(time.time())
    for number in range(USERS):
        node.director.users.put(User(UserKey(number), host_id(Address(HOSTS[0])), Stamp(now), now, 0))
    counting = Counting(node.director.assigner)
    monkeypatch.setattr(node.director, "assigner", counting)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, counting.asked)
            counting.asked = 0
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        preview = await node.operations.users.flush(None, reason="", dry_run=True)
        tasks.cancel_scope.cancel()
    assert preview.moved + preview.unchanged == USERS
    assert 0 < most <= 500


async def pinned(node: Node, *names: str) -> None:
    for name in names:
        await node.operations.users.move(name, HOSTS[0], pin=True, reason="")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_removal_says_how_many_users_lose_their_pin(node: Node, dry_run: bool, force: bool) -> None:
    node.put("alice", HOSTS[0])
    await pinned(node, "bob", "carl")
    await node.operations.users.move("dora", HOSTS[1], pin=True, reason="")
    if force:
        for host in HOSTS[1:]:
            await node.operations.hosts.set_up(host, up=False, reason="")
    removed = await node.operations.hosts.remove(HOSTS[0], reason="", force=force, dry_run=dry_run)
    assert removed.unpinned == 2
    if not dry_run:
        assert (await node.operations.queries.dump()).commands[-1] == f"director pin --new dora {HOSTS[1]}"


async def test_pins_of_a_host_that_was_removed_and_added_again_are_not_counted_twice(node: Node) -> None:
    await pinned(node, "bob")
    assert (await node.operations.hosts.remove(HOSTS[0], reason="")).unpinned == 1
    await node.operations.hosts.set(HOSTS[0], None, 100, reason="")
    assert (await node.operations.hosts.remove(HOSTS[0], reason="")).unpinned == 0


async def test_a_forgetting_and_another_tag_say_how_many_users_lose_their_pin() -> None:
    async with running(Node()) as node:
        node.put("alice", HOSTS[0])
        await pinned(node, "bob", "carl")
        for dry_run in (True, False):
            tagged = await node.operations.hosts.set_tag(HOSTS[0], "gold", reason="", dry_run=dry_run)
            assert tagged.users is not None
            assert (tagged.users.moved, tagged.users.unpinned) == (3, 2)
        await node.operations.hosts.set_tag(HOSTS[0], "", reason="")
        await until(lambda: not len(node.director.moves))
        await pinned(node, "bob")
        for dry_run in (True, False):
            forgotten = await node.operations.users.forget(HOSTS[0], reason="", dry_run=dry_run)
            assert forgotten.unpinned == 1
