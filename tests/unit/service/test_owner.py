"""A second cluster on the prefix of another: refused at the start, and where a store turns into another."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from director.core.protocol.events import IdentityChanged
from director.core.ring.link import Identity
from director.stored.storeidentity import (
    CLUSTER,
    OtherCluster,
    Ours,
    cluster_of,
    decode,
    encode,
    strangers,
)
from director.types import MemberId
from state.base import EMPTY_VERSION, Lease, version_of
from tests.contract.conftest import until as until_so
from tests.servers import RedisServer
from tests.unit.service.parts import ME, OTHER, Node, key_of, stored_users
from tests.unit.service.test_persist import clean, opened, running
from tests.waiting import until

pytestmark = pytest.mark.anyio
THEIRS = b"another secret of 32 bytes or so"
SHORT = 0.3


OURS = b"secret" * 4


def identity(secret: bytes = OURS, username_hash: str = "%Lu", second: bytes = b"") -> Identity:
    return Identity(ME, 1, username_hash, 900, secret, 1.0, 5.0, 2.0, second_secret=second)


def lease(member: MemberId, **info: str) -> Lease:
    return Lease(member=member, ring_address=member, incarnation=1, synced=True, info=info)


def test_a_cluster_is_identified_by_secret_and_hash_and_the_identity_does_not_reveal_the_secret() -> None:
    mine = cluster_of(identity(), "here")
    assert mine == cluster_of(identity(), "elsewhere")
    assert mine != cluster_of(identity(THEIRS), "here")
    assert mine != cluster_of(identity(username_hash="%u"), "here")
    assert decode(encode(mine)) == mine
    assert b"secret" not in encode(mine)


def test_a_director_without_a_secret_is_told_from_others_by_its_place() -> None:
    assert cluster_of(identity(b""), "m1 /etc/a") == cluster_of(identity(b""), "m1 /etc/a")
    assert cluster_of(identity(b""), "m1 /etc/a") != cluster_of(identity(b""), "m1 /etc/b")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"ring": 1}', b"\xff"])
def test_a_damaged_note_of_the_cluster_says_nothing(data: bytes) -> None:
    assert decode(data) is None


def test_a_lease_that_does_not_say_its_cluster_is_of_the_one_the_store_belongs_to() -> None:
    mine, theirs = cluster_of(identity(), ""), cluster_of(identity(THEIRS), "")
    silent, spoken = lease(ME), lease(OTHER, cluster=theirs.ring)
    ours = Ours(identity(), "")
    assert strangers(ours, None, [silent, spoken]) == [spoken]
    assert strangers(ours, theirs, [silent, spoken]) == [silent, spoken]
    assert strangers(Ours(identity(THEIRS), ""), mine, [silent, spoken]) == [silent]


@pytest.mark.shows("S-13")
def test_while_the_secret_is_being_changed_leases_and_documents_of_both_secrets_are_accepted() -> None:
    old, new = cluster_of(identity(), ""), cluster_of(identity(THEIRS), "")
    leases = [lease(ME, cluster=old.ring), lease(OTHER, cluster=new.ring)]
    for first, second in ((OURS, THEIRS), (THEIRS, OURS)):
        ours = Ours(identity(first, second=second), "")
        assert ours.written == cluster_of(identity(first), "")
        assert strangers(ours, old, leases) == strangers(ours, new, leases) == []


def test_a_secret_that_was_removed_is_accepted_in_documents_of_this_life_and_in_no_lease() -> None:
    old = cluster_of(identity(), "")
    ours = Ours(identity(THEIRS, second=OURS), "")
    ours.change(identity(THEIRS))
    assert ours.wrote(old)
    assert strangers(ours, old, [lease(OTHER, cluster=old.ring)]) == [lease(OTHER, cluster=old.ring)]
    assert not Ours(identity(THEIRS), "").wrote(old)


@pytest.mark.shows("S-12")
async def test_a_second_cluster_on_the_prefix_of_a_running_one_is_refused_and_writes_nothing(
    redis: RedisServer,
) -> None:
    async with running(Node(redis.url, lease_ttl=SHORT)) as node, opened(redis.url) as store:
        await clean(node)
        other = Node(redis.url, me=OTHER, secret=THEIRS)
        with pytest.raises(OtherCluster) as caught:
            await other.persistence.open()
        assert ME in str(caught.value)
        assert "?prefix=" in str(caught.value)
        assert {one.member for one in await store.members()} == {ME}
        document = await store.read_document(CLUSTER)
        assert document is not None
        assert decode(document.data) == cluster_of(node.director.identity, "")
        assert node.persistence.up


@pytest.mark.shows("S-12")
async def test_two_directors_without_a_ring_on_one_prefix_do_not_mix_their_users(redis: RedisServer) -> None:
    async with running(Node(redis.url, secret=b"", lease_ttl=SHORT)) as node:
        await clean(node)
        other = Node(redis.url, secret=b"")
        other.persistence.core.steps.ours = Ours(other.director.identity, "there")
        with pytest.raises(OtherCluster):
            await other.persistence.open()


@pytest.mark.shows("S-14")
async def test_a_changed_secret_takes_the_data_over_once_no_director_with_the_former_secret_runs(
    redis: RedisServer,
) -> None:
    async with opened(redis.url) as store:
        async with running(Node(redis.url)) as node:
            node.put("alice")
            await clean(node)
        former = cluster_of(node.director.identity, "").ring
        await store.renew(lease(ME, cluster=former), 0.5)  # as after a kill -9
        async with running(Node(redis.url, secret=THEIRS)) as again:
            await until(lambda: again.persistence.loaded)
            assert again.host("alice") is not None
            document = await store.read_document(CLUSTER)
            assert document is not None
            assert decode(document.data) == cluster_of(again.director.identity, "")


async def changed_to(node: Node, secret: bytes, second: bytes = b"") -> None:
    """As by a reload."""
    node.handle(IdentityChanged(secret, second))
    node.persistence.secrets_changed()


@pytest.mark.shows("S-13")
@pytest.mark.parametrize("away", [False, True])
async def test_a_secret_is_changed_in_three_steps_and_store_and_snapshot_follow(
    redis: RedisServer, tmp_path: Path, *, away: bool
) -> None:
    copy = f"sqlite:///{tmp_path}/copy.db"
    async with opened(redis.url) as store:
        async with running(Node(redis.url, lease_ttl=SHORT, snapshot=copy)) as one:
            async with running(Node(redis.url, me=OTHER, lease_ttl=SHORT)) as other:
                nodes = (one, other)
                one.put("alice")
                await clean(one)
                if away:
                    redis.freeze()
                    await until(lambda: not (one.persistence.up or other.persistence.up))
                for first, second in ((OURS, THEIRS), (THEIRS, OURS), (THEIRS, b"")):
                    for node in nodes:
                        await changed_to(node, first, second)
                        if not away:
                            await clean(node)
                            assert node.persistence.up
                if away:
                    redis.thaw()
                new = cluster_of(identity(THEIRS), "")

                async def says_new() -> bool:
                    document = await store.read_document(CLUSTER)
                    leases = await store.members()
                    return (
                        document is not None
                        and decode(document.data) == new
                        and [one.info[CLUSTER] for one in leases] == [new.ring, new.ring]
                    )

                await until_so(says_new)
                await until(lambda: one.persistence.up and other.persistence.up)
        assert one.logged("store_unreachable") == [] or away
        async with opened(copy) as snapshot:
            document = await snapshot.read_document(CLUSTER)
            assert document is not None
            assert decode(document.data) == new


@pytest.mark.shows("S-15")
async def test_another_username_hash_on_the_same_data_is_refused_even_if_no_director_runs(
    redis: RedisServer,
) -> None:
    async with running(Node(redis.url)) as node:
        await clean(node)
    with pytest.raises(OtherCluster, match=r"username_hash = %Lu, here it is %u"):
        await Node(redis.url, username_hash="%u").persistence.open()


async def test_a_store_of_a_release_that_did_not_name_its_cluster_is_taken(redis: RedisServer) -> None:
    async with opened(redis.url) as store:
        await store.renew(lease(OTHER), 60)
        async with running(Node(redis.url)) as node:
            await clean(node)
            assert node.persistence.up
            assert await store.read_document(CLUSTER) is not None


async def test_a_damaged_note_of_the_cluster_is_written_again(redis: RedisServer) -> None:
    async with opened(redis.url) as store:
        await store.swap_document(CLUSTER, EMPTY_VERSION, b"{")
        async with running(Node(redis.url)) as node:
            await clean(node)
            document = await store.read_document(CLUSTER)
            assert document is not None
            assert document.version == version_of(encode(cluster_of(node.director.identity, "")))


@pytest.mark.shows("S-16")
@pytest.mark.parametrize("alive", [True, False])
async def test_a_store_that_comes_back_as_another_clusters_is_not_written_and_left_again_when_ours_is_back(
    redis: RedisServer, tmp_path: Path, *, alive: bool
) -> None:
    """As when the name of the server leads elsewhere."""
    with RedisServer() as elsewhere:
        async with running(Node(elsewhere.url, me=OTHER, secret=THEIRS)) as other:
            other.put("theirs")
            await clean(other)
            name = tmp_path / "redis"
            name.symlink_to(redis.socket)
            async with running(Node(f"unix://{name}", lease_ttl=SHORT)) as node:
                node.put("ours")
                await clean(node)
                if not alive:
                    async with opened(elsewhere.url) as store:
                        await store.release(OTHER)
                name.unlink()
                name.symlink_to(elsewhere.socket)
                redis.kill()
                await until(
                    lambda: any("another cluster" in line for line in node.logged("store_unreachable"))
                )
                errors = sum(node.persistence.errors.values())
                node.put("meanwhile")
                await until(lambda: sum(node.persistence.errors.values()) > errors + 1)
                async with opened(elsewhere.url) as store:
                    assert set(await stored_users(store)) == {key_of("theirs")}
                    assert ME not in {one.member for one in await store.members()}
                assert node.host("theirs") is None
                redis.start()
                name.unlink()
                name.symlink_to(redis.socket)
                await until(lambda: node.persistence.up)
            async with opened(redis.url) as store:
                assert set(await stored_users(store)) == {key_of("ours"), key_of("meanwhile")}


@pytest.mark.shows("S-16")
async def test_a_write_that_finds_its_connection_closed_and_another_cluster_behind_it_is_not_made(
    redis: RedisServer, tmp_path: Path
) -> None:
    """Between two looks at the leases."""
    with RedisServer() as elsewhere:
        async with running(Node(elsewhere.url, me=OTHER, secret=THEIRS)) as other:
            other.put("theirs")
            await clean(other)
            name = tmp_path / "redis"
            name.symlink_to(redis.socket)
            async with running(Node(f"unix://{name}", lease_ttl=60)) as node:
                await until(lambda: node.persistence.loaded)
                await clean(node)
                name.unlink()
                name.symlink_to(elsewhere.socket)
                redis.kill()
                node.put("ours")
                await until(
                    lambda: any("another cluster" in line for line in node.logged("store_unreachable"))
                )
                async with opened(elsewhere.url) as store:
                    assert set(await stored_users(store)) == {key_of("theirs")}


async def test_two_that_begin_at_once_on_an_empty_store_are_one_cluster(redis: RedisServer) -> None:
    nodes = [Node(redis.url), Node(redis.url, me=OTHER)]
    async with anyio.create_task_group() as tasks:
        for node in nodes:
            tasks.start_soon(node.persistence.open)
    assert all(node.persistence.up for node in nodes)
    for node in nodes:
        node.driver.stop()
        await node.persistence.stop()


async def test_two_clusters_that_start_in_the_same_moment_are_not_both_let_in(redis: RedisServer) -> None:
    """The second one looks between the first one's look at the leases and its own."""
    one = Node(redis.url, secret=b"one" * 8)
    other = Node(redis.url, secret=b"other" * 8, me=OTHER)
    store_renew = one.store.renew

    async def late(lease: Lease, ttl: float) -> bool:
        await other.persistence.open()
        return await store_renew(lease, ttl)

    one.store.renew = late  # type: ignore[method-assign]
    with pytest.raises(OtherCluster, match=OTHER):
        await one.persistence.open()
    assert other.persistence.up
    await other.persistence.stop()
