"""A director whose SQLite store is on a disk that fills up, or whose file is damaged or taken away."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from director.core.placement.users import pack
from director.types import UserKey
from state.urls import open_store
from tests.disks import PAGE, fill_up, small_disk
from tests.unit.service.parts import HOSTS, Node, key_of, stored_users, user
from tests.waiting import until

pytestmark = pytest.mark.anyio

NOW = int(time.time())
MANY = 120_000
"""Users that take more than the 2 MB that SQLite keeps in its own memory."""
USERS = [f"user{number}" for number in range(2000)]


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[Node]:
    await node.persistence.open()
    node.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.persistence.run)
        await until(lambda: not node.director.loading)
        yield node
        tasks.cancel_scope.cancel()
    node.driver.stop()
    await node.persistence.stop()


def node_in(folder: Path) -> Node:
    return Node("sqlite:///state.db", folder)


async def until_stored(node: Node) -> None:
    await until(
        lambda: (
            node.persistence.up
            and not node.persistence.queued
            and node.persistence.documents.operators_stored
        )
    )


async def look(folder: Path) -> tuple[set[int], list[str]]:
    """The users and the reasons of the audit, in a store that no director uses."""
    store = open_store("sqlite:///state.db", base_dir=folder)
    await store.open()
    found = set(await stored_users(store)), [entry.reason for entry in await store.audit(10)]
    await store.close()
    return found


@pytest.mark.shows("S-68")
async def test_a_disk_that_fills_up_stops_no_login_and_everything_is_stored_when_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("director.service.persistence.unstored.STORE_WAIT", 0.05)
    with small_disk(tmp_path, size="3m") as disk:
        async with running(node_in(disk)) as node:
            assert (await node.operations.hosts.update(HOSTS[0], 50, reason="with space")).stored
            await until_stored(node)
            filling = fill_up(disk)
            for name in USERS:
                node.put(name)
            await until(lambda: node.persistence.errors.get("write", 0) >= 2)
            assert node.host(USERS[-1]) == HOSTS[0]
            assert not (await node.operations.hosts.update(HOSTS[0], 60, reason="without")).stored
            assert "free some space" in (node.persistence.info().error or "")
            filling.unlink()
            await until_stored(node)
            await until(lambda: not node.persistence.core.steps.audit)
        users, reasons = await look(disk)
    assert users == set(map(key_of, USERS))
    assert reasons == ["without", "with space"]
    assert len(node.logged("store_unreachable")) == len(node.logged("store_reachable")) == 1


@pytest.mark.shows("S-68")
async def test_a_disk_that_is_full_at_the_start_is_used_when_there_is_space(tmp_path: Path) -> None:
    with small_disk(tmp_path, size="3m") as disk:
        filling = fill_up(disk)
        async with running(node_in(disk)) as node:
            node.put("alice")
            assert not node.persistence.up
            filling.unlink()
            await until_stored(node)
        users, _ = await look(disk)
    assert users == {key_of("alice")}


def replaced(folder: Path) -> None:
    other = sqlite3.connect(folder / "other.db")
    other.execute("CREATE TABLE mail (id INTEGER)")
    other.close()
    os.replace(folder / "other.db", folder / "state.db")


@pytest.mark.shows("S-69")
async def test_a_file_that_is_damaged_while_in_use_is_named_and_made_again_from_memory(
    tmp_path: Path,
) -> None:
    async with running(node_in(tmp_path)) as node:
        template = user("", HOSTS[0], decided=NOW, seen=NOW)
        step = (1 << 64) // MANY
        node.director.users.merge(pack(template._replace(key=UserKey(n * step)) for n in range(MANY)))
        node.put("one")
        await until_stored(node)
    async with running(node_in(tmp_path)) as node:  # the file holds all of it now, not its log
        overwrite(tmp_path)
        for name in USERS:
            node.put(name)
        await until(lambda: node.logged("store_reachable"))
        await until_stored(node)
        (line,) = node.logged("store_damaged")
        assert f"{tmp_path}/state.db.damaged-20" in line
    users, _ = await look(tmp_path)
    assert len(users) == MANY + 1 + len(USERS)


def overwrite(folder: Path) -> None:
    """All but the first pages."""
    file = folder / "state.db"
    with file.open("r+b") as data:
        data.seek(10 * PAGE)
        data.write(os.urandom(file.stat().st_size - 10 * PAGE))


@pytest.mark.shows("S-69")
async def test_a_file_that_is_removed_while_in_use_is_made_again_from_memory(tmp_path: Path) -> None:
    async with running(node_in(tmp_path)) as node:
        for name in USERS:
            node.put(name)
        assert (await node.operations.hosts.update(HOSTS[0], 50, reason="before")).stored
        await until_stored(node)
        (tmp_path / "state.db").unlink()
        node.put("late")
        await until(lambda: node.logged("store_reachable"))
        await until_stored(node)
    users, _ = await look(tmp_path)
    assert users == set(map(key_of, [*USERS, "late"]))


@pytest.mark.shows("S-69")
async def test_the_file_of_another_program_put_in_its_place_is_left_alone_and_named(tmp_path: Path) -> None:
    async with running(node_in(tmp_path)) as node:
        node.put("alice")
        await until_stored(node)
        replaced(tmp_path)
        node.put("bob")
        await until(lambda: "another program" in (node.persistence.info().error or ""))
        assert node.host("bob") == HOSTS[0]
        (tmp_path / "state.db").unlink()
        await until_stored(node)
    users, _ = await look(tmp_path)
    assert users == {key_of("alice"), key_of("bob")}
