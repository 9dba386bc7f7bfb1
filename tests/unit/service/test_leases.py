"""Leases and claims of whole directors (in this process, without links) on a real Redis."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import anyio
import pytest

from director.core.placement.assign import Gate
from director.core.placement.users import User, merged
from director.core.protocol.events import Leases, Lookup
from director.core.ring.partition import Standing
from director.stored.routines import WATCH_PARTIAL
from director.types import MemberId, Now, RequestId, UserKey
from state.base import Lease, StateStore, Swap, Swapped
from tests.servers import RedisServer
from tests.unit.service.parts import (
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


def lease_of(member: MemberId) -> Lease:
    return Lease(member=member, ring_address=member, incarnation=1, synced=True)


def leases_seen(node: Node) -> list[frozenset[MemberId] | None]:
    return [event.holders for event in node.events if isinstance(event, Leases)]


# ---- a lease that has lapsed


@pytest.mark.shows("rule 31", "S-40")
async def test_a_director_whose_lease_has_lapsed_reads_before_it_writes(redis: RedisServer) -> None:
    """Here by the store's word; the director itself has not noticed anything."""
    async with running(Node(redis.url, lease_ttl=1.0)) as node, opened(redis.url) as store:
        await clean(node)
        theirs = user("alice", HOSTS[1], decided=NOW, seen=NOW)
        await swap(store, bucket_of("alice"), packed(theirs))
        await store.release(ME)
        await until(lambda: node.logged("lease_lapsed"))
        await until(lambda: node.host("alice") == HOSTS[1])
        assert node.persistence.up


def stall(seconds: float) -> None:
    """Stall the whole process, its event loop included."""
    time.sleep(seconds)


@pytest.mark.shows("rule 31", "S-40")
async def test_a_director_that_was_stalled_for_longer_than_its_lease_reads_before_it_writes(
    redis: RedisServer,
) -> None:
    async with running(Node(redis.url, lease_ttl=0.3)) as node, opened(redis.url) as store:
        await clean(node)
        order: list[str] = []
        read_buckets, swap_buckets = node.store.read_buckets, node.store.swap_buckets

        async def read(space: str, numbers: Sequence[int]) -> object:
            order.append("read")
            return await read_buckets(space, numbers)  # type: ignore[arg-type]

        async def write(swaps: Sequence[Swap]) -> object:
            order.append("write")
            return await swap_buckets(swaps)

        node.store.read_buckets = read  # type: ignore[assignment, method-assign]
        node.store.swap_buckets = write  # type: ignore[assignment, method-assign]
        await swap(store, bucket_of("alice"), packed(user("alice", HOSTS[1], decided=NOW, seen=NOW)))
        node.put("bob")
        stall(0.7)
        await until(lambda: "write" in order)
        assert order[0] == "read"
        assert node.host("alice") == HOSTS[1]
        await clean(node)
        assert set(await stored_users(store)) == {key_of("alice"), key_of("bob")}


@pytest.mark.shows("S-40")
async def test_a_director_whose_renewals_take_too_long_claims_as_if_others_held_leases(
    redis: RedisServer,
) -> None:
    """Nothing failed, the store is only slow. Others may have started meanwhile; claims are safe in
    any case."""
    async with running(Node(redis.url, members=[ME, OTHER], lease_ttl=0.5)) as node:
        assert node.director.standing is Standing.COMPLETE
        members, slow = node.store.members, True

        async def slowly() -> list[Lease]:
            await anyio.sleep(60 if slow else 0)  # within no time-out of a store's own
            return await members()

        node.store.members = slowly  # type: ignore[method-assign]
        await until(lambda: node.director.standing is Standing.CLAIM)
        node.handle(Lookup(RequestId(1), key_of("alice"), b"", b"alice"))
        await until(lambda: not len(node.director.pending))
        assert node.persistence.up


# ---- who else lives


@pytest.mark.shows("rule 15", "S-39")
async def test_a_lease_is_written_first_and_the_others_are_read_after_it(redis: RedisServer) -> None:
    """Of directors that start at the same moment, never two believe themselves alone (docs/ring.md, rule
    15)."""
    alone: list[int] = []
    for _ in range(20):
        redis.command("FLUSHALL")
        nodes = [Node(redis.url, me=me, members=[ME, OTHER]) for me in (ME, OTHER)]
        for node in nodes:
            await node.store.open()  # not what is compared
        async with anyio.create_task_group() as tasks:
            for node in nodes:
                tasks.start_soon(node.persistence.open)
        alone.append(sum(len(leases_seen(node)[0] or ()) < 2 for node in nodes))
        for node in nodes:
            node.driver.stop()
            await node.store.close()
    assert max(alone) <= 1


@pytest.mark.shows("S-41")
async def test_a_director_starts_at_once_when_no_other_director_holds_a_lease(
    redis: RedisServer,
) -> None:
    async with running(Node(redis.url, members=[ME, OTHER])) as node:
        assert node.director.assigner.gate is Gate.OPEN
        assert node.director.standing is Standing.COMPLETE


@pytest.mark.shows("S-41")
async def test_a_director_waits_while_another_that_it_cannot_reach_holds_a_lease(redis: RedisServer) -> None:
    async with opened(redis.url) as store:
        await store.renew(lease_of(OTHER), 60)
        async with running(Node(redis.url, members=[ME, OTHER], lease_ttl=0.3)) as node:
            seen = len(leases_seen(node))
            await until(lambda: len(leases_seen(node)) >= seen + 2)
            assert node.director.assigner.gate is Gate.CLOSED
            await store.release(OTHER)
            await until(lambda: node.director.assigner.gate is Gate.OPEN)


@pytest.mark.shows("S-41")
async def test_a_lease_that_comes_back_makes_new_users_claims_again(redis: RedisServer) -> None:
    async with (
        opened(redis.url) as store,
        running(Node(redis.url, members=[ME, OTHER], lease_ttl=0.3)) as node,
    ):
        assert node.director.standing is Standing.COMPLETE
        await store.renew(lease_of(OTHER), 60)
        await until(lambda: node.director.standing is Standing.CLAIM)
        theirs = user("alice", HOSTS[2], decided=NOW, seen=NOW)
        await swap(store, bucket_of("alice"), packed(theirs))
        node.handle(Lookup(RequestId(1), key_of("alice"), b"", b"alice"))
        await until(lambda: not len(node.director.pending))
        assert node.host("alice") == HOSTS[2]
        await store.release(OTHER)
        await until(lambda: node.director.standing is Standing.COMPLETE)


@pytest.mark.shows("S-42")
async def test_the_leases_do_not_ask_the_clock_of_a_director(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock jumps a day forward, and two back: leases lapse neither early nor late."""
    async with (
        opened(redis.url) as store,
        running(Node(redis.url, members=[ME, OTHER], lease_ttl=0.3)) as node,
    ):
        true_time = time.time
        for jump in (86400, -2 * 86400):
            monkeypatch.setattr(time, "time", lambda jump=jump: true_time() + jump)
            await store.renew(lease_of(OTHER), 60)
            await until(lambda: leases_seen(node)[-1] == frozenset({ME, OTHER}))
            await store.renew(lease_of(OTHER), 0.2)
            await until(lambda: leases_seen(node)[-1] == frozenset({ME}))


async def test_a_store_that_loses_all_leases_at_once_makes_no_director_dead(redis: RedisServer) -> None:
    """As when its clock is set forth by an hour: those that live need a moment to renew theirs."""
    async with (
        opened(redis.url) as store,
        running(Node(redis.url, members=[ME, OTHER], lease_ttl=1.0)) as node,
    ):
        await store.renew(lease_of(OTHER), 60)
        await until(lambda: leases_seen(node)[-1] == frozenset({ME, OTHER}))
        seen = len(leases_seen(node))
        await store.release(OTHER)
        await store.release(ME)
        await until(lambda: node.logged("lease_lapsed"))
        await until(lambda: leases_seen(node)[-1] == frozenset({ME}))
        others = [alive for alive in leases_seen(node)[seen:] if alive == frozenset({ME, OTHER})]
        assert len(others) >= 3


async def test_a_lease_from_before_the_clock_of_the_store_was_set_back_ends_in_a_minute(
    redis: RedisServer,
) -> None:
    async with opened(redis.url) as store:
        await store.renew(lease_of(OTHER), 86_400)
        await store.renew(lease_of(ME), 3)
        remaining = {lease.member: lease.remaining for lease in await store.members()}
        assert 2 < remaining[ME] <= 3
        assert 55 < remaining[OTHER] <= 63


# ---- current from what others write


@pytest.mark.shows("rule 12", "S-45")
async def test_a_partitioned_director_reads_the_writes_of_others_every_half_a_second(
    redis: RedisServer,
) -> None:
    """docs/ring.md, rule 12; that half a second is on top of what a slow machine takes."""
    async with opened(redis.url) as store:
        await store.renew(lease_of(OTHER), 60)
        async with running(Node(redis.url, members=[ME, OTHER])) as node:
            await until(lambda: node.director.partial)
            theirs = user("alice", HOSTS[2], decided=NOW, seen=NOW)
            await swap(store, bucket_of("alice"), packed(theirs))
            await until(lambda: node.host("alice") == HOSTS[2])
            moved = user("alice", HOSTS[1], decided=NOW + 1, seen=NOW)
            await swap(store, bucket_of("alice"), packed(moved))
            await until(lambda: node.host("alice") == HOSTS[1])
    assert WATCH_PARTIAL <= 0.5


# ---- two writers


@pytest.mark.shows("S-43")
async def test_two_directors_that_both_believe_they_write_a_bucket_lose_nothing(redis: RedisServer) -> None:
    chance = random.Random(5)
    names = [f"user{number}" for number in range(6000)]
    expected: dict[UserKey, User] = {}
    async with running(Node(redis.url)) as node, running(Node(redis.url, me=OTHER)) as other:
        for decided in range(NOW, NOW + 60):
            for one in (node, other):
                for name in chance.sample(names, 100):
                    mine = user(name, chance.choice(HOSTS), decided=decided, seen=NOW)
                    one.director.users.put(mine)
                    one.persistence.buckets_changed()
                    expected[mine.key] = merged(mine, expected.get(mine.key, mine))
            await anyio.sleep(0.01)
        await clean(node)
        await clean(other)
        stored = await stored_users(node.store)
    assert {key: (one.host, one.decided) for key, one in stored.items()} == {
        key: (one.host, one.decided) for key, one in expected.items()
    }


@pytest.mark.shows("rule 32", "S-44")
async def test_the_usual_writer_division_holds_while_members_come_and_go(redis: RedisServer) -> None:
    """All directors have each change, as in a ring; it is written at least once, and mostly once only."""
    members = [MemberId(f"127.0.2.{number}:9090") for number in (31, 32, 33)]
    nodes = [Node(redis.url, me=me, members=members, lease_ttl=60) for me in members]
    written: dict[int, int] = {}

    def counting(node: Node) -> None:
        swap_buckets = node.store.swap_buckets

        async def count(swaps: Sequence[Swap]) -> list[object]:
            results = await swap_buckets(swaps)
            for one, result in zip(swaps, results, strict=True):
                if isinstance(result, Swapped):
                    written[one.number] = written.get(one.number, 0) + 1
            return list(results)

        node.store.swap_buckets = count  # type: ignore[assignment, method-assign]

    def ring_is(*ring: Node) -> None:
        for one in nodes:
            there = tuple(node.director.me for node in (ring if one in ring else (one,)))
            now, digest = Now(time.monotonic(), time.time()), one.director._agreement.digest
            one.director.barrier.release(there, now, digest)
            one.handle(Leases(frozenset(there)))  # the others have stopped; they are not partitioned off

    async with running(nodes[0]), running(nodes[1]), running(nodes[2]):
        for node in nodes:
            node.director.ring.servers = set(members)  # type: ignore[assignment]
            await clean(node)
        for node in nodes:
            counting(node)
        everybody: set[str] = set()
        several = 0
        for turn, absent in enumerate((None, 2, None, 0, None, 1, None)):
            there = [node for number, node in enumerate(nodes) if number != absent]
            ring_is(*there)
            written.clear()
            names = [f"turn{turn}user{number}" for number in range(100)]
            everybody.update(names)
            for node in there:
                for name in names:
                    node.put(name, decided=NOW, seen=NOW)
            await until_stored(nodes[0].store, names)
            several += sum(count > 1 for count in written.values())
        assert {key_of(name) for name in everybody} <= set(await stored_users(nodes[0].store))
        assert several <= len(everybody) / 10


async def until_stored(store: StateStore, names: Sequence[str]) -> None:
    keys = set(map(key_of, names))
    with anyio.fail_after(10):
        while not keys <= set(await stored_users(store)):  # noqa: ASYNC110 - in the store
            await anyio.sleep(0.02)
