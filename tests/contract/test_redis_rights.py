"""The rights that `docs/state-redis.md` tells operators to give: no command is missing, and none too many."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest

from state.base import EMPTY_VERSION, AuditEntry, Lease, StateStore, StoreError, StoreRefused, Swap
from tests import rights
from tests.contract.conftest import Stores, until
from tests.groups import ClusterGroup
from tests.rights import PASSWORD
from tests.servers import RedisServer

pytestmark = pytest.mark.anyio

ALWAYS = {"auth", "hello", "quit"}
"""Commands that no ACL forbids."""


@contextmanager
def server_with(user_rights: str) -> Iterator[RedisServer]:
    with RedisServer(options={"user": f"director on >{PASSWORD} {user_rights}"}) as server:
        yield server


def url(server: RedisServer) -> str:
    return f"unix://director:{PASSWORD}@{server.socket}"


def commands_of(user_rights: str) -> set[str]:
    return set(re.findall(r"\+(\S+)", user_rights))


def used(server: RedisServer) -> set[str]:
    """Return the commands that the server has run, with the commands of scripts."""
    stats = server.command("INFO", "commandstats").decode()
    ran = re.findall(r"cmdstat_([^:]+):calls=([0-9]+)", stats)
    return {name for name, calls in ran if calls != "0"} - ALWAYS


async def do_everything(store: StateStore) -> None:
    await store.swap_buckets([Swap("users", 1, EMPTY_VERSION, b"x")])
    await store.swap_buckets([Swap("users", 1, EMPTY_VERSION, b"y"), Swap("users", 2, EMPTY_VERSION, b"y")])
    (bucket,) = await store.read_buckets("users", [1])
    await store.swap_buckets([Swap("users", 1, bucket.version, b"")])
    assert [batch async for batch in store.load_buckets("users")]
    await store.versions("users")
    await store.swap_document("hosts", EMPTY_VERSION, b"h")
    await store.read_document("hosts")
    await store.documents()
    await store.renew(Lease(member="10.0.0.1", ring_address="", incarnation=1, synced=True), 30)
    await store.members()
    await store.release("10.0.0.1")
    async with store.hold("sweep") as held:
        assert held is not None
    await store.append_audit([AuditEntry(at=1.0, who="root", what="down", target="10.0.0.1")])
    await store.audit(10)
    await store.health()
    await store.run_id()


async def test_every_right_of_the_documented_user_is_used_and_no_other_right(stores: Stores) -> None:
    with server_with(rights.SERVER) as server:
        server.command("SET", "lock:dd:{lock}migrate", "another director", "PX", "500")
        server.command("CONFIG", "RESETSTAT")
        store = stores.new(url(server))
        await store.open()
        await do_everything(store)
        found = used(server)
        await store.close()
    assert found - {"config|resetstat"} == commands_of(rights.SERVER)


async def test_a_right_that_only_a_script_needs_is_named_too(stores: Stores) -> None:
    with server_with(f"{rights.SERVER} -time") as server:
        with pytest.raises(StoreRefused, match=r"NOPERM.*ACL SETUSER"):
            await stores.open(url(server))


async def test_another_database_than_0_needs_one_more_right(stores: Stores) -> None:
    with server_with(rights.SERVER) as server:
        store = stores.new(f"{url(server)}?db=1")
        with pytest.raises(StoreRefused, match="NOPERM"):
            await store.open()
        server.command("ACL", "SETUSER", "director", *rights.DATABASE.split())
        await store.open()
        await do_everything(store)
        await store.close()


async def test_the_documented_user_cannot_touch_other_keys(stores: Stores) -> None:
    with server_with(rights.SERVER) as server:
        store = stores.new(f"{url(server)}?prefix=other:")
        with pytest.raises(StoreRefused, match="NOPERM"):
            await store.open()
        await store.close()


async def test_directors_that_start_together_at_a_cluster_make_one_layout(
    cluster: ClusterGroup, stores: Stores
) -> None:
    cluster.flush()
    several = [stores.new(cluster.url) for _ in range(4)]
    async with anyio.create_task_group() as tasks:
        for store in several:
            tasks.start_soon(store.open)
    assert len({await store.run_id() for store in several}) == 1


async def test_a_server_with_the_default_user_off_keeps_the_writes_of_scripts_over_a_restart(
    stores: Stores,
) -> None:
    options = {"user default": rights.DEFAULT, "user director": f"on >{PASSWORD} {rights.SERVER}"}
    server = RedisServer(appendonly=True, options=options | {"appendfsync": "always"})
    store = stores.new(url(server))

    async def answers() -> bool:
        try:
            await store.open()
            return bool(await store.run_id())
        except StoreError:
            return False

    try:
        server.begin()
        await until(answers)
        swaps = [Swap("users", number, EMPTY_VERSION, b"x") for number in (1, 2)]
        await store.swap_buckets(swaps)  # both by one script: a transaction in the file
        server.kill()
        server.begin()
        await until(answers)
        found = await store.read_buckets("users", [1, 2])
    finally:
        server.close()
    assert [bucket.blob for bucket in found] == [b"x", b"x"]
