"""Buckets that have grown large are split in the store (docs/ring.md, rule 33): real SQLite files and
Redis."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest

from director.core.placement.names import entries_in
from director.core.placement.users import RECORD, pack, unpack
from director.core.protocol.events import Claimed
from director.stored.buckettree import users_tree
from director.types import UserKey
from state.base import (
    EMPTY_VERSION,
    KNOWN_SCHEMA,
    SPLIT,
    SPLIT_VERSION,
    Lease,
    Lost,
    Space,
    StateStore,
    StoreUnavailable,
    Swap,
    Swapped,
    version_of,
)
from state.bucketnumbers import below
from tests.servers import RedisServer
from tests.unit.service.parts import (
    HOSTS,
    Node,
    address_of,
    bucket_of,
    carried_out,
    in_background,
    key_of,
    packed,
    stored_users,
    user,
)
from tests.unit.service.test_persist import clean, opened, running, swap
from tests.waiting import until

pytestmark = pytest.mark.anyio

NOW = int(time.time())
SMALL = 4
"""Users that a bucket may hold in these tests."""
BUCKET = bucket_of("alice")
LOW, HIGH = below(BUCKET)


def names_in(bucket: int, count: int) -> list[str]:
    """User names whose keys belong into this bucket of the table."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        if bucket_of(f"user{number}") == bucket:
            found.append(f"user{number}")
        number += 1
    return found


CROWD = names_in(BUCKET, 40)


def splitting(node: Node) -> Node:
    """The same, splitting buckets of more than SMALL users."""
    trees = node.persistence.core.reader.trees
    trees["users"].split_above = SMALL * RECORD.size
    trees["names"].split_above = 100
    return node


def keys(names: Sequence[str]) -> set[UserKey]:
    return {key_of(name) for name in names}


async def tree_of(store: StateStore, space: Space = "users") -> dict[int, bytes]:
    """Every bucket that counts, by number."""
    return {b.number: b.blob async for batch in store.load_buckets(space) for b in batch}


async def known_in(store: StateStore) -> set[UserKey]:
    """The keys that are found where they belong, below marked buckets."""
    blobs = await tree_of(store)
    tree = users_tree()
    for number, blob in blobs.items():
        if blob == SPLIT:
            tree.learn(number, split=True)
    found: set[UserKey] = set()
    for number, blob in blobs.items():
        if blob != SPLIT:
            here = {UserKey(fields[0]) for fields in RECORD.iter_unpack(blob)}
            assert all(tree.leaf_of(key) == number for key in here)
            found |= here
    return found


@asynccontextmanager
async def quiet(url: str) -> AsyncIterator[Node]:
    """A node that has loaded and writes only when it is told to."""
    node = splitting(Node(url))
    await node.persistence.open()
    node.start()
    await carried_out(node, node.persistence.core.reader.load())
    try:
        yield node
    finally:
        node.driver.stop()
        await node.store.close()


async def written(*nodes: Node) -> None:
    """Write in turn, until no director has anything left to write."""
    while any(node.persistence.queued for node in nodes):
        for node in nodes:
            await carried_out(node, node.persistence.core.writer.write_users())


@pytest.mark.shows("rule 33", "S-46")
async def test_a_large_bucket_is_split_and_all_of_it_is_there_after_a_restart(
    url: str,
) -> None:
    async with running(splitting(Node(url))) as node:
        for name in CROWD:
            node.put(name)
        node.put("bob")
        await clean(node)
    async with opened(url) as store:
        blobs = await tree_of(store)
        assert blobs[BUCKET] == SPLIT
        assert blobs[bucket_of("bob")] != SPLIT
        assert max(len(blob) for blob in blobs.values()) <= SMALL * RECORD.size
        assert await known_in(store) == keys([*CROWD, "bob"])
    async with running(splitting(Node(url))) as again:
        await until(lambda: again.persistence.loaded)
        assert {name for name in [*CROWD, "bob"] if again.host(name)} == {*CROWD, "bob"}
        await clean(again)


@pytest.mark.shows("S-46")
async def test_names_are_split_too(url: str) -> None:
    async with quiet(url) as node:
        for name in CROWD:
            node.director.names.add(key_of(name).to_bytes(8) + len(name).to_bytes(2) + name.encode())
        await carried_out(node, node.persistence.core.writer.write_names())
        blobs = await tree_of(node.store, "names")
        assert blobs[BUCKET] == SPLIT
        stored = {key for blob in blobs.values() if blob != SPLIT for key, _ in entries_in(blob)}
        assert stored == keys(CROWD)
        before = node.director.names.bucket(BUCKET)
    async with quiet(url) as again:
        assert again.director.names.bucket(BUCKET) == before


@pytest.mark.shows("S-53")
async def test_one_more_user_of_a_split_bucket_writes_one_leaf_only(url: str) -> None:
    async with quiet(url) as node:
        for name in CROWD[:-1]:
            node.put(name)
        await written(node)
        before = await node.store.versions("users")
        node.put(CROWD[-1])
        await written(node)
        after = await node.store.versions("users")
        changed = {number for number in before | after if before.get(number) != after.get(number)}
        tree = node.persistence.core.reader.trees["users"]
        leaf = tree.leaf_of(key_of(CROWD[-1]))
        assert changed <= {leaf, *tree.path(leaf)[:1], *tree.leaves(tree.path(leaf)[0])}
        assert await known_in(node.store) == keys(CROWD)


@pytest.mark.shows("S-51")
async def test_a_login_during_the_load_is_answered_from_a_split_bucket(url: str) -> None:
    async with quiet(url) as node:
        for name in CROWD:
            node.put(name)
        await written(node)
    node = splitting(Node(url))
    await node.persistence.open()
    node.start()
    node.persistence.read_first([BUCKET])
    with anyio.move_on_after(2.0):
        async with in_background((node, node.persistence.core.reader.load_wanted())):
            await until(lambda: all(node.host(name) for name in CROWD))
    assert all(node.host(name) for name in CROWD)
    node.driver.stop()
    await node.store.close()


# ---- interrupted


class Power:
    """Lets a store do so many swaps, and none after that."""

    def __init__(self, store: StateStore, calls: int) -> None:
        self.left = calls
        self.swap_buckets = store.swap_buckets
        store.swap_buckets = self.cut  # type: ignore[method-assign]

    async def cut(self, swaps: Sequence[Swap]) -> list[Swapped | Lost]:
        """One swap at a time, so that an interruption may come between any two."""
        results = []
        for one in swaps:
            if not self.left:
                raise StoreUnavailable("test", "swap_buckets", reason="the power went out")
            self.left -= 1
            results += await self.swap_buckets([one])
        return results


@pytest.mark.shows("rule 33", "S-47")
async def test_a_split_that_was_interrupted_after_any_step_loses_nothing_and_is_done_again(url: str) -> None:
    old, new = CROWD[:3], CROWD[3:12]
    async with quiet(url) as node:
        for name in old:
            node.put(name)
        await written(node)
    for calls in range(60):
        async with quiet(url) as node:
            before = await known_in(node.store)
            assert before >= keys(old)
            for name in new:
                node.put(name, decided=NOW + calls, seen=NOW + 10_000 * calls)
            Power(node.store, calls)
            try:
                await written(node)
            except StoreUnavailable:
                assert before <= await known_in(node.store)
                continue
            break
    else:
        pytest.fail("it is never done")
    assert calls > 8
    async with quiet(url) as again:
        assert await known_in(again.store) == keys([*old, *new])
        assert (await tree_of(again.store))[BUCKET] == SPLIT


@pytest.mark.shows("S-48")
async def test_what_an_interrupted_split_left_behind_replaces_nothing_that_was_decided_later(
    url: str,
) -> None:
    """Symptom: a user who had been moved was on the old host again after the bucket was split."""
    stale = packed(*(user(name, HOSTS[0], decided=NOW - 50, seen=NOW) for name in CROWD))
    tree = users_tree()
    tree.split_above = SMALL * RECORD.size
    async with opened(url) as store:
        swaps = [
            Swap("users", n, EMPTY_VERSION, b) for n, b in tree.divide(BUCKET, stale, may_split=True).leaves
        ]
        await store.swap_buckets(swaps)
        assert await stored_users(store) == {}
    async with quiet(url) as node:
        assert len(node.director.users) == 0
        for name in CROWD:
            node.put(name, HOSTS[1], decided=NOW)
        await written(node)
        found = await stored_users_in_tree(node.store)
        assert found == {key: (HOSTS[1], NOW) for key in keys(CROWD)}


async def stored_users_in_tree(store: StateStore) -> dict[UserKey, tuple[str | None, int]]:
    """Host and stamp by key."""
    blobs = [blob for blob in (await tree_of(store)).values() if blob != SPLIT]
    return {u.key: (address_of(u.host), u.decided) for blob in blobs for u in unpack(blob)}


# ---- two directors


@pytest.mark.shows("rule 33", "S-49")
async def test_a_director_that_writes_a_bucket_which_another_has_split_goes_to_those_below(
    redis: RedisServer,
) -> None:
    async with quiet(redis.url) as one, quiet(redis.url) as other:
        for name in CROWD[:20]:
            one.put(name)
        await written(one)
        for name in CROWD[20:]:
            other.put(name)
        await written(other)
        assert await known_in(one.store) == keys(CROWD)
        assert (await tree_of(one.store))[BUCKET] == SPLIT
        await carried_out(one, one.persistence.core.reader.changed("users"))
        assert {name for name in CROWD if one.host(name)} == set(CROWD)


@pytest.mark.shows("rule 33", "S-49")
@pytest.mark.parametrize("we_know", [False, True], ids=["refused", "and heard of"])
async def test_a_bucket_that_another_writes_while_it_is_split_is_merged_before_the_mark(
    redis: RedisServer, we_know: bool
) -> None:
    async with quiet(redis.url) as one, opened(redis.url) as other:
        late = user("alice", HOSTS[2], decided=NOW, seen=NOW)
        swap_buckets, refused = one.store.swap_buckets, 0

        async def between(swaps: Sequence[Swap]) -> list[Swapped | Lost]:
            nonlocal refused
            if not refused and Swap("users", BUCKET, EMPTY_VERSION, SPLIT) in swaps:
                refused += 1
                await swap(other, BUCKET, packed(late))
                if we_know:
                    await carried_out(one, one.persistence.core.reader.changed("users"))
            return await swap_buckets(swaps)

        one.store.swap_buckets = between  # type: ignore[method-assign]
        for name in CROWD:
            one.put(name)
        await written(one)
        assert refused == 1
        assert (await tree_of(other))[BUCKET] == SPLIT
        assert await known_in(other) == keys([*CROWD, "alice"])


@pytest.mark.shows("S-49")
async def test_two_directors_that_split_the_same_bucket_at_once_lose_nothing(redis: RedisServer) -> None:
    async with quiet(redis.url) as one, quiet(redis.url) as other:
        for part in range(10):
            for node, names in ((one, CROWD[:25]), (other, CROWD[15:])):
                for name in names[part::10]:
                    node.put(name)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(carried_out, one, one.persistence.core.writer.write_users())
                tasks.start_soon(carried_out, other, other.persistence.core.writer.write_users())
        await written(one, other)
        assert await known_in(one.store) == keys(CROWD)


@pytest.mark.shows("rule 33", "S-50")
async def test_claims_go_to_the_buckets_below_one_that_was_split(redis: RedisServer) -> None:
    async with quiet(redis.url) as one, quiet(redis.url) as other:
        for name in CROWD[:20]:
            one.put(name)
        await written(one)
        assert other.persistence.core.reader.trees["users"].leaves(BUCKET) == [BUCKET]
        claims = [(node, node.persistence.core.claims.run()) for node in (one, other)]
        async with in_background(*claims):
            for node, host in ((one, HOSTS[1]), (other, HOSTS[2])):
                for name in CROWD[10:]:
                    record = pack([user(name, host, decided=NOW, seen=NOW)])
                    node.persistence.claim(key_of(name), record)
            for node in (one, other):
                await until(lambda node=node: len(claimed(node)) == 30)  # type: ignore[misc]
        assert claimed(one) == claimed(other) == keys(CROWD[10:])
        await carried_out(one, one.persistence.core.reader.changed("users"))
        await carried_out(other, other.persistence.core.reader.changed("users"))
        assert [one.host(name) for name in CROWD] == [other.host(name) for name in CROWD]
        assert {one.host(name) for name in CROWD[:20]} == {HOSTS[0]}
        assert await known_in(one.store) == keys(CROWD)


def claimed(node: Node) -> set[UserKey]:
    return {event.key for event in node.events if isinstance(event, Claimed)}


async def found_in(store: StateStore) -> set[UserKey]:
    """The keys in BUCKET and below it, as a director that starts would find them."""
    found: set[UserKey] = set()
    level = [BUCKET]
    while level:
        buckets = await store.read_buckets("users", level)
        for bucket in buckets:
            if bucket.blob != SPLIT:
                found |= {record.key for record in unpack(bucket.blob)}
        level = [number for bucket in buckets if bucket.blob == SPLIT for number in below(bucket.number)]
    return found


@pytest.mark.parametrize("seed", range(12))
async def test_what_was_stored_is_found_whatever_three_directors_do_in_whatever_order(
    redis: RedisServer, seed: int
) -> None:
    chance = random.Random(seed)
    stored: set[UserKey] = set()

    async def act(node: Node) -> None:
        for name in chance.sample(CROWD, chance.randrange(1, 12)):
            if node.director.users.get(key_of(name)) is None:
                node.put(name)
        writing, reading = node.persistence.core.writer, node.persistence.core.reader
        swap_buckets = node.store.swap_buckets
        try:
            match chance.randrange(8):
                case 0:
                    await carried_out(node, reading.changed("users"))
                case 1:
                    await carried_out(node, reading.read("users", [BUCKET]))
                case 2 | 3 | 4:
                    Power(node.store, chance.randrange(25))
                    await carried_out(node, writing.write_users())
                case _:
                    await written(node)
                    stored.update(key for key in keys(CROWD) if node.director.users.get(key))
        except StoreUnavailable:
            node.persistence.core.writer._queued.add(BUCKET)
        finally:
            node.store.swap_buckets = swap_buckets  # type: ignore[method-assign]

    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(quiet(redis.url)) for _ in range(3)]
        for _ in range(40):
            await act(chance.choice(nodes))
            if chance.randrange(4) == 0:
                async with anyio.create_task_group() as tasks:
                    for node in nodes:
                        tasks.start_soon(act, node)
            if chance.randrange(5) == 0:  # one is killed and starts again
                nodes[chance.randrange(3)] = await stack.enter_async_context(quiet(redis.url))
            assert stored <= await found_in(nodes[0].store)
        await written(*nodes)
        assert await found_in(nodes[0].store) >= stored
        assert await known_in(nodes[0].store) == await found_in(nodes[0].store)


# ---- another store than before


@pytest.mark.shows("S-52")
async def test_a_store_that_was_wiped_is_written_again_and_split_again(redis: RedisServer) -> None:
    async with running(splitting(Node(redis.url, lease_ttl=0.3))) as node, opened(redis.url) as store:
        for name in CROWD:
            node.put(name)
        await clean(node)
        redis.command("FLUSHALL")
        await until(lambda: node.logged("store_reachable"))
        await clean(node)
        assert (await tree_of(store))[BUCKET] == SPLIT
        assert await known_in(store) == keys(CROWD)


@pytest.mark.shows("S-52")
async def test_nothing_is_left_below_a_bucket_that_is_whole_again_in_a_restored_store(url: str) -> None:
    """Symptom: what was written after an old backup was restored could not be found at the next start."""
    async with quiet(url) as node:
        for name in CROWD[:20]:
            node.put(name)
        await written(node)
        backup = packed(*(user(name, HOSTS[0], decided=NOW, seen=NOW) for name in CROWD[30:]))
        async for batch in node.store.load_buckets("users"):
            swaps = [Swap("users", b.number, b.version, backup if b.number == BUCKET else b"") for b in batch]
            await node.store.swap_buckets(swaps)
        node.put(CROWD[20])
        await written(node)
        assert await known_in(node.store) == keys([*CROWD[:21], *CROWD[30:]])


@pytest.mark.shows("S-52")
async def test_a_store_found_without_its_splits_is_known_to_have_none(url: str) -> None:
    async with quiet(url) as node:
        for name in CROWD:
            node.put(name)
        await written(node)
        async for batch in node.store.load_buckets("users"):
            await node.store.swap_buckets([Swap("users", b.number, b.version, b"") for b in batch])
        await carried_out(node, node.persistence.core.reader.changed("users"))
        assert node.persistence.core.reader.trees["users"].leaves(BUCKET) == [BUCKET]
        await carried_out(node, node.persistence.core.writer.queue_differences())
        await written(node)
        assert await known_in(node.store) == keys(CROWD)


@pytest.mark.shows("S-50")
@pytest.mark.parametrize("moment", ["before the claim", "in the middle of it"])
async def test_a_claim_is_not_made_below_a_bucket_that_is_whole_again(
    redis: RedisServer, moment: str
) -> None:
    """Symptom: two directors claimed the same user, one of them in a bucket that is not read."""
    async with quiet(redis.url) as node:
        for name in CROWD[:20]:
            node.put(name)
        await written(node)
        theirs = user(CROWD[30], HOSTS[2], decided=NOW, seen=NOW)
        swap_buckets = node.store.swap_buckets

        async def restored(swaps: Sequence[Swap]) -> list[Swapped | Lost]:
            node.store.swap_buckets = swap_buckets  # type: ignore[method-assign]
            await swap_to(node.store, BUCKET, packed(theirs))
            return await swap_buckets(swaps)

        if moment == "before the claim":
            await swap_to(node.store, BUCKET, packed(theirs))
        else:
            node.store.swap_buckets = restored  # type: ignore[method-assign]
        async with in_background((node, node.persistence.core.claims.run())):
            for name in CROWD[30:32]:
                record = pack([user(name, HOSTS[1], decided=NOW, seen=NOW)])
                node.persistence.claim(key_of(name), record)
            await until(lambda: len(claimed(node)) == 2)
        assert (node.host(CROWD[30]), node.host(CROWD[31])) == (HOSTS[2], HOSTS[1])
        assert keys(CROWD[30:32]) <= await known_in(node.store)


async def swap_to(store: StateStore, number: int, blob: bytes) -> None:
    (bucket,) = await store.read_buckets("users", [number])
    await store.swap_buckets([Swap("users", number, bucket.version, blob)])


# ---- when not


@pytest.mark.shows("S-56")
async def test_no_bucket_is_split_while_a_director_lives_that_does_not_know_of_it(redis: RedisServer) -> None:
    async with running(splitting(Node(redis.url, lease_ttl=0.3))) as node, opened(redis.url) as store:
        await store.renew(Lease(member="old", ring_address="old", incarnation=1, synced=True), 60)
        redis.command("HSET", "dd:meta", "schema", "1")
        await until(lambda: node.logged("store_migration_postponed"))
        for name in CROWD:
            node.put(name)
        await clean(node)
        assert list(await store.versions("users")) == [BUCKET]
        assert "directors=old" in node.logged("store_migration_postponed")[0]
        await store.release("old")
        await until(lambda: node.logged("store_migrated"))
        node.put(CROWD[0], HOSTS[1], decided=NOW + 1)
        await clean(node)
        assert (await store.versions("users"))[BUCKET] == SPLIT_VERSION
        assert await known_in(store) == keys(CROWD)
        (own,) = [lease for lease in await store.members()]
        assert own.info[KNOWN_SCHEMA] == "2"


# ---- damage


@pytest.mark.shows("S-25", "S-55")
async def test_content_that_was_damaged_under_its_old_version_is_written_again(redis: RedisServer) -> None:
    """Symptom: a damaged bucket with the right version passed for stored, and was never written again."""
    async with quiet(redis.url) as node:
        node.put("alice")
        await written(node)
        (good,) = await node.store.read_buckets("users", [BUCKET])
        key = f"dd:{{u{BUCKET >> 6:02x}}}{BUCKET:03x}"
        redis.command("SETRANGE", key, "20", "damage")
        await carried_out(node, node.persistence.core.reader.read("users", [BUCKET]))
        assert len(node.logged("store_bucket_damaged")) == 1
        assert node.host("alice") == HOSTS[0]
        await carried_out(node, node.persistence.core.writer.write_users())
        assert await node.store.read_buckets("users", [BUCKET]) == [good]
        assert version_of(good.blob) == good.version
        assert not node.persistence.core.reader.damaged["users"]


@pytest.mark.shows("S-55")
async def test_a_damaged_bucket_of_which_memory_knows_nothing_is_left_for_repair(redis: RedisServer) -> None:
    async with opened(redis.url) as store:
        await swap(store, BUCKET, packed(user("alice", HOSTS[0], decided=NOW, seen=NOW)))
        redis.command("APPEND", f"dd:{{u{BUCKET >> 6:02x}}}{BUCKET:03x}", "cut")
        before = await store.read_buckets("users", [BUCKET])
        async with quiet(redis.url) as node:
            await carried_out(node, node.persistence.core.writer.write_users())
        assert await store.read_buckets("users", [BUCKET]) == before
