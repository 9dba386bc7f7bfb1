"""Behaviour of a store behind sentinels only: another server may become the primary at any moment."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from state.base import (
    EMPTY_VERSION,
    Lost,
    StateStore,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    Swap,
    Swapped,
    version_of,
)
from tests import rights
from tests.contract.conftest import Stores, failure_of_open, until
from tests.contract.load import NUMBERS, stored, together, wait_for_writes, writing
from tests.groups import LOCAL, SERVICE, SentinelGroup, wait_for
from tests.rights import PASSWORD
from tests.servers import RedisServer, free_port

pytestmark = pytest.mark.anyio

FAILOVER_WITHIN = 10.0


def put(number: int, blob: bytes) -> Swap:
    return Swap("users", number, EMPTY_VERSION, blob)


@pytest.fixture
async def store(sentinels: SentinelGroup, stores: Stores) -> StateStore:
    sentinels.flush()
    return await stores.open(sentinels.url, timeout=1.0)


async def works_again(store: StateStore, *, than: str = "") -> None:
    """Return as soon as the store answers with another run id."""

    async def answers() -> bool:
        try:
            return await store.run_id() != than
        except StoreError:
            return False

    await until(answers, within=FAILOVER_WITHIN)


@pytest.mark.shows("S-101")
async def test_a_failover_under_load_loses_no_change_though_the_new_primary_lacks_the_last_changes(
    store: StateStore, sentinels: SentinelGroup, stores: Stores
) -> None:
    before = await store.run_id()
    old = sentinels.primary()
    replicas = [server for server in sentinels.servers if server is not old]
    directors = [await stores.open(sentinels.url, timeout=1.0) for _ in range(3)]
    async with writing(directors) as writers:
        await anyio.sleep(0.2)
        for replica in replicas:
            replica.freeze()
        old.command("CLIENT", "KILL", "TYPE", "replica")  # later writes never reach the replicas
        acknowledged = await store.swap_document("hosts", EMPTY_VERSION, b"what an operator did")
        old.kill()
        for replica in replicas:
            replica.thaw()
        await works_again(store, than=before)
        after = await store.run_id()
        await wait_for_writes(writers)
    lost = await store.read_document("hosts")
    # As a director does after a change of the run id: it writes all buckets that differ from its memory.
    await store.swap_document("hosts", EMPTY_VERSION, b"what an operator did")
    for writer in writers:
        await writer.write(NUMBERS)
    document, found = await store.read_document("hosts"), await stored(store)
    await to_thread.run_sync(sentinels.heal, old)
    assert acknowledged == Swapped(version_of(b"what an operator did"))
    assert lost is None
    assert after != before
    assert document is not None
    assert document.data == b"what an operator did"
    assert found == together(writers)
    assert all(isinstance(failure, StoreUnavailable) for writer in writers for failure in writer.failures)


async def test_a_store_leaves_a_hanging_primary_for_the_new_primary(
    store: StateStore, sentinels: SentinelGroup
) -> None:
    before = await store.run_id()
    old = sentinels.primary()
    old.freeze()
    try:
        start = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            await store.swap_buckets([put(1, b"x")])
        took = time.monotonic() - start
        await works_again(store, than=before)
    finally:
        old.thaw()
    outcome = await store.swap_buckets([put(2, b"x")])
    new = sentinels.primary()
    await to_thread.run_sync(sentinels.demote, old)
    assert caught.value.after == 1.0
    assert took < 2
    assert new is not old
    assert outcome == [Swapped(version_of(b"x"))]
    assert await store.swap_buckets([put(2, b"x")]) == outcome


async def test_a_store_leaves_a_replaced_primary_that_still_works_when_it_reads_the_run_id(
    store: StateStore, sentinels: SentinelGroup
) -> None:
    await store.swap_buckets([put(1, b"x")])
    before, old = await store.run_id(), sentinels.primary()
    replicas = [server for server in sentinels.servers if server is not old]
    await to_thread.run_sync(
        wait_for,
        lambda: all(server.command("EXISTS", "dd:{u00}001") == b":1\r\n" for server in replicas),
        "both replicas have it",
    )
    answer = sentinels.sentinels[0].command("SENTINEL", "FAILOVER", SERVICE)
    assert answer == b"+OK\r\n"
    await to_thread.run_sync(wait_for, lambda: sentinels.primary() is not old, "the switch")
    still_a_primary = old.command("ROLE").startswith(b"*3\r\n$6\r\nmaster")
    after = await store.run_id()
    found = await store.swap_buckets([put(1, b"y")])
    await store.swap_buckets([put(2, b"x")])
    written = sentinels.primary().command("EXISTS", "dd:{u00}002")
    await to_thread.run_sync(sentinels.demote, old)
    assert still_a_primary
    assert after != before
    assert found == [Lost(version_of(b"x"), b"x")]
    assert written == b":1\r\n"


async def test_a_primary_that_became_a_replica_is_unavailable_not_refused(
    store: StateStore, sentinels: SentinelGroup
) -> None:
    primary = sentinels.primary()
    primary.command("REPLICAOF", LOCAL, "1")
    try:
        with pytest.raises(StoreUnavailable, match="has become a replica"):
            await store.swap_buckets([put(1, b"x")])
        with pytest.raises(StoreUnavailable, match="is not a primary, although the sentinels say so"):
            await store.versions("users")
    finally:
        primary.command("REPLICAOF", "NO", "ONE")
    assert await store.swap_buckets([put(1, b"x")]) == [Swapped(version_of(b"x"))]


async def test_the_primary_is_found_while_one_sentinel_answers(
    sentinels: SentinelGroup, stores: Stores
) -> None:
    hanging, gone = sentinels.sentinels[0], free_port()
    hanging.freeze()
    try:
        store = await stores.open(sentinels.url.replace("@", f"@{LOCAL}:{gone},"))
    finally:
        hanging.thaw()
    assert (await store.health()).took < 2


async def test_a_store_without_a_reachable_sentinel_is_unavailable_and_names_each_sentinel() -> None:
    ports = free_port(), free_port()
    failure = await failure_of_open(f"redis+sentinel://{LOCAL}:{ports[0]},{LOCAL}:{ports[1]}/{SERVICE}")
    assert isinstance(failure, StoreUnavailable)
    assert all(f"{LOCAL}:{port}" in failure.reason for port in ports)


async def test_a_service_that_no_sentinel_knows_is_refused_with_what_to_do(sentinels: SentinelGroup) -> None:
    failure = await failure_of_open(sentinels.url.replace(f"/{SERVICE}?", "/unknown?"))
    assert isinstance(failure, StoreRefused)
    assert failure.code == "NOSERVICE"
    assert "SENTINEL MASTERS" in failure.advice


async def test_a_missing_sentinel_password_is_reported_and_a_wrong_one_never_shown(
    sentinels: SentinelGroup, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("battery-horse")
    without, _, _ = sentinels.url.partition("?")
    for url in (without, sentinels.url.replace(str(sentinels.password_file), str(wrong))):
        failure = await failure_of_open(url)
        assert isinstance(failure, StoreRefused)
        assert failure.code == "SENTINELAUTH"
        assert "sentinel_password_file=" in failure.advice
        assert "battery-horse" not in f"{failure!r} {failure.__cause__!r} {failure.__cause__}"


async def test_a_password_changed_in_the_sentinels_and_its_file_is_read_again(
    sentinels: SentinelGroup, tmp_path: Path, stores: Stores
) -> None:
    file = tmp_path / "sentinel"
    file.write_text(PASSWORD)
    store = await stores.open(sentinels.url.replace(str(sentinels.password_file), str(file)))
    try:
        held = await store.versions("users")
        for sentinel in sentinels.sentinels:
            sentinel.command("ACL", "SETUSER", "director", "resetpass", ">battery-horse")
            sentinel.command("CLIENT", "KILL", "USER", "director")
        file.write_text("battery-horse")
        assert await store.read_passwords_again() == ["sentinel_password_file"]
        assert await store.versions("users") == held
        file.write_text(PASSWORD)
        for sentinel in sentinels.sentinels:
            sentinel.command("ACL", "SETUSER", "director", "resetpass", f">{PASSWORD}")
            sentinel.command("CLIENT", "KILL", "USER", "director")
        await store.close()
        await store.open()
    finally:
        for sentinel in sentinels.sentinels:
            sentinel.command("ACL", "SETUSER", "director", "resetpass", f">{PASSWORD}")


async def test_the_password_of_the_url_is_for_the_servers_not_the_sentinels(sentinels: SentinelGroup) -> None:
    failure = await failure_of_open(sentinels.url.replace(f":{PASSWORD}@", ":something-else@"))
    assert isinstance(failure, StoreRefused)
    assert failure.code == "WRONGPASS"


async def test_a_server_that_is_no_sentinel_is_refused(redis_server: RedisServer) -> None:
    port = free_port()
    redis_server.command("CONFIG", "SET", "port", str(port))
    failure = await failure_of_open(f"redis+sentinel://{LOCAL}:{port}/{SERVICE}")
    redis_server.command("CONFIG", "SET", "port", "0")
    assert isinstance(failure, StoreError)
    assert "SENTINEL" in str(failure)


async def test_a_sentinel_that_names_a_former_primary_does_no_harm_while_another_names_the_present(
    sentinels: SentinelGroup, stores: Stores
) -> None:
    options = {
        "sentinel monitor": f"{SERVICE} {LOCAL} {free_port()} 2",
        "user": f"director on >{PASSWORD} {rights.SENTINEL}",
    }
    with RedisServer(port=free_port(), options=options, sentinel=True) as behind:
        store = await stores.open(sentinels.url.replace("@", f"@{LOCAL}:{behind.port},"))
        assert (await store.health()).took < 2
