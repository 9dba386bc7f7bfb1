"""The snapshot: warm starts from it, its age, and that its failures do not affect logins."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from director.core.placement.users import BUCKETS
from director.core.tables.hosts import decode_rows
from director.service.persistence import snapshot as snapshot_module
from director.stored.storeidentity import CLUSTER, Cluster, encode
from director.types import Address
from state.base import EMPTY_VERSION, StateStore
from tests.faulty import Fault, FaultyStore
from tests.proxy import Proxy
from tests.servers import RedisServer
from tests.unit.service.parts import HOSTS, OTHER, Node, bucket_of, key_of, packed, stored_users, user
from tests.unit.service.test_persist import (
    clean,
    in_a_ring_of_two,
    name_in_bucket_of,
    opened,
    running,
    swap,
)
from tests.waiting import until

pytestmark = pytest.mark.anyio
NOW = int(time.time())
USERS = [f"user{number}" for number in range(300)]


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a snapshot that is written at once and tried again at once."""
    monkeypatch.setattr(snapshot_module, "WRITE_EVERY", 0.05)
    monkeypatch.setattr(snapshot_module, "NAMES_EVERY", 0.0)
    monkeypatch.setattr(snapshot_module, "RETRY", 0.05)
    monkeypatch.setattr(snapshot_module, "PAUSE_FACTOR", 0.0)
    return f"sqlite:///{tmp_path}/snapshot.db"


def kept(node: Node) -> Callable[[], bool]:
    """Everything in memory is in the snapshot."""

    def look() -> bool:
        info = node.persistence.info().snapshot
        assert info is not None
        return info.up and info.queued_buckets == 0 and not node.director.users.dirty_count

    return look


async def fill(node: Node) -> None:
    for number, name in enumerate(USERS):
        node.put(name, HOSTS[number % 3])
    await node.operations.hosts.update(HOSTS[0], 7, reason="test")
    await node.operations.hosts.set_up(HOSTS[1], up=False, reason="test")
    await clean(node)
    await until(kept(node))


async def check(node: Node) -> None:
    assert [node.host(name) for name in USERS] == [HOSTS[n % 3] for n in range(len(USERS))]
    hosts = [(host.weight, host.up) for host in await node.operations.queries.hosts()]
    assert hosts == [(7, True), (100, False), (100, True)]


@pytest.mark.shows("S-2")
async def test_all_directors_and_redis_restarted_and_redis_empty_is_a_warm_start(
    redis: RedisServer, copy: str
) -> None:
    async with running(Node(redis.url, snapshot=copy)) as node:
        await fill(node)
    redis.command("FLUSHALL")
    async with running(Node(redis.url, snapshot=copy)) as again:
        await until(lambda: again.persistence.loaded)
        await check(again)
        (line,) = again.logged("snapshot_loaded")
        assert re.search(r'reason="the store is empty" users=300 hosts=3 age="\d+ s"', line)
        assert again.persistence.loaded_users == 300
        await clean(again)
        async with opened(redis.url) as store:
            assert set(await stored_users(store)) == set(map(key_of, USERS))
            document = await store.read_document("hosts")
            assert document is not None
            assert decode_rows(document.data)[0].weight == 7


@pytest.mark.shows("S-3")
async def test_a_single_director_whose_store_is_unreachable_starts_from_its_snapshot(
    redis: RedisServer, copy: str
) -> None:
    async with running(Node(redis.url, snapshot=copy)) as node:
        await fill(node)
    redis.kill()
    async with running(Node(redis.url, snapshot=copy)) as again:
        await check(again)
        assert len(again.logged("store_unreachable")) == len(again.logged("snapshot_loaded")) == 1
        again.put("early")
        redis.start()  # with nothing in it
        await until(lambda: again.persistence.up)
        await clean(again)
        async with opened(redis.url) as store:
            assert set(await stored_users(store)) == set(map(key_of, [*USERS, "early"]))


@pytest.mark.shows("S-4")
async def test_a_store_that_is_too_slow_at_the_start_is_done_without(
    redis: RedisServer, copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer comes in time, all together do not."""
    async with running(Node(redis.url, snapshot=copy)) as node:
        await fill(node)
    with Proxy(redis.socket) as proxy:
        proxy.delay = 0.3
        monkeypatch.setattr("director.stored.procedures.OPEN_WITHIN", 0.5)
        again = Node(f"redis://127.0.0.1:{proxy.port}", snapshot=copy)
        async with running(again):
            assert len(again.logged("snapshot_loaded")) == 1
            await check(again)
            proxy.delay = 0
            await until(lambda: again.persistence.up)


@pytest.mark.shows("S-5")
async def test_a_store_that_ends_while_it_is_read_is_made_up_for_by_the_snapshot(
    redis: RedisServer, copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(Node(redis.url, snapshot=copy)) as node:
        await fill(node)
    again = Node(redis.url, snapshot=copy)
    load_buckets = again.store.load_buckets

    async def ends(space):  # type: ignore[no-untyped-def]
        async for batch in load_buckets(space):
            redis.kill()
            yield batch

    monkeypatch.setattr(again.store, "load_buckets", ends)
    async with running(again):
        await check(again)
        redis.start()
        await until(lambda: again.persistence.up)
        await clean(again)
        await until(kept(again))
    async with opened(copy) as store:
        assert set(await stored_users(store)) == set(map(key_of, USERS))


@pytest.mark.shows("S-6")
async def test_a_store_with_content_is_believed_and_the_snapshot_not_read(
    redis: RedisServer, copy: str
) -> None:
    async with running(Node(redis.url, snapshot=copy)) as node:
        await fill(node)
    async with opened(copy) as store:
        await swap(store, bucket_of("ghost"), packed(user("ghost", HOSTS[0], decided=NOW, seen=NOW)))
    async with running(Node(redis.url, snapshot=copy)) as again:
        await until(lambda: again.persistence.loaded)
        assert again.host("ghost") is None
        assert again.logged("snapshot_loaded") == []
        await until(kept(again))
    async with opened(copy) as store:
        assert key_of("ghost") not in await stored_users(store)


async def test_the_snapshot_is_in_the_metrics_and_in_what_status_shows(redis: RedisServer, copy: str) -> None:
    async with running(Node(redis.url, snapshot=copy)) as node:
        await until(lambda: (found := node.persistence.info().snapshot) and found.written)
        text = (await node.operations.metrics.page()).decode()
        info = (await node.operations.queries.status()).store.snapshot
        assert "\ndirector_snapshot_up 1.0\n" in text
        assert info is not None
        assert (info.url, info.up, info.error) == (copy, True, None)
        assert abs((info.written or 0) - time.time()) < 60
    assert "director_snapshot" not in (await Node().operations.metrics.page()).decode()


@pytest.mark.shows("S-7")
async def test_what_others_write_into_the_store_is_in_the_snapshot_too(redis: RedisServer, copy: str) -> None:
    async with running(Node(redis.url, me=OTHER)) as other:
        other.put("theirs")
        await clean(other)
    async with running(Node(redis.url, snapshot=copy)) as node:
        await until(lambda: node.persistence.loaded)
        await until(kept(node))
    async with opened(copy) as store:
        assert set(await stored_users(store)) == {key_of("theirs")}


@pytest.mark.shows("S-7")
async def test_what_is_left_to_another_writer_is_in_the_snapshot_at_once(
    redis: RedisServer, copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.unit.service.test_persist.Node", lambda *a, **k: Node(*a, snapshot=copy, **k))
    async with in_a_ring_of_two(redis.url) as node:
        name = name_in_bucket_of(OTHER, node)
        node.put(name)
        await until(lambda: not node.director.users.dirty_count)
        await until(kept(node))
        async with opened(redis.url) as store:
            assert await stored_users(store) == {}
        assert node.persistence._snapshot is not None
        assert set(await stored_users(node.persistence._snapshot._store)) == {key_of(name)}


@pytest.mark.shows("S-7")
async def test_the_snapshot_is_written_while_the_store_is_unreachable_and_the_store_gets_it_all_later(
    redis: RedisServer, copy: str
) -> None:
    async with running(Node(redis.url, snapshot=copy)) as node:
        await fill(node)
        redis.kill()
        node.put("meanwhile")
        await node.operations.hosts.update(HOSTS[0], 9, reason="test")
        await until(lambda: not node.persistence.up)
        await until(kept(node))
        assert node.persistence._snapshot is not None
        assert key_of("meanwhile") in await stored_users(node.persistence._snapshot._store)
        redis.start()
        await until(lambda: node.persistence.up)
        await clean(node)
        async with opened(redis.url) as store:
            assert key_of("meanwhile") in await stored_users(store)


@pytest.mark.shows("S-7")
async def test_the_names_of_users_come_back_from_the_snapshot(redis: RedisServer, copy: str) -> None:
    name, key = b"alice@example.com", key_of("alice@example.com")
    async with running(Node(redis.url, snapshot=copy)) as node:
        await until(kept(node))
        node.put(name.decode())
        node.director.names.merge(key.to_bytes(8, "big") + len(name).to_bytes(2, "big") + name)
    redis.command("FLUSHALL")
    async with running(Node(redis.url, snapshot=copy)) as again:
        assert again.director.names.names(bucket_of(name.decode())) == {key: name.decode()}


@pytest.mark.shows("S-11")
async def test_a_snapshot_of_another_cluster_is_not_read_and_is_written_over(
    redis: RedisServer, copy: str
) -> None:
    async with running(Node(redis.url, snapshot=copy, secret=b"another secret of 32 bytes or so")) as node:
        await fill(node)
    redis.command("FLUSHALL")
    async with running(Node(redis.url, snapshot=copy)) as again:
        again.put("ours")
        await clean(again)
        await until(kept(again))
        assert len(again.director.users) == 1
        assert len(again.logged("foreign_snapshot_ignored")) == 1
        assert again.logged("snapshot_loaded") == []
    async with opened(copy) as store:
        assert set(await stored_users(store)) == {key_of("ours")}


# ---- failures do not affect logins


@pytest.mark.shows("S-9")
async def test_a_snapshot_without_a_folder_is_said_once_and_written_when_there_is_one(
    redis: RedisServer, copy: str, tmp_path: Path
) -> None:
    copy = f"sqlite:///{tmp_path}/none/snapshot.db"
    async with running(Node(redis.url, snapshot=copy)) as node:
        node.put("alice")
        await clean(node)
        await until(lambda: node.logged("snapshot_failed"))
        (line,) = node.logged("snapshot_failed")
        assert "create" in line
        assert node.persistence.up
        (tmp_path / "none").mkdir()
        await until(kept(node))
        assert len(node.logged("snapshot_failed")) == len(node.logged("snapshot_recovered")) == 1
    async with opened(copy) as store:
        assert set(await stored_users(store)) == {key_of("alice")}


@pytest.mark.shows("S-9")
async def test_a_damaged_snapshot_is_set_aside_named_and_written_anew(
    redis: RedisServer, copy: str, tmp_path: Path
) -> None:
    (tmp_path / "snapshot.db").write_bytes(b"this is no database" * 1000)
    async with running(Node(redis.url, snapshot=copy)) as node:
        node.put("alice")
        await clean(node)
        await until(kept(node))
        (line,) = node.logged("snapshot_damaged")
        assert "snapshot.db.damaged-" in line
    async with opened(copy) as store:
        assert set(await stored_users(store)) == {key_of("alice")}


@pytest.mark.shows("S-9")
async def test_a_snapshot_that_another_director_uses_is_said_and_neither_suffers(
    redis: RedisServer, copy: str
) -> None:
    async with (
        running(Node(redis.url, snapshot=copy)) as node,
        running(Node(redis.url, me=OTHER, snapshot=copy)) as other,
    ):
        await until(lambda: other.logged("snapshot_failed"))
        other.put("alice")
        await clean(other)
        await until(kept(node))
        assert node.logged("snapshot_failed") == []


@pytest.mark.shows("S-9")
async def test_a_snapshot_whose_disk_is_full_is_written_when_there_is_room(
    redis: RedisServer, copy: str
) -> None:
    async with running(Node(redis.url, snapshot=copy)) as node:
        await until(kept(node))
        assert node.persistence._snapshot is not None
        file = node.persistence._snapshot._store
        await pages(file, 1)
        for number in range(20_000):
            node.put(f"user{number}")
        await until(lambda: node.logged("snapshot_failed"))
        assert "disk full" in node.logged("snapshot_failed")[0]
        await clean(node)
        await until(lambda: node.logged("snapshot_recovered"))  # opened again, the limit is gone
        await until(kept(node))
    async with opened(copy) as store:
        assert len(await stored_users(store)) == 20_000


async def pages(store: StateStore, count: int) -> None:
    """Let the database of a SQLite store grow to so many pages at most (it keeps what it has)."""
    await store._run("test", lambda db: db.execute(f"PRAGMA max_page_count = {count}").fetchall())  # type: ignore[attr-defined]


async def test_a_note_in_the_snapshot_of_another_hash_keeps_its_users_out(
    redis: RedisServer, copy: str
) -> None:
    async with opened(copy) as store:
        await store.swap_document(CLUSTER, EMPTY_VERSION, encode(Cluster(ring="", username_hash="%u")))
        await swap(store, bucket_of("alice"), packed(user("alice", HOSTS[0], decided=NOW, seen=NOW)))
    async with running(Node(redis.url, snapshot=copy)) as node:
        assert node.host("alice") is None


@pytest.mark.shows("S-10")
async def test_a_large_snapshot_leaves_most_of_the_time_to_others_but_documents_are_written_at_once(
    redis: RedisServer, copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an endless pause after the first slice: no more is written, except documents."""
    monkeypatch.setattr(snapshot_module, "PAUSE_FACTOR", 1e9)
    async with running(Node(redis.url, snapshot=copy)) as node:
        for number in range(20_000):
            node.put(f"user{number}")
        await clean(node)
        await until(lambda: queued(node) >= 2 * BUCKETS - snapshot_module.SLICE)
        await node.operations.hosts.update(HOSTS[0], 7, reason="test")
        assert node.persistence._snapshot is not None
        file = node.persistence._snapshot._store
        with anyio.fail_after(10):
            while await weight_in(file) != 7:
                pass
        assert queued(node) >= 2 * BUCKETS - snapshot_module.SLICE


async def weight_in(store: StateStore) -> int:
    """Of the first host."""
    document = await store.read_document("hosts")
    return 0 if document is None else decode_rows(document.data)[0].weight


def queued(node: Node) -> int:
    info = node.persistence.info().snapshot
    assert info is not None
    return info.queued_buckets


@pytest.mark.shows("S-8")
@pytest.mark.parametrize("call", ["swap_document", "swap_buckets"])
async def test_a_change_during_a_write_that_the_stop_interrupts_is_in_the_snapshot_at_the_end(
    copy: str, call: str
) -> None:
    """The interrupted write has succeeded, but no answer says so: the last write found another version than
    it expected."""
    fault = Fault.NONE

    def choose(operation: str) -> Fault:
        nonlocal fault
        now, fault = (fault, Fault.NONE) if operation == call else (Fault.NONE, fault)
        return now

    node = Node(snapshot=copy)
    snapshot = node.persistence._snapshot
    assert snapshot is not None
    snapshot._store = snapshot._caller._store = faulty = FaultyStore(snapshot._store, choose)
    async with running(node):
        node.put("alice", HOSTS[0])
        await until(kept(node))
        fault = Fault.STUCK_AFTER
        await node.operations.hosts.update(HOSTS[0], 5, reason="test")
        node.put("alice", HOSTS[1], decided=NOW + 1)
        await faulty.stuck.wait()
        await node.operations.hosts.update(HOSTS[0], 6, reason="test")
        node.put("alice", HOSTS[2], decided=NOW + 2)
    async with running(Node(snapshot=copy)) as again:
        assert again.director.hosts.rows[Address(HOSTS[0])].weight == 6
        assert again.host("alice") == HOSTS[2]
