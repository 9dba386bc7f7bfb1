"""Loading, writing behind, outages, claims: against real SQLite files and real Redis servers."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest

from director.core.placement.assign import Gate
from director.core.placement.names import entries_in, entry
from director.core.placement.users import BUCKET_SHIFT, BUCKETS
from director.core.protocol.events import (
    Claimed,
    ClaimFailed,
    Event,
    Leases,
    Lookup,
    Stopping,
    TimerFired,
)
from director.core.protocol.messages import HostRow
from director.core.tables.hosts import decode_rows, encode_rows
from director.stored.bucketwriter import NAMES_AT_ONCE
from director.stored.pace import FLUSH_WITHIN, Age, rest_after
from director.types import MemberId, RequestId, UserKey
from state.base import (
    EMPTY_VERSION,
    AuditEntry,
    Bucket,
    Lease,
    SchemaTooNew,
    Space,
    StoreUnavailable,
)
from tests.servers import RedisServer
from tests.unit.service.parts import (
    EXPIRE,
    HOSTS,
    ME,
    OTHER,
    Node,
    bucket_of,
    carried_out,
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
NOW = int(time.time())
BAD_ROW = encode_rows([HostRow("127.0.3.1", "", True, 0, "", 0, -1, 0, True, 0)])


@asynccontextmanager
async def in_a_ring_of_two(url: str) -> AsyncIterator[Node]:
    """A node with another member in its ring, which holds a lease."""
    async with opened(url) as store:
        await store.renew(Lease(member=OTHER, ring_address=OTHER, incarnation=1, synced=True), 60)
    async with running(Node(url, members=[ME, OTHER])) as node:
        node.director.barrier.ring = (ME, OTHER)
        node.handle(TimerFired())
        await until(lambda: node.persistence.core.usual.ring == (ME, OTHER) and not node.director.partial)
        yield node


def name_in_bucket_of(writer: MemberId, node: Node) -> str:
    """A user whose bucket this member usually writes."""
    mine = node.persistence.core.usual.is_ours
    return next(n for n in map("user{}".format, range(1000)) if mine(bucket_of(n)) is (writer == ME))


# ---- start and stop


async def test_what_was_assigned_and_changed_is_there_after_a_restart(url: str) -> None:
    async with running(Node(url)) as node:
        for number in range(500):
            node.put(f"user{number}", HOSTS[number % 3])
        await node.operations.hosts.update(HOSTS[0], 7, reason="test")
        await node.operations.hosts.set_up(HOSTS[1], up=False, reason="test")
    async with running(Node(url)) as again:
        await until(lambda: again.persistence.loaded)
        assert again.persistence.loaded_users == 500
        assert [again.host(f"user{number}") for number in range(500)] == [HOSTS[n % 3] for n in range(500)]
        assert [(h.weight, h.up) for h in await again.operations.queries.hosts()] == [
            (7, True),
            (100, False),
            (100, True),
        ]


async def test_a_failure_of_the_director_while_the_store_is_read_ends_the_process_by_its_name() -> None:
    """Symptom: the process ended with `KeyError: 15`, the number of a call."""
    node = Node()
    await node.persistence.open()

    def fail(event: Event) -> None:
        raise ZeroDivisionError

    node.mailbox.handle = fail  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup) as raised:
        await node.persistence.run()
    assert raised.group_contains(ZeroDivisionError)
    await node.store.close()


async def test_a_user_who_logs_in_during_the_load_gets_their_host_before_all_users_are_read(url: str) -> None:
    async with opened(url) as store:
        stored = user("alice", HOSTS[2], decided=NOW, seen=NOW)
        await swap(store, bucket_of("alice"), packed(stored))
    node = Node(url)
    go_on = anyio.Event()
    load_buckets = node.store.load_buckets

    async def slowly(space: Space) -> AsyncIterator[list[Bucket]]:
        async for batch in load_buckets(space):
            await go_on.wait()
            yield batch

    node.store.load_buckets = slowly  # type: ignore[method-assign]
    await node.persistence.open()
    node.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.persistence.run)
        await until(lambda: node.director.assigner.gate is Gate.OPEN)
        node.handle(Lookup(RequestId(1), key_of("alice"), b"", b"alice"))
        node.handle(TimerFired())
        await until(lambda: node.host("alice") == HOSTS[2])
        assert node.director.loading
        assert len(node.director.pending) == 0
        go_on.set()
        await until(lambda: node.persistence.loaded)
        assert node.persistence.loaded_users == 1
        tasks.cancel_scope.cancel()
    node.driver.stop()
    await node.persistence.stop()


async def test_what_changed_is_written_without_being_waited_for(url: str) -> None:
    async with running(Node(url)) as node:
        node.put("alice")
        assert node.persistence.queued == 1
        await clean(node)
    async with opened(url) as store:
        assert key_of("alice") in await stored_users(store)


async def test_a_stop_in_the_middle_writes_the_rest(url: str) -> None:
    async with running(Node(url)) as node:
        await clean(node)
        node.put("last minute")
    async with opened(url) as store:
        assert key_of("last minute") in await stored_users(store)
        assert await store.members() == []


async def test_a_stop_writes_what_was_left_to_another_writer_who_may_be_gone(redis: RedisServer) -> None:
    async with in_a_ring_of_two(redis.url) as node:
        name = name_in_bucket_of(OTHER, node)
        node.put(name)
        await until(lambda: not node.director.users.dirty_count)
        async with opened(redis.url) as store:
            assert await stored_users(store) == {}
    async with opened(redis.url) as store:
        assert key_of(name) in await stored_users(store)


async def test_an_empty_store_is_given_the_configured_hosts(url: str) -> None:
    async with running(Node(url)) as node:
        await clean(node)
    async with opened(url) as store:
        document = await store.read_document("hosts")
    assert document is not None
    assert [row.address for row in decode_rows(document.data)] == HOSTS


async def test_a_store_of_a_newer_program_keeps_the_director_from_starting(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    async with opened(url):
        pass
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as database:
        database.execute("PRAGMA user_version = 99")
        database.execute("UPDATE meta SET schema = 99")
    with pytest.raises(SchemaTooNew):
        await Node(url).persistence.open()


async def test_a_damaged_bucket_is_named_and_left_out(url: str) -> None:
    async with opened(url) as store:
        good = user("alice", HOSTS[0], decided=NOW, seen=NOW)
        await swap(store, bucket_of("alice"), packed(good))
        await swap(store, (bucket_of("alice") + 1) % BUCKETS, b"not a record")
    async with running(Node(url)) as node:
        assert node.host("alice") == HOSTS[0]
        assert len(node.director.users) == 1
        assert len(node.logged("store_bucket_damaged")) == 1


@pytest.mark.parametrize("data", [b"\xff", b"\x91" * 5000, BAD_ROW], ids=["garbage", "nested", "bad row"])
async def test_a_damaged_host_document_is_named_and_written_again(url: str, data: bytes) -> None:
    async with opened(url) as store:
        await store.swap_document("hosts", EMPTY_VERSION, data)
    async with running(Node(url)) as node:
        await clean(node)
        assert len(node.logged("store_document_damaged")) == 1
    async with opened(url) as store:
        document = await store.read_document("hosts")
    assert document is not None
    assert len(decode_rows(document.data)) == 3


# ---- two writers


@pytest.mark.shows("S-25")
@pytest.mark.parametrize("damaged", [b"damaged", b"\x90"], ids=["unreadable", "readable"])
async def test_a_document_damaged_behind_its_version_is_named_and_written_again(
    tmp_path: Path, damaged: bytes
) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    async with running(Node(url)) as node:
        await clean(node)
    async with opened(url) as store:
        before = await store.read_document("hosts")
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as db:
        db.execute("UPDATE document SET data = ? WHERE name = 'hosts'", (damaged,))
    db.close()
    async with running(Node(url)) as node:
        assert "the content does not fit the version" in node.logged("store_document_damaged")[0]
        await clean(node)
    async with opened(url) as store:
        assert await store.read_document("hosts") == before


async def test_what_another_wrote_into_a_bucket_meanwhile_is_kept(redis: RedisServer) -> None:
    async with running(Node(redis.url)) as node, opened(redis.url) as other:
        await clean(node)
        theirs = user("alice", HOSTS[1], decided=NOW, seen=NOW)._replace(key=UserKey(key_of("bob") ^ 1))
        await swap(other, bucket_of("bob"), packed(theirs))
        node.put("bob")
        await clean(node)
        assert set(await stored_users(other)) == {theirs.key, key_of("bob")}
        assert node.director.users.get(theirs.key) is not None


@pytest.mark.shows("rule 32")
async def test_the_usual_writer_writes_and_the_director_that_takes_over_writes_the_rest(
    redis: RedisServer,
) -> None:
    async with in_a_ring_of_two(redis.url) as node, opened(redis.url) as store:
        mine, theirs = name_in_bucket_of(ME, node), name_in_bucket_of(OTHER, node)
        node.put(mine)
        node.put(theirs)
        await clean(node)
        assert set(await stored_users(store)) == {key_of(mine)}
        await store.release(OTHER)
        node.director.barrier.ring = (ME,)
        node.handle(Leases(frozenset({ME})))
        with anyio.fail_after(10):
            while set(await stored_users(store)) != {key_of(mine), key_of(theirs)}:
                pass


# ---- outages


@pytest.mark.shows("rule 31")
async def test_a_store_that_is_unreachable_at_the_start_is_joined_later_and_both_are_merged(
    redis: RedisServer,
) -> None:
    async with opened(redis.url) as store:
        known = user("known", HOSTS[2], decided=NOW, seen=NOW)
        await swap(store, bucket_of("known"), packed(known))
    port = redis.folder / "elsewhere"
    redis.socket.rename(port)
    async with running(Node(redis.url)) as node:
        assert not node.persistence.up
        assert len(node.logged("store_unreachable")) == 1
        node.put("early")
        await until(lambda: node.persistence.errors.get("write", 0) >= 2)
        port.rename(redis.socket)
        await until(lambda: node.persistence.up)
        assert node.host("known") == HOSTS[2]
        async with opened(redis.url) as store:
            assert set(await stored_users(store)) == {key_of("known"), key_of("early")}
        assert len(node.logged("store_unreachable")) == len(node.logged("store_reachable")) == 1


async def test_users_read_at_the_start_are_counted_where_the_store_went_away_in_the_middle(url: str) -> None:
    """Symptom: warm_start_users stayed 0 after that."""
    names = [f"user{number}" for number in range(2000)]
    async with running(Node(url)) as node:
        for name in names:
            node.put(name)
        await clean(node)
    node = Node(url)
    load_buckets = node.store.load_buckets

    async def half(space: Space) -> AsyncIterator[list[Bucket]]:
        async for batch in load_buckets(space):
            yield batch
            raise StoreUnavailable(node.store.url, "load", reason="cut")

    node.store.load_buckets = half  # type: ignore[method-assign]
    async with running(node):
        await until(lambda: node.persistence.loaded)
        assert node.persistence.loaded_users == len(names)
        assert node.persistence.info().loaded_users == len(names)


async def test_an_outage_is_logged_once_queues_bucket_numbers_only_and_ends_with_everything_stored(
    redis: RedisServer,
) -> None:
    async with running(Node(redis.url)) as node:
        await clean(node)
        redis.kill()
        for number in range(20_000):
            node.put(f"user{number}")
        await until(lambda: node.persistence.errors.get("write", 0) >= 2)
        assert node.persistence.queued <= BUCKETS
        assert not node.persistence.info().up
        assert (
            not await node.persistence.documents.wait_operators_stored(0.0)
            or node.persistence.documents.operators_stored
        )
        redis.start()
        await until(lambda: node.persistence.up)
        await clean(node)
        async with opened(redis.url) as store:
            assert len(await stored_users(store)) == 20_000
        assert len(node.logged("store_unreachable")) == len(node.logged("store_reachable")) == 1
        assert [event.holders for event in node.events if isinstance(event, Leases)][-1] == frozenset({ME})


@pytest.mark.shows("rule 30")
async def test_a_store_that_lost_everything_is_written_again(redis: RedisServer) -> None:
    async with running(Node(redis.url, lease_ttl=0.3)) as node:
        node.put("alice")
        await clean(node)
        redis.command("FLUSHALL")
        await until(lambda: node.logged("store_replaced"))
        await until(lambda: node.persistence.up)
        async with opened(redis.url) as store:
            assert key_of("alice") in await stored_users(store)
            assert await store.read_document("hosts") is not None


async def test_a_store_that_cannot_take_writes_does_not_come_and_go(tmp_path: Path) -> None:
    with RedisServer(options={"maxmemory": "3mb"}) as redis:
        async with running(Node(redis.url)) as node:
            await clean(node)
            redis.command("CONFIG", "SET", "maxmemory", "1")
            node.put("alice")
            await until(lambda: sum(node.persistence.errors.values()) >= 3)
            assert len(node.logged("store_unreachable")) == 1
            assert node.logged("store_reachable") == []
            redis.command("CONFIG", "SET", "maxmemory", "0")
            await until(lambda: node.persistence.up)


async def test_an_operators_change_says_that_it_is_not_stored_while_the_store_is_unreachable(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("director.service.persistence.unstored.STORE_WAIT", 0.05)
    async with running(Node(redis.url)) as node:
        assert (await node.operations.hosts.update(HOSTS[0], 50, reason="with")).stored
        redis.kill()
        assert not (await node.operations.hosts.update(HOSTS[0], 60, reason="without")).stored
        redis.start()
        await until(lambda: node.persistence.up and not node.persistence.core.steps.audit)
        async with opened(redis.url) as store:
            document = await store.read_document("hosts")
            entries = await store.audit(10)
    assert document is not None
    assert decode_rows(document.data)[0].weight == 60
    assert [entry.reason for entry in entries] == ["without", "with"]


async def test_an_audit_that_cannot_be_written_drops_its_oldest_entries(redis: RedisServer) -> None:
    async with running(Node(redis.url)) as node:
        redis.kill()
        for number in range(1500):
            node.persistence.audit(AuditEntry(at=NOW, who="me", what="test", target=str(number)))
        redis.start()
        await until(lambda: node.persistence.up and not node.persistence.core.steps.audit)
        async with opened(redis.url) as store:
            targets = [entry.target for entry in await store.audit(2000)]
    assert targets == [str(number) for number in range(1499, 499, -1)]


# ---- leases and claims


async def test_a_lease_is_kept_as_long_as_the_director_runs(redis: RedisServer) -> None:
    async with running(Node(redis.url, lease_ttl=0.3)) as node, opened(redis.url) as store:
        renewed = len([event for event in node.events if isinstance(event, Leases)])
        await until(lambda: len([e for e in node.events if isinstance(e, Leases)]) >= renewed + 5)
        assert [lease.member for lease in await store.members()] == [ME]
    async with opened(redis.url) as store:
        assert await store.members() == []


def candidate(name: str, host: str) -> bytes:
    return packed(user(name, host, decided=NOW, seen=NOW))


def claimed(node: Node) -> Callable[[], set[int]]:
    return lambda: {event.key for event in node.events if isinstance(event, Claimed)}


async def test_a_claim_enters_the_candidate_if_the_store_has_no_assignment(redis: RedisServer) -> None:
    async with running(Node(redis.url)) as node, opened(redis.url) as store:
        node.persistence.claim(key_of("alice"), candidate("alice", HOSTS[1]))
        await until(lambda: claimed(node)() == {key_of("alice")})
        assert node.host("alice") == HOSTS[1]
        assert set(await stored_users(store)) == {key_of("alice")}


async def test_a_claim_without_a_candidate_takes_an_unexpired_assignment_and_enters_none(
    redis: RedisServer,
) -> None:
    async with running(Node(redis.url)) as node, opened(redis.url) as store:
        theirs = user("alice", HOSTS[2], decided=NOW - 100, seen=NOW - 100)
        await swap(store, bucket_of("alice"), packed(theirs))
        for name in ("alice", "bob"):
            node.persistence.claim(key_of(name), b"")
        await until(lambda: claimed(node)() == {key_of("alice"), key_of("bob")})
        assert (node.host("alice"), node.host("bob")) == (HOSTS[2], None)
        assert set(await stored_users(store)) == {key_of("alice")}


@pytest.mark.shows("rule 16")
async def test_a_claim_takes_the_unexpired_assignment_in_the_store(redis: RedisServer) -> None:
    async with running(Node(redis.url)) as node, opened(redis.url) as store:
        theirs = user("alice", HOSTS[2], decided=NOW - 100, seen=NOW - 100)
        await swap(store, bucket_of("alice"), packed(theirs))
        node.persistence.claim(key_of("alice"), candidate("alice", HOSTS[1]))
        await until(claimed(node))
        assert node.host("alice") == HOSTS[2]


async def test_a_claim_replaces_an_expired_assignment_although_it_was_decided_later(
    redis: RedisServer,
) -> None:
    async with running(Node(redis.url)) as node, opened(redis.url) as store:
        dead = user("alice", HOSTS[2], decided=NOW + 50, seen=NOW - EXPIRE - 50)
        await swap(store, bucket_of("alice"), packed(dead))
        node.persistence.claim(key_of("alice"), candidate("alice", HOSTS[1]))
        await until(claimed(node))
        assert node.host("alice") == HOSTS[1]
        assert (await stored_users(store))[key_of("alice")].decided == NOW + 51


async def test_a_thousand_claims_of_two_directors_come_to_the_same(redis: RedisServer) -> None:
    names = [f"user{number}" for number in range(1000)]
    async with running(Node(redis.url)) as node, running(Node(redis.url, me=OTHER)) as other:
        for name, elsewhere in zip(names, reversed(names), strict=True):
            node.persistence.claim(key_of(name), candidate(name, HOSTS[0]))
            other.persistence.claim(key_of(elsewhere), candidate(elsewhere, HOSTS[1]))
        keys = set(map(key_of, names))
        await until(lambda: claimed(node)() == claimed(other)() == keys)
        hosts = [(node.host(name), other.host(name)) for name in names]
        assert [pair for pair in hosts if pair[0] != pair[1]] == []
        assert {host for host, _ in hosts} <= {HOSTS[0], HOSTS[1]}


async def test_claims_fail_at_once_while_the_store_is_unreachable(redis: RedisServer) -> None:
    async with running(Node(redis.url)) as node:
        redis.kill()
        keys = [key_of(f"user{number}") for number in range(10)]
        for number, key in enumerate(keys):
            node.persistence.claim(key, candidate(f"user{number}", HOSTS[0]))
        await until(lambda: [e.key for e in node.events if isinstance(e, ClaimFailed)] == keys)
        await until(lambda: not node.persistence.up)
        node.persistence.claim(keys[0], candidate("user0", HOSTS[0]))
        assert node.events[-1] == ClaimFailed(keys[0])
        assert len(node.director.users) == 0


async def test_events_after_the_end_do_no_harm(redis: RedisServer) -> None:
    async with running(Node(redis.url)) as node:
        node.driver.stop()
        node.handle(Stopping())
        node.put("late")
    async with opened(redis.url) as store:
        assert key_of("late") in await stored_users(store)


# ---- how fast


@pytest.mark.parametrize("took", [0.0, 0.05, 0.2, 0.4])
def test_a_change_is_stored_within_a_second_where_a_write_takes_less_than_half_of_it(took: float) -> None:
    assert took + rest_after(took) + took <= FLUSH_WITHIN


@pytest.mark.parametrize(("took", "rest"), [(0.0, 0.2), (0.05, 0.45), (2.0, 1.0)])
def test_the_longer_a_write_takes_the_longer_the_rest(took: float, rest: float) -> None:
    assert rest_after(took) == pytest.approx(rest)


def test_the_age_of_the_oldest_change_counts_until_a_write_has_stored_all() -> None:
    age = Age()
    age.changed(10.0)
    age.collected()
    age.changed(11.0)
    assert age.seconds(12.0) == 2.0
    age.written(everything=False)
    age.collected()
    assert age.seconds(13.0) == 3.0
    age.changed(13.5)
    age.written(everything=True)
    assert age.seconds(14.0) == 0.5
    age.collected()
    age.written(everything=True)
    assert age.seconds(15.0) == 0.0


async def test_the_lag_is_zero_once_all_is_stored_and_grows_while_the_store_is_unreachable(
    redis: RedisServer,
) -> None:
    async with running(Node(redis.url)) as node:
        node.put("alice")
        await until(lambda: node.persistence.lag > 0)
        await until(lambda: node.persistence.lag == 0)
        assert key_of("alice") in await stored_users(node.store)
        redis.kill()
        node.put("bob")
        await until(lambda: node.persistence.info().lag > 0.3)
        redis.start()
        await until(lambda: node.persistence.lag == 0)
        assert key_of("bob") in await stored_users(node.store)


async def test_users_are_written_between_the_names_of_many(redis: RedisServer) -> None:
    node = Node(redis.url)
    async with running(node):
        names = {number << BUCKET_SHIFT | 1 << 32: b"username" for number in range(BUCKETS)}
        node.director.names.add(b"".join(entry(UserKey(key), name) for key, name in names.items()))
        writing = node.persistence.core.writer
        turns = 0
        while not await carried_out(node, writing.write_names()):
            turns += 1
            node.put(f"user{turns}")
            await clean(node)
        assert turns == BUCKETS // NAMES_AT_ONCE - 1
    async with opened(redis.url) as store:
        assert len(await store.versions("names")) == BUCKETS
        assert len(await stored_users(store)) == turns


async def test_a_director_that_stops_writes_all_names(url: str) -> None:
    async with running(Node(url)) as node:
        writing = node.persistence.core.writer
        for first in (1, 2):  # the second time some of the first are still queued
            names = [UserKey(number << BUCKET_SHIFT | first << 32) for number in range(BUCKETS)]
            node.director.names.add(b"".join(entry(key, b"username") for key in names))
            assert not await carried_out(node, writing.write_names())
    async with opened(url) as store:
        found = [bucket async for batch in store.load_buckets("names") for bucket in batch]
        assert len(found) == BUCKETS
        assert {len(list(entries_in(bucket.blob))) for bucket in found} == {2}
