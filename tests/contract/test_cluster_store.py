"""Behaviour of a store on a Cluster only: keys are on several nodes, and move from one node to another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from state.base import EMPTY_VERSION, StateStore, StoreRefused, StoreUnavailable, Swap, Swapped, version_of
from state.bucketnumbers import BUCKETS
from state.urls import open_store
from tests.contract.conftest import Stores, failure_of_open, until
from tests.contract.load import NUMBERS, stored, together, wait_for_writes, writing
from tests.groups import LOCAL, ClusterGroup, slot_of
from tests.rights import PASSWORD
from tests.servers import RedisServer, free_port

pytestmark = pytest.mark.anyio

FAILOVER_WITHIN = 10.0
X = Swapped(version_of(b"x"))


def put(number: int, blob: bytes, *, over: bytes = b"") -> Swap:
    return Swap("users", number, version_of(over), blob)


def key(number: int) -> str:
    return f"dd:{{u{number >> 6:02x}}}{number:03x}"


@pytest.fixture
def empty(cluster: ClusterGroup) -> ClusterGroup:
    cluster.wait_until_complete()
    cluster.flush()
    return cluster


@pytest.fixture
async def store(empty: ClusterGroup, stores: Stores) -> StateStore:
    return await stores.open(empty.url, timeout=1.0)


class Move:
    """The slot of a bucket, on its way from one node to another."""

    def __init__(self, cluster: ClusterGroup, number: int) -> None:
        self.cluster, self.slot = cluster, slot_of(key(number))
        self.source = cluster.keeper(key(number))
        self.target = next(server for server in cluster.primaries() if server is not self.source)
        cluster.begin_move(self.slot, self.source, self.target)

    def some(self, count: int) -> int:
        """Move at most `count` keys, and return how many were found to move."""
        return self.cluster.move_keys(self.slot, self.source, self.target, count)

    def end(self) -> None:
        while self.some(100):
            pass
        self.cluster.end_move(self.slot, self.source, self.target)


@pytest.fixture
def half_moved(store: StateStore, empty: ClusterGroup) -> Iterator[Move]:
    """The slot of buckets 0 to 63, in the middle of a move."""
    move = Move(empty, 0)
    yield move
    move.end()


# Slots that move


async def test_moving_slots_under_load_costs_no_swap_and_no_error(
    empty: ClusterGroup, stores: Stores
) -> None:
    directors = [await stores.open(empty.url, timeout=5.0) for _ in range(4)]
    async with writing(directors) as writers:

        async def move(number: int) -> None:
            move = await to_thread.run_sync(Move, empty, number)
            while await to_thread.run_sync(move.some, 1):  # with swaps between any two keys
                pass
            await to_thread.run_sync(move.end)

        await anyio.sleep(0.1)
        for number in NUMBERS[::4]:
            await move(number)
        await wait_for_writes(writers)
    for writer in writers:
        await writer.write(NUMBERS)  # swaps that were in progress when the writers ended
    assert [failure for writer in writers for failure in writer.failures] == []
    assert await stored(directors[0]) == together(writers)


async def test_all_buckets_of_a_half_moved_slot_are_read_and_swapped(
    store: StateStore, half_moved: Move
) -> None:
    there = list(range(0, 60, 2))  # the other buckets are at neither node
    await store.swap_buckets([put(number, b"old") for number in there])
    moved = half_moved.some(15)
    at_target = half_moved.target.command("CLUSTER", "COUNTKEYSINSLOT", str(half_moved.slot))
    numbers = range(64)
    before = await store.read_buckets("users", numbers)
    versions = await store.versions("users")
    outcomes = await store.swap_buckets([put(n, b"new", over=b"old" if n in there else b"") for n in numbers])
    after = await store.read_buckets("users", numbers)
    assert (moved, at_target) != (0, b":0\r\n")
    assert {bucket.number for bucket in before if bucket.blob == b"old"} == set(there)
    assert versions == dict.fromkeys(there, version_of(b"old"))
    assert outcomes == [Swapped(version_of(b"new"))] * 64
    assert {bucket.blob for bucket in after} == {b"new"}


async def test_reads_and_swaps_go_through_while_a_slot_stays_half_moved(
    store: StateStore, half_moved: Move
) -> None:
    blobs = [b"%d" % n for n in range(3)]
    for old, new in zip([b"", *blobs], blobs, strict=False):
        half_moved.some(1)
        swaps = [put(number, new, over=old) for number in range(BUCKETS)]
        assert await store.swap_buckets(swaps) == [Swapped(version_of(new))] * BUCKETS


# Nodes that fail


@pytest.mark.shows("S-101")
async def test_a_failover_under_load_loses_no_change_and_has_another_run_id(
    empty: ClusterGroup, stores: Stores
) -> None:
    directors = [await stores.open(empty.url, timeout=1.0) for _ in range(4)]
    watcher = await stores.open(empty.url, timeout=1.0)
    before = await watcher.run_id()
    old = empty.keeper(key(NUMBERS[0]))
    elsewhere = next(n for n in NUMBERS if empty.keeper(key(n)) is not old)
    async with writing(directors) as writers:
        await anyio.sleep(0.2)
        old.kill()

        async def answers() -> bool:
            try:
                await watcher.read_buckets("users", [elsewhere])
                return await watcher.run_id() != before
            except StoreUnavailable:
                return False

        await until(answers, within=FAILOVER_WITHIN)
        await wait_for_writes(writers)
    # As a director does after a change of the run id: it writes all buckets that differ from its memory.
    for writer in writers:
        await writer.write(NUMBERS)
    found = await stored(watcher)
    await to_thread.run_sync(old.start)
    await to_thread.run_sync(empty.wait_until_complete)
    assert found == together(writers)
    assert all(isinstance(failure, StoreUnavailable) for writer in writers for failure in writer.failures)


async def test_a_switch_to_a_replica_and_back_has_another_run_id_each_time_and_costs_no_error(
    store: StateStore, empty: ClusterGroup
) -> None:
    await store.swap_buckets([put(n, b"x") for n in range(BUCKETS)])
    seen = [await store.run_id()]
    old = empty.keeper(key(0))
    replica = empty.replica_of(old)
    for new in (replica, old):
        await to_thread.run_sync(empty.switch_to, new)
        seen.append(await store.run_id())
        assert await store.swap_buckets([put(n, b"x") for n in range(BUCKETS)]) == [X] * BUCKETS
    assert len(set(seen)) == 3


async def test_slots_without_a_node_are_unavailable_and_named(store: StateStore, empty: ClusterGroup) -> None:
    keeper, slot = empty.keeper(key(0)), str(slot_of(key(0)))
    keeper.command("CLUSTER", "DELSLOTS", slot)
    try:
        with pytest.raises(StoreUnavailable, match="CLUSTERDOWN: slots have no primary"):
            await store.swap_buckets([put(0, b"x")])
    finally:
        keeper.command("CLUSTER", "ADDSLOTS", slot)
    await to_thread.run_sync(empty.wait_until_complete)
    assert await store.swap_buckets([put(0, b"x")]) == [X]


async def test_a_node_that_hangs_is_unavailable_within_the_time_out_and_the_others_are_served(
    empty: ClusterGroup, stores: Stores
) -> None:
    store = await stores.open(
        empty.url, timeout=0.4
    )  # shorter than the time after which the other nodes take over
    hanging = empty.keeper(key(0))
    elsewhere = next(n for n in range(0, BUCKETS, 64) if empty.keeper(key(n)) is not hanging)
    hanging.freeze()
    try:
        with pytest.raises(StoreUnavailable) as caught:
            await store.swap_buckets([put(0, b"x")])
        served = await store.swap_buckets([put(elsewhere, b"x")])
    finally:
        hanging.thaw()
    assert caught.value.after == 0.4
    assert served == [X]
    await to_thread.run_sync(empty.wait_until_complete)


async def test_a_cluster_is_found_while_one_of_the_nodes_in_the_url_answers(
    empty: ClusterGroup, stores: Stores
) -> None:
    store = await stores.open(empty.url.replace("@", f"@{LOCAL}:{free_port()},"))
    assert (await store.health()).took < 2


async def test_nodes_that_lost_their_scripts_receive_them_again(
    store: StateStore, empty: ClusterGroup
) -> None:
    for server in empty.primaries():
        server.command("SCRIPT", "FLUSH")
    assert await store.swap_buckets([put(n, b"x") for n in range(BUCKETS)]) == [X] * BUCKETS


# Refused configurations


async def test_a_server_that_is_in_no_cluster_is_refused_with_what_to_do(own_redis: RedisServer) -> None:
    port = free_port()
    own_redis.command("CONFIG", "SET", "port", str(port))
    failure = await failure_of_open(f"redis+cluster://{LOCAL}:{port}")
    assert isinstance(failure, StoreRefused)
    assert failure.code == "NOCLUSTER"
    assert "name it with redis://" in failure.advice


async def test_a_cluster_that_is_named_as_one_server_is_refused_with_what_to_do(
    empty: ClusterGroup,
) -> None:
    server = next(s for s in empty.primaries() if s is not empty.keeper("dd:meta"))
    failure = await failure_of_open(f"redis://{LOCAL}:{server.port}")
    assert isinstance(failure, StoreRefused)
    assert failure.code == "MOVED"
    assert "redis+cluster://" in failure.advice


async def test_a_wrong_password_is_refused_and_never_shown(empty: ClusterGroup) -> None:
    failure = await failure_of_open(empty.url.replace(f":{PASSWORD}@", ":battery-horse@"))
    assert isinstance(failure, StoreRefused)
    assert failure.code == "WRONGPASS"
    assert "battery-horse" not in f"{failure!r} {failure} {failure.__cause__!r} {failure.__cause__}"


async def test_a_missing_right_is_refused_with_what_to_do(empty: ClusterGroup) -> None:
    for server in empty.servers:
        server.command("ACL", "SETUSER", "director", "-cluster|slots")
    try:
        failure = await failure_of_open(empty.url)
    finally:
        for server in empty.servers:
            server.command("ACL", "SETUSER", "director", "+cluster|slots")
    assert isinstance(failure, StoreRefused)
    assert failure.code == "NOPERM"


async def test_a_replica_is_enough_to_find_the_cluster(store: StateStore, empty: ClusterGroup) -> None:
    await store.swap_document("hosts", EMPTY_VERSION, b"h")
    other = open_store(f"redis+cluster://{LOCAL}:{empty.servers[5].port}", base_dir=Path("/"))
    await other.open()
    document = await other.read_document("hosts")
    await other.close()
    assert document is not None
    assert document.data == b"h"
