"""Operators' changes while the store takes nothing: answer, log and status say so until they are stored."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio.to_thread
import pytest

from director.core.placement.users import PINNED
from director.records import UnstoredChange
from director.service.endpoints.admin import AdminHandler
from director.wire.admin import parse
from state.urls import open_store
from tests.disks import fill_up, small_disk
from tests.servers import RedisServer
from tests.unit.service.parts import HOSTS, Node, key_of, stored_users
from tests.unit.service.test_persist import clean, running
from tests.waiting import until

pytestmark = pytest.mark.anyio

Change = Callable[[Node], Awaitable[bool]]


async def pin(node: Node) -> bool:
    return (await node.operations.users.move("alice", HOSTS[1], pin=True, reason="")).stored


async def unpin(node: Node) -> bool:
    return (await node.operations.users.unpin("bob", reason="")).stored


async def move(node: Node) -> bool:
    return (await node.operations.users.move("alice", HOSTS[1], reason="")).stored


async def flush(node: Node) -> bool:
    return (await node.operations.users.flush(HOSTS[0], reason="")).stored


async def weight(node: Node) -> bool:
    return (await node.operations.hosts.update(HOSTS[0], 60, reason="")).stored


async def down(node: Node) -> bool:
    return (await node.operations.hosts.set_up(HOSTS[0], False, reason="")).stored


async def listing(node: Node) -> bool:
    return (await node.operations.ring.add("10.9.9.9", 9090, reason="")).stored


async def rebalance(node: Node) -> bool:
    return (await node.operations.users.rebalance(None, None, reason="")).stored


async def remove(node: Node) -> bool:
    return (await node.operations.hosts.remove(HOSTS[0], reason="", force=True)).stored


async def retag(node: Node) -> bool:
    return (await node.operations.hosts.set_tag(HOSTS[0], "gold", reason="", force=True)).stored


CHANGES = {
    "pin": (pin, "alice"),
    "unpin": (unpin, "bob"),
    "move": (move, "alice"),
    "flush": (flush, HOSTS[0]),
    "update": (weight, HOSTS[0]),
    "down": (down, HOSTS[0]),
    "rebalance": (rebalance, "all"),
    "remove": (remove, HOSTS[0]),
    "tag": (retag, HOSTS[0]),
    "ring add": (listing, "10.9.9.9:9090"),
}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("director.service.persistence.unstored.STORE_WAIT", 0.05)
    monkeypatch.setattr("director.service.persistence.unstored.MANY_WAIT", 0.05)


def ready(node: Node) -> Node:
    node.director.moves.kick_delay = 0.0
    for name in ("alice", "bob"):
        node.put(name)
    return node


@pytest.mark.parametrize("what", CHANGES)
async def test_a_change_made_while_the_store_is_unreachable_is_stored_when_it_is_reachable_again(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    change, target = CHANGES[what]
    async with running(Node(redis.url)) as node:
        await ready(node).operations.users.move("bob", HOSTS[1], pin=True, reason="")
        await clean(node)
        redis.freeze()
        await until(lambda: not node.persistence.up)
        assert not await change(node)
        times = 2 if what == "tag" else 1  # the host, and its users
        assert [(one.what, one.target) for one in node.persistence.unstored.changes()] == [
            (what, target)
        ] * times
        line, *more = node.logged("change_not_stored")
        assert len(more) == times - 1
        assert f"what={what}" in line.replace('"', "")
        assert target in line
        assert (await node.operations.queries.status()).store.unstored == node.persistence.unstored.changes()
        redis.thaw()
        await until(lambda: node.persistence.unstored.changes() == [])
        await until(lambda: node.persistence.up)
        assert len(node.logged("change_stored")) == times
        monkeypatch.undo()
        assert await change_again(node, what)
        assert len(node.logged("change_not_stored")) == times


async def change_again(node: Node, what: str) -> bool:
    """The same, with a store that works; what was undone by then is done before."""
    if what == "unpin":
        await node.operations.users.move("bob", HOSTS[1], pin=True, reason="")
    if what == "remove":
        return (await node.operations.hosts.remove(HOSTS[1], reason="", force=True)).stored
    return await CHANGES[what][0](node)


async def test_a_pin_made_with_a_full_disk_is_not_stored_until_there_is_space_and_survives_from_then_on(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path, size="3m") as disk:
        async with running(Node("sqlite:///state.db", disk)) as node:
            await clean(ready(node))
            copy = tmp_path / "copy"
            copy.mkdir()
            filling = fill_up(disk)
            for number in range(2000):
                node.put(f"user{number}")
            await until(lambda: node.persistence.errors)
            assert not await pin(node)
            assert not await weight(node)
            assert [one.what for one in node.persistence.unstored.changes()] == ["pin", "update"]
            assert not await pinned_in(disk, copy)
            filling.unlink()
            await until(lambda: node.persistence.unstored.changes() == [])
            assert await pinned_in(disk, copy)


async def pinned_in(disk: Path, copy: Path) -> bool:
    """Whether a director that was killed now would find the pin after its start."""
    await anyio.to_thread.run_sync(partial(shutil.copytree, disk, copy, dirs_exist_ok=True))
    store = open_store("sqlite:///state.db", base_dir=copy)
    await store.open()
    found = await stored_users(store)
    await store.close()
    user = found.get(key_of("alice"))
    return user is not None and bool(user.flags & PINNED)


async def test_the_name_of_a_user_that_was_pinned_is_stored_with_the_pin(tmp_path: Path) -> None:
    async with running(Node("sqlite:///state.db", tmp_path)) as node:
        await node.operations.users.move("carol@example.com", HOSTS[1], pin=True, reason="")
        store = node.persistence.store

        async def stored_names() -> bytes:
            return b"".join([bucket.blob async for batch in store.load_buckets("names") for bucket in batch])

        found: list[bytes] = []
        while not found or b"carol@example.com" not in found[-1]:
            assert len(found) < 100, "not stored within a second"
            found.append(await stored_names())
            await anyio.sleep(0.01)


async def test_doveadm_hears_ok_for_a_move_that_is_not_stored_and_log_and_status_say_so(
    redis: RedisServer,
) -> None:
    async with running(Node(redis.url)) as node:
        await clean(ready(node))
        redis.freeze()
        await until(lambda: not node.persistence.up)
        handler = AdminHandler(node.operations, node.log)
        command = parse(f"USER-MOVE\talice\t{HOSTS[1]}".encode())
        assert b"".join([piece async for piece in handler(command)]) == b"OK\n"
        assert [one.what for one in node.persistence.unstored.changes()] == ["move"]
        assert len(node.logged("change_not_stored")) == 1
        redis.thaw()
        await until(lambda: node.logged("change_stored"))


async def test_a_successor_goes_on_saying_what_is_not_stored(redis: RedisServer) -> None:
    async with running(Node(redis.url)) as node:
        await clean(ready(node))
        redis.freeze()
        await until(lambda: not node.persistence.up)
        left = [UnstoredChange(what="pin", target="alice", since=1)]
        node.persistence.unstored.take_over(left)
        assert node.persistence.unstored.changes() == left
        redis.thaw()
        await until(lambda: node.persistence.unstored.changes() == [])
        assert node.logged("change_stored")


async def test_the_log_hides_the_user_of_a_change_that_is_not_stored_where_names_are_hidden(
    redis: RedisServer,
) -> None:
    async with running(Node(redis.url)) as node:
        node.log._hide_user = lambda name: "hidden"
        await clean(ready(node))
        redis.freeze()
        await until(lambda: not node.persistence.up)
        await pin(node)
        assert "alice" not in node.logged("change_not_stored")[0]
        redis.thaw()
