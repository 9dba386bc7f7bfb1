"""A store with times far ahead of the clock: nothing that operators did is lost, and it is put right."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from director.core.placement.users import BY_HAND, LATEST, PINNED, User
from director.core.protocol.messages import HostRow, MemberRow
from director.core.protocol.stamps import AHEAD, latest_of
from director.core.tables.hosts import decode_rows, encode_rows
from director.core.tables.members import decode_member_rows, encode_member_rows
from director.service.lifecycle.filetimes import files_of, younger_file
from director.types import Address, Now
from state.base import EMPTY_VERSION
from tests.servers import RedisServer
from tests.unit.service.parts import (
    EXPIRE,
    HOSTS,
    ME,
    OTHER,
    Node,
    bucket_of,
    clean,
    key_of,
    opened,
    packed,
    running,
    stored_users,
    swap,
    user,
)
from tests.waiting import until

pytestmark = pytest.mark.anyio
ROW = HostRow(HOSTS[0], "", True, 0, "gold", LATEST, 7, LATEST + 1, False, LATEST)
REMOVED = HostRow(HOSTS[1], "", False, LATEST, "", 0, 100, 0, True, 0)
GONE = MemberRow(OTHER, False, LATEST)
PINNED_USER = "alice"


def pinned() -> User:
    return user(PINNED_USER, HOSTS[2], decided=LATEST, seen=LATEST)._replace(flags=BY_HAND | PINNED)


async def fill(url: str) -> None:
    async with opened(url) as store:
        await store.swap_document("hosts", EMPTY_VERSION, encode_rows([ROW, REMOVED]))
        await store.swap_document("members", EMPTY_VERSION, encode_member_rows([GONE]))
        await swap(store, bucket_of(PINNED_USER), packed(pinned()))


def limit() -> int:
    return int(time.time()) + AHEAD + 12


async def check(node: Node) -> None:
    rows = node.director.hosts.rows
    hosts = {address: (row.present, row.weight, row.up, row.tag) for address, row in rows.items()}
    assert hosts[Address(HOSTS[0])] == (True, 7, False, "gold")
    assert not hosts[Address(HOSTS[1])][0]
    assert node.director.members.rows[OTHER].present is False
    record = node.director.users.get(key_of(PINNED_USER))
    assert record is not None
    assert (node.host(PINNED_USER), record.flags) == (HOSTS[2], BY_HAND | PINNED)
    assert all(latest_of(row) <= limit() for row in [*rows.values(), *node.director.members.rows.values()])
    assert record.decided <= limit()
    assert record.seen <= limit() + EXPIRE // 3  # it is stored rounded up
    assert node.logged("store_document_damaged") == node.logged("store_bucket_damaged") == []


@pytest.mark.shows("A-54")
@pytest.mark.parametrize("shared", [True, False])
async def test_times_at_the_maximum_in_a_store_cost_nothing_that_operators_did(
    redis: RedisServer, tmp_path: Path, shared: bool
) -> None:
    url = redis.url if shared else f"sqlite:///{tmp_path}/state.db"
    await fill(url)
    async with running(Node(url, members=[ME, OTHER])) as node:
        await until(lambda: node.persistence.loaded)
        await check(node)
        assert node.director.counters.stamps_clipped == {"store": 4}
        (line, *_) = node.logged("stamps_clipped")
        assert "source=store" in line
        await clean(node)
    async with opened(url) as store:
        hosts, members = await store.read_document("hosts"), await store.read_document("members")
        assert hosts is not None
        assert members is not None
        rows = [*decode_rows(hosts.data), *decode_member_rows(members.data)]
        assert all(latest_of(row) <= limit() for row in rows)
        (record,) = (await stored_users(store)).values()
        assert record.decided <= limit()
    async with running(Node(url, members=[ME, OTHER])) as again:
        await until(lambda: again.persistence.loaded)
        await check(again)
        assert again.director.counters.stamps_clipped == {}  # it was put right


async def test_an_operators_change_after_that_holds_and_outlives_a_restart(
    redis: RedisServer, tmp_path: Path
) -> None:
    url = redis.url
    await fill(url)
    async with running(Node(url)) as node:
        await until(lambda: node.persistence.loaded)
        await node.operations.hosts.update(HOSTS[0], 60, reason="test")
        await node.operations.hosts.set_up(HOSTS[0], up=True, reason="test")
        await node.operations.hosts.set(HOSTS[1], None, 30, reason="test")
        await clean(node)
    async with running(Node(url)) as again:
        hosts = {host.address: (host.weight, host.up) for host in await again.operations.queries.hosts()}
        assert hosts[HOSTS[0]] == (60, True)
        assert HOSTS[1] in hosts


async def test_a_row_of_the_store_that_cannot_be_right_costs_no_other_row(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    bad = msgspec.structs.replace(REMOVED, weight=5000)
    async with opened(url) as store:
        await store.swap_document("hosts", EMPTY_VERSION, encode_rows([ROW, bad]))
    async with running(Node(url)) as node:
        row = node.director.hosts.rows[Address(HOSTS[0])]
        assert (row.weight, row.up) == (7, False)
        (line,) = node.logged("store_document_damaged")
        assert "1 of 2 rows left out: host row of" in line


async def test_times_in_a_snapshot_are_named_as_those_of_the_snapshot(
    redis: RedisServer, tmp_path: Path
) -> None:
    copy = f"sqlite:///{tmp_path}/snapshot.db"
    await fill(copy)
    async with running(Node(redis.url, members=[ME, OTHER], snapshot=copy)) as node:
        await until(lambda: node.persistence.loaded)
        await check(node)
        assert node.director.counters.stamps_clipped == {"snapshot": 4}


@pytest.mark.shows("A-57")
async def test_while_the_clock_is_doubted_a_store_is_taken_and_written_as_it_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    await fill(url)
    node = Node(url, members=[ME, OTHER])
    node.director.clock.doubt(Now(time.monotonic(), time.time()))
    async with running(node):
        await until(lambda: node.persistence.loaded)
        assert node.director.users.get(key_of(PINNED_USER)) == pinned()
        assert node.director.members.rows[OTHER] == GONE
        assert node.director.counters.stamps_clipped == {}
        await node.operations.hosts.update(HOSTS[2], 60, reason="test")
        await clean(node)
    async with opened(url) as store:
        document = await store.read_document("hosts")
        assert document is not None
        assert max(map(latest_of, decode_rows(document.data))) == LATEST
        assert list((await stored_users(store)).values()) == [pinned()]


# Which clock is behind


def test_a_clock_behind_a_file_is_found_by_the_youngest(tmp_path: Path) -> None:
    now = time.time()
    for name, ahead in (("director.toml", 0.0), ("state.db", AHEAD + 5.0), ("state.db-wal", 2 * AHEAD)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (now + ahead, now + ahead))
    paths = [tmp_path / "director.toml", *files_of(["sqlite:///state.db", "redis://host"], tmp_path)]
    found = younger_file(paths, now)
    assert found is not None
    assert found.path == tmp_path / "state.db-wal"
    assert abs(found.seconds - 2 * AHEAD) <= 1
    assert younger_file(paths[:1], now) is None
    assert younger_file([tmp_path / "none"], now) is None
    assert files_of([f"sqlite:///{tmp_path}/x.db", ""], Path("/")) == [
        tmp_path / "x.db",
        tmp_path / "x.db-wal",
    ]
