"""Sweeping the store: against real SQLite files and real Redis servers."""

from __future__ import annotations

import time
from collections.abc import Sequence

import anyio
import pytest

from director.core.placement.names import entry
from director.core.placement.users import BUCKETS
from director.core.protocol.events import Leases, TimerFired
from director.types import UserKey
from state.base import EMPTY_VERSION, Lost, StateStore, Swap, Swapped
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
NOW = int(time.time())
LONG_AGO = NOW - 4 * EXPIRE


async def put(store: StateStore, name: str, *, seen: int) -> None:
    await swap(store, bucket_of(name), packed(user(name, HOSTS[0], decided=seen, seen=seen)))


async def put_name(store: StateStore, name: str) -> None:
    swaps = [Swap("names", bucket_of(name), EMPTY_VERSION, entry(key_of(name), name.encode()))]
    assert isinstance((await store.swap_buckets(swaps))[0], Swapped)


@pytest.mark.shows("rule 18", "S-36")
async def test_expired_assignments_are_deleted_from_a_bucket_that_no_director_writes(url: str) -> None:
    async with running(Node(url)) as node:
        await clean(node)
        await put(node.store, "alice", seen=LONG_AGO)
        await put(node.store, "bob", seen=NOW)
        await node.persistence.sweeping.walk(0)
        assert set(await stored_users(node.store)) == {key_of("bob")}
        assert node.persistence.sweeping.swept == {"users": 1, "names": 0}
        assert len(node.logged("store_swept")) == 1


async def test_nothing_is_swept_of_users_for_a_while_after_the_clock_has_stepped(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(Node(url)) as node:
        await clean(node)
        await put(node.store, "alice", seen=NOW)
        node.handle(TimerFired())
        true_time = time.time
        monkeypatch.setattr(time, "time", lambda: true_time() + 86_400)
        node.handle(TimerFired())
        assert len(node.logged("clock_stepped")) == 1
        await node.persistence.sweeping.walk(0)
        assert set(await stored_users(node.store)) == {key_of("alice")}


async def test_nothing_is_swept_of_users_while_a_living_director_is_outside_the_ring(url: str) -> None:
    async with running(Node(url, members=[ME, OTHER])) as node:
        await clean(node)
        await put(node.store, "alice", seen=LONG_AGO)
        node.handle(Leases(frozenset({ME, OTHER})))
        assert node.director.partial
        await node.persistence.sweeping.walk(0)
        assert set(await stored_users(node.store)) == {key_of("alice")}


@pytest.mark.shows("S-37")
async def test_the_name_of_an_unassigned_user_is_deleted(url: str) -> None:
    async with running(Node(url)) as node:
        await clean(node)
        await put_name(node.store, "alice")
        await put_name(node.store, "bob")
        node.put("bob")
        await node.persistence.sweeping.walk(0)
        assert set(await node.store.versions("names")) == {bucket_of("bob")}


@pytest.mark.shows("S-37")
async def test_names_stay_while_users_elsewhere_may_not_be_known_here(url: str) -> None:
    async with running(Node(url)) as node:
        await clean(node)
        await put_name(node.store, "alice")
        node.director._startup.begin()
        await node.persistence.sweeping.walk(0)
        assert set(await node.store.versions("names")) == {bucket_of("alice")}


async def test_what_is_no_bucket_of_users_is_left_as_it_is(url: str) -> None:
    async with running(Node(url)) as node:
        await clean(node)
        await swap(node.store, 7, b"the marker of a split bucket")
        await node.persistence.sweeping.walk(0)
        (bucket,) = await node.store.read_buckets("users", [7])
        assert bucket.blob == b"the marker of a split bucket"


@pytest.mark.shows("S-38")
async def test_a_bucket_that_was_written_meanwhile_is_left_for_the_next_walk(url: str) -> None:
    async with running(Node(url)) as node:
        await clean(node)
        await put(node.store, "alice", seen=LONG_AGO)
        swap_buckets = node.store.swap_buckets
        late = user("bob", HOSTS[0], decided=NOW, seen=NOW)._replace(key=UserKey(key_of("alice") ^ 1))
        ghost = user("alice", HOSTS[0], decided=LONG_AGO, seen=LONG_AGO)

        async def after_another(swaps: Sequence[Swap]) -> list[Swapped | Lost]:
            node.store.swap_buckets = swap_buckets  # type: ignore[method-assign]
            await swap(node.store, bucket_of("alice"), packed(ghost, late))
            return await swap_buckets(swaps)

        node.store.swap_buckets = after_another  # type: ignore[method-assign]
        await node.persistence.sweeping.walk(0)
        assert set(await stored_users(node.store)) == {ghost.key, late.key}
        await node.persistence.sweeping.walk(0)
        assert set(await stored_users(node.store)) == {late.key}


async def test_buckets_of_which_nothing_is_due_are_not_read_again_until_they_change(url: str) -> None:
    async with running(Node(url)) as node:
        await clean(node)
        await put(node.store, "alice", seen=NOW)
        await put(node.store, "bob", seen=NOW)
        asked: list[int] = []
        read_buckets = node.store.read_buckets

        async def noting(space: str, numbers: Sequence[int]) -> object:
            asked.extend(numbers)
            return await read_buckets(space, numbers)  # type: ignore[arg-type]

        node.store.read_buckets = noting  # type: ignore[assignment, method-assign]
        await node.persistence.sweeping.walk(0)
        assert sorted(asked) == sorted([bucket_of("alice"), bucket_of("bob")])
        asked.clear()
        await put(node.store, "bob", seen=NOW + EXPIRE)
        asked.clear()
        await node.persistence.sweeping.walk(0)
        assert asked == [bucket_of("bob")]


@pytest.mark.shows("S-38")
async def test_sweeping_takes_nothing_from_what_is_written_at_the_same_time(redis: RedisServer) -> None:
    """Half of the users are gone, the others are stored by their director while the walk goes on."""
    async with opened(redis.url) as store:
        gone = [user(f"gone{number}", HOSTS[0], decided=LONG_AGO, seen=LONG_AGO) for number in range(2000)]
        blobs: dict[int, list[object]] = {}
        for one in gone:
            blobs.setdefault(one.key >> 52, []).append(one)
        for number, users in blobs.items():
            await swap(store, number, packed(*users))  # type: ignore[arg-type]
    async with running(Node(redis.url)) as node, running(Node(redis.url, me=OTHER)) as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.persistence.sweeping.walk, 0)
            for number in range(2000):
                node.put(f"user{number}")
                if number % 100 == 0:
                    await anyio.sleep(0.01)
        await clean(node)
        await clean(other)
        await other.persistence.sweeping.walk(0)
        stored = set(await stored_users(node.store))
        assert stored & {one.key for one in gone} == set()
        assert stored == {key_of(f"user{number}") for number in range(2000)}
    assert len(blobs) < BUCKETS


@pytest.mark.shows("S-38")
async def test_one_director_sweeps_and_another_takes_over_when_it_stops(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("director.service.persistence.sweeper.ASK_SECONDS", 0.1)
    async with running(Node(redis.url, me=OTHER)) as other:
        async with running(Node(redis.url)) as node:
            both = (node.persistence.sweeping, other.persistence.sweeping)
            await until(lambda: sorted(one.holds for one in both) == [False, True])
            await anyio.sleep(1.5)  # the second director has asked, and was refused
            assert sorted(one.holds for one in both) == [False, True]
        await until(lambda: other.persistence.sweeping.holds)


@pytest.mark.shows("S-38")
async def test_a_sweeper_that_loses_the_lock_stops_and_logs_it(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("director.service.persistence.sweeper.ASK_SECONDS", 0.1)
    async with running(Node(redis.url)) as node:
        await until(lambda: node.persistence.sweeping.holds)
        redis.command("SET", "lock:dd:{lock}sweep", "another holder")
        await until(lambda: node.logged("sweep_failed"))
        await until(lambda: not node.persistence.sweeping.holds)
        assert node.persistence.up
