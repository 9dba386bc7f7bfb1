"""Locks of each store: a lock has one holder at a time. Taking, losing and passing on a lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest
import redis
from anyio import to_thread

from state.base import LockLost, StateStore, StoreError, StoreUnavailable
from state.locks import RedisLock, let_go, take, while_held
from tests.contract.conftest import Stores, until
from tests.groups import ClusterGroup, SentinelGroup
from tests.servers import RedisServer

pytestmark = pytest.mark.anyio

KEY = "lock:dd:{lock}sweep"
SHORT = 1
"""Seconds after which a lock lapses if it is not renewed, in tests that wait for this."""

HOLDER = """
import sys, time, redis
from state.locks import RedisLock
lock = RedisLock(redis.Redis(unix_socket_path=sys.argv[1]), "dd:", "sweep", "redis", expire=1)
assert lock.take(1)
print("held", flush=True)
sys.stdin.readline()
print("lost" if lock.lost else "held", flush=True)
"""


@contextmanager
def client_of(server: RedisServer) -> Iterator[redis.Redis]:
    client = redis.Redis(unix_socket_path=str(server.socket), socket_timeout=2.0)
    yield client
    client.close()


def lock_at(client: redis.Redis, task: str = "sweep") -> RedisLock:
    return RedisLock(client, "dd:", task, "redis", expire=SHORT)


async def hold_until_lost(lock: RedisLock) -> float:
    """Hold a taken lock until it is lost, and return how many seconds that took."""
    begun = time.monotonic()
    with anyio.fail_after(10), pytest.raises(LockLost, match="sweep"):
        async with while_held(lock):
            await anyio.sleep_forever()
    await let_go(lock)
    return time.monotonic() - begun


# ---- every store


@pytest.mark.shows("S-33")
async def test_a_lock_has_one_holder_and_is_free_after_release(store: StateStore) -> None:
    async with store.hold("sweep") as held:
        async with store.hold("sweep") as second, store.hold("rebucket") as other:
            assert (second, held is not None, other is not None) == (None, True, True)
    async with store.hold("sweep") as again:
        assert again is not None


async def test_each_new_holder_of_a_lock_gets_a_higher_generation(store: StateStore) -> None:
    generations = []
    for _ in range(3):
        async with store.hold("sweep") as held:
            assert held is not None
            generations.append(held.generation)
    assert generations == sorted(set(generations))


@pytest.mark.shows("S-33")
async def test_an_error_in_locked_work_is_raised_unchanged_and_the_lock_is_free(store: StateStore) -> None:
    with pytest.raises(KeyError):
        async with store.hold("sweep"):
            raise KeyError
    async with store.hold("sweep") as held:
        assert held is not None
        assert not held.lost


@pytest.mark.shows("S-33")
async def test_cancelled_work_leaves_its_lock_free(store: StateStore) -> None:
    with anyio.move_on_after(0.05):
        async with store.hold("sweep"):
            await anyio.sleep_forever()
    async with store.hold("sweep") as held:
        assert held is not None


async def test_a_lock_name_follows_the_rules_of_a_document_name(store: StateStore) -> None:
    with pytest.raises(ValueError, match="task 'no such'"):
        async with store.hold("no such"):
            pass


async def test_a_store_that_is_not_open_takes_no_lock(store: StateStore) -> None:
    await store.close()
    with pytest.raises(StoreUnavailable):
        async with store.hold("sweep"):
            pass


# ---- Redis


async def test_one_of_two_directors_holds_the_lock(redis_server: RedisServer, stores: Stores) -> None:
    one, other = await stores.open(redis_server.url), await stores.open(redis_server.url)
    async with one.hold("sweep") as held, other.hold("sweep") as second:
        assert (held is not None, second) == (True, None)


@pytest.mark.shows("S-34")
async def test_a_lock_whose_key_was_deleted_is_noticed_at_the_next_renewal_and_the_work_is_stopped(
    redis_server: RedisServer,
) -> None:
    with client_of(redis_server) as client:
        lock = lock_at(client)
        assert await take(lock, 0.0)
        client.delete(KEY)
        await hold_until_lost(lock)
        assert lock.lost


@pytest.mark.shows("S-34")
async def test_a_lock_taken_by_another_director_is_lost_and_not_released(redis_server: RedisServer) -> None:
    with client_of(redis_server) as client:
        lock = lock_at(client)
        assert await take(lock, 0.0)
        client.set(KEY, "another holder", ex=30)
        await hold_until_lost(lock)
        assert client.get(KEY) == b"another holder"


async def test_a_renewed_lock_outlives_its_first_term(redis_server: RedisServer) -> None:
    with client_of(redis_server) as client:
        lock = lock_at(client)
        assert await take(lock, 0.0)
        async with while_held(lock):
            await anyio.sleep(2 * SHORT)
            assert not lock.lost
        await let_go(lock)
        assert client.exists(KEY) == 0


@pytest.mark.shows("S-34")
async def test_a_holder_loses_its_lock_when_the_server_hangs_though_no_renewal_was_refused(
    own_redis: RedisServer,
) -> None:
    with client_of(own_redis) as client:
        lock = lock_at(client)
        assert await take(lock, 0.0)
        own_redis.freeze()
        try:
            with anyio.fail_after(10), pytest.raises(LockLost):
                async with while_held(lock):
                    await anyio.sleep_forever()
        finally:
            own_redis.thaw()
        await let_go(lock)


def holder_process(server: RedisServer) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", HOLDER, str(server.socket)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.shows("S-34")
async def test_a_suspended_holder_finds_its_lock_lost_when_it_resumes(
    redis_server: RedisServer, stores: Stores
) -> None:
    store = await stores.open(redis_server.url)
    with holder_process(redis_server) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        async with store.hold("sweep") as held:
            assert held is None
        os.kill(holder.pid, signal.SIGSTOP)
        try:
            await until(lambda: is_free(store))
            async with store.hold("sweep") as held:
                assert held is not None
        finally:
            os.kill(holder.pid, signal.SIGCONT)
        answer, _ = await to_thread.run_sync(lambda: holder.communicate(b"\n", timeout=10))
    assert answer == b"lost\n"


async def is_free(store: StateStore) -> bool:
    async with store.hold("sweep") as held:
        return held is not None


@pytest.mark.shows("S-35")
async def test_a_former_holder_records_nothing_though_the_lock_has_its_value(
    redis_server: RedisServer,
) -> None:
    with client_of(redis_server) as client:
        lock = lock_at(client)
        assert await take(lock, 0.0)
        client.hset("dd:meta", "generation:sweep", str(lock.generation + 1))
        with pytest.raises(LockLost):
            lock.record("schema", "7")
        await let_go(lock)
        assert client.hget("dd:meta", "schema") is None


@pytest.mark.shows("S-35")
async def test_the_generation_rises_even_after_the_store_lost_all_data(
    redis_server: RedisServer,
) -> None:
    generations = []
    with client_of(redis_server) as client:
        for _ in range(2):
            lock = lock_at(client)
            assert await take(lock, 0.0)
            generations.append(lock.generation)
            await let_go(lock)
            redis_server.command("FLUSHALL")
    assert generations == sorted(set(generations))


async def test_a_store_unreachable_during_locked_work_is_reported_by_the_work_not_by_the_lock(
    own_redis: RedisServer, stores: Stores
) -> None:
    store = await stores.open(own_redis.url)

    async def work() -> None:
        async with store.hold("sweep"):
            own_redis.kill()
            await store.versions("users")

    with pytest.raises(StoreUnavailable, match="versions"):
        await work()
    own_redis.start()


@pytest.mark.shows("S-34")
async def test_a_lock_lost_in_a_failover_is_noticed(sentinels: SentinelGroup, stores: Stores) -> None:
    sentinels.flush()
    store = await stores.open(sentinels.url, timeout=1.0)
    old = sentinels.primary()
    replicas = [server for server in sentinels.servers if server is not old]
    for replica in replicas:
        replica.freeze()
    old.command("CLIENT", "KILL", "TYPE", "replica")  # later writes never reach the replicas

    async def work() -> None:
        async with store.hold("sweep") as held:
            assert held is not None
            old.kill()
            for replica in replicas:
                replica.thaw()
            await anyio.sleep_forever()

    try:
        with anyio.fail_after(30), pytest.raises(LockLost):
            await work()
    finally:
        for replica in replicas:
            replica.thaw()
        await to_thread.run_sync(sentinels.heal, old)


async def test_a_lock_survives_a_switch_to_a_replica_that_has_it(
    cluster: ClusterGroup, stores: Stores
) -> None:
    cluster.flush()
    store, other = await stores.open(cluster.url), await stores.open(cluster.url)
    async with store.hold("sweep") as held:
        assert isinstance(held, RedisLock)
        keeper = cluster.keeper(KEY)
        await to_thread.run_sync(cluster.switch_to, cluster.replica_of(keeper))
        until = time.monotonic() + held.remaining
        with anyio.fail_after(20):
            while time.monotonic() + held.remaining <= until + 1:  # noqa: ASYNC110 - until it is renewed
                await anyio.sleep(0.02)
        assert not held.lost
        async with other.hold("sweep") as second:
            assert second is None


async def test_taking_a_lock_on_an_unreachable_server_fails(own_redis: RedisServer, stores: Stores) -> None:
    store = await stores.open(own_redis.url)
    own_redis.kill()
    with pytest.raises(StoreError, match="hold"):
        async with store.hold("sweep"):
            pass
    own_redis.start()
