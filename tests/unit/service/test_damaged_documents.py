"""Documents, and buckets with pins, that are damaged in the store: what operators did is there at the next
start."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from director.core.filechanges import AppliedHost
from director.core.placement.users import PINNED
from director.stored.storeidentity import CLUSTER
from director.types import Address
from state.aside import SET_ASIDE, set_aside
from state.base import EMPTY_VERSION, Document, StateStore, version_of
from tests.disks import PAGE
from tests.servers import RedisServer
from tests.unit.service.parts import HOSTS, Node, bucket_of, clean, key_of, opened, running, user
from tests.unit.service.test_snapshot import copy, kept  # noqa: F401
from tests.waiting import until

pytestmark = pytest.mark.anyio
NOW = int(time.time())
MANY = [f"127.0.4.{n}" for n in range(1, 31)]
DAMAGED = 500
JUNK = random.Random(1).randbytes(40)


async def change_everything(node: Node) -> None:
    """The settings that an operator can change, and the applied configuration."""
    for number, host in enumerate(MANY):
        await node.operations.hosts.update(host, number + 1, reason="test")
    await node.operations.hosts.set_up(MANY[0], up=False, reason="test")
    await node.operations.ring.add("127.0.2.77", None, reason="test")
    node.persistence.set_applied([AppliedHost(Address(MANY[0]), True, 0)])
    await clean(node)


async def check(node: Node) -> None:
    rows = {row.address: row for row in node.director.hosts.rows.values()}
    assert [rows[host].weight for host in MANY] == list(range(1, len(MANY) + 1))
    assert not rows[MANY[0]].up
    assert [row.member for row in node.director.members.rows.values()] == ["127.0.2.77:9090"]
    assert node.persistence.documents.applied == [AppliedHost(Address(MANY[0]), True, 0)]


def junk_in(server: RedisServer, name: str, *, at: int) -> bytes:
    """Damage a document in Redis from this percentage of it on (0 to 100). Returns the stored bytes."""
    key = f"dd:doc:{name}"
    with closing(Redis.from_url(server.url)) as client:
        held = client.get(key)
        place = len(held) * at // 100
        damaged = held[:place] + JUNK + held[place + len(JUNK) :]
        client.set(key, damaged)
        return bytes(damaged[8:])


async def asides(store: StateStore, name: str) -> list[Document | None]:
    names = [one for one in await store.documents() if one.startswith(f"{name}.damaged-")]
    return [await store.read_document(one) for one in names]


def remove_asides(folder: Path) -> None:
    """More than ten damaged files would be refused."""
    for aside in folder.glob("*.damaged-*"):
        aside.unlink()


@pytest.mark.shows("S-27")
@pytest.mark.parametrize("at", [0, 10, 50, 95])
@pytest.mark.parametrize("name", ["hosts", "members", "applied"])
async def test_a_document_with_forty_bytes_of_junk_loses_nothing_where_there_is_a_snapshot(
    redis: RedisServer,
    copy: str,  # noqa: F811
    name: str,
    at: int,
) -> None:
    async with running(Node(redis.url, hosts=MANY, snapshot=copy)) as node:
        await change_everything(node)
        await until(kept(node))
    damaged = junk_in(redis, name, at=at)
    async with running(Node(redis.url, hosts=MANY, snapshot=copy)) as again:
        await check(again)
        (line,) = again.logged("store_document_damaged")
        assert f"document={name}" in line
        assert f"gaps_filled_from={copy}" in line
        await clean(again)
    async with opened(redis.url) as store:
        assert [document.data for document in await asides(store, name) if document] == [damaged]
        document = await store.read_document(name)
        assert document is not None
        assert document.version == version_of(document.data)
    async with running(Node(redis.url, hosts=MANY)) as at_last:
        await check(at_last)
        assert at_last.logged("store_document_damaged") == []


@pytest.mark.shows("S-27")
@pytest.mark.parametrize("name", ["hosts", "members", "applied"])
async def test_a_document_that_is_missing_is_taken_from_the_snapshot(
    redis: RedisServer,
    copy: str,  # noqa: F811
    name: str,
) -> None:
    async with running(Node(redis.url, hosts=MANY, snapshot=copy)) as node:
        node.put("alice", MANY[0])
        await change_everything(node)
        await until(kept(node))
    redis.command("DEL", f"dd:doc:{name}")
    async with running(Node(redis.url, hosts=MANY, snapshot=copy)) as again:
        await check(again)
        assert "it is missing" in again.logged("store_document_damaged")[0]


async def test_the_rows_of_a_damaged_document_that_are_whole_count_without_a_snapshot(
    redis: RedisServer,
) -> None:
    async with running(Node(redis.url, hosts=MANY)) as node:
        await change_everything(node)
    junk_in(redis, "hosts", at=50)
    async with running(Node(redis.url, hosts=MANY)) as again:
        weights = [again.director.hosts.rows[Address(host)].weight for host in MANY]
        lost = [n for n, weight in enumerate(weights, start=1) if weight != n]
        assert 0 < len(lost) <= 3, "a row has some forty bytes"
        assert all(weights[n - 1] == 100 for n in lost), "as the configuration says"
        assert "gaps_filled_from=memory" in again.logged("store_document_damaged")[0]


@pytest.mark.shows("S-27")
async def test_what_the_store_has_whole_counts_whatever_the_snapshot_says(
    redis: RedisServer,
    copy: str,  # noqa: F811
) -> None:
    async with running(Node(redis.url, hosts=MANY, snapshot=copy)) as node:
        await change_everything(node)
        await until(kept(node))
    async with running(Node(redis.url, hosts=MANY)) as without_a_snapshot:
        await without_a_snapshot.operations.hosts.update(MANY[0], 999, reason="later")
    junk_in(redis, "hosts", at=95)
    async with running(Node(redis.url, hosts=MANY, snapshot=copy)) as again:
        rows = again.director.hosts.rows
        assert rows[Address(MANY[0])].weight == 999
        assert rows[Address(MANY[29])].weight == 30


@pytest.mark.shows("S-27")
async def test_a_damaged_bucket_gets_its_pins_from_the_snapshot(
    redis: RedisServer,
    copy: str,  # noqa: F811
) -> None:
    pinned = user("alice", HOSTS[1], decided=NOW, seen=NOW)._replace(flags=PINNED)
    async with running(Node(redis.url, snapshot=copy)) as node:
        node.director.users.put(pinned)
        node.persistence.buckets_changed()
        await clean(node)
        await until(kept(node))
    number = bucket_of("alice")
    key = f"dd:{{u{number >> 6:02x}}}{number:03x}"
    with closing(Redis.from_url(redis.url)) as client:
        client.setrange(key, 10, JUNK)
    async with running(Node(redis.url, snapshot=copy)) as again:
        assert len(again.logged("store_bucket_damaged")) == 1
        found = again.director.users.get(key_of("alice"))
        assert found is not None
        assert (found.host, found.flags) == (pinned.host, PINNED)


@pytest.mark.shows("S-28")
async def test_ten_damaged_forms_of_a_document_are_kept_the_latest_and_each_once(
    any_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = 0

    monkeypatch.setattr("state.aside._moment", lambda: f"20261130t1200{moment:02}z")
    async with opened(any_url) as store:
        await store.swap_document("hosts.damaged-0123456789abcdef", EMPTY_VERSION, b"of an older release")
        for moment in range(12):
            data = b"damaged %d" % moment
            name = await set_aside(store, "hosts", data)
            assert await set_aside(store, "hosts", data) == name
            assert len(await asides(store, "hosts")) <= SET_ASIDE
        left = [document.data for document in await asides(store, "hosts") if document]
        assert left == [b"damaged %d" % n for n in range(2, 12)]
        await set_aside(store, "members", b"other")
        assert len(await asides(store, "hosts")) == SET_ASIDE


@pytest.fixture(params=["memory", "sqlite", "redis"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        return server.url
    return "memory:" if request.param == "memory" else f"sqlite:///{tmp_path}/state.db"


@pytest.mark.shows("S-28")
async def test_a_damaged_note_of_the_cluster_is_set_aside_and_written_again(redis: RedisServer) -> None:
    """It said that another cluster's directors had been here, and the director ended with 78."""
    async with running(Node(redis.url)) as node:
        await clean(node)
    key = f"dd:doc:{CLUSTER}"
    with closing(Redis.from_url(redis.url)) as client:
        held = client.get(key)
        client.set(key, held.replace(b'"ring":"', b'"ring":"x'))
        async with running(Node(redis.url)):
            pass
        assert client.get(key) == held
    async with opened(redis.url) as store:
        assert len(await asides(store, CLUSTER)) == 1


@pytest.mark.shows("S-28")
async def test_a_document_that_an_operator_changed_while_the_store_kept_a_damaged_one_is_set_aside_first(
    redis: RedisServer,
) -> None:
    """A director that runs knows everything: it writes over what is damaged, and keeps the bytes."""
    async with running(Node(redis.url, hosts=MANY)) as node:
        await change_everything(node)
        damaged = junk_in(redis, "hosts", at=0)
        await node.operations.hosts.update(MANY[1], 77, reason="test")
        await clean(node)
        async with opened(redis.url) as store:
            assert [document.data for document in await asides(store, "hosts") if document] == [damaged]
    async with running(Node(redis.url, hosts=MANY)) as again:
        assert again.director.hosts.rows[Address(MANY[1])].weight == 77


@pytest.mark.shows("S-29")
async def test_a_document_of_a_sqlite_store_that_is_damaged_is_taken_from_its_second_copy(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    async with running(Node(url, hosts=MANY)) as node:
        await change_everything(node)
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as db:
        for name in ("hosts", "members", "applied"):
            db.execute("UPDATE document SET data = ? WHERE name = ?", (JUNK, name))
    async with running(Node(url, hosts=MANY)) as again:
        await check(again)
        assert len(again.logged("store_document_damaged")) == 3
        await clean(again)
    async with opened(url) as store:
        assert len(await asides(store, "hosts")) == 1


async def test_500_damaged_bytes_anywhere_in_a_snapshot_lose_nothing_where_redis_is_empty(
    redis: RedisServer,
    copy: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    async with running(Node(redis.url, hosts=MANY, snapshot=copy)) as node:
        await change_everything(node)
        await until(kept(node))
    file = tmp_path / "snapshot.db"
    whole = file.read_bytes()
    for place in range(0, len(whole), 3 * PAGE - DAMAGED // 2):
        end = place + DAMAGED
        junk = random.Random(place).randbytes(len(whole[place:end]))
        file.write_bytes(whole[:place] + junk + whole[end:])
        redis.command("FLUSHALL")
        async with running(Node(redis.url, hosts=MANY, snapshot=copy)) as again:
            await check(again)
        remove_asides(tmp_path)


async def test_500_damaged_bytes_anywhere_in_the_file_of_a_director_lose_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    async with running(Node(url, hosts=MANY)) as node:
        await change_everything(node)
    file = tmp_path / "state.db"
    whole = file.read_bytes()
    for place in range(0, len(whole), 3 * PAGE - DAMAGED // 2):
        end = place + DAMAGED
        junk = random.Random(place).randbytes(len(whole[place:end]))
        file.write_bytes(whole[:place] + junk + whole[end:])
        async with running(Node(url, hosts=MANY)) as again:
            await check(again)
        remove_asides(tmp_path)
