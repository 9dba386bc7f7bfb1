"""Behaviour of a store on Redis only: many directors, one server, and the faults of the server."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import msgspec
import pytest
from anyio import to_thread
from redis import Redis

from state.base import (
    EMPTY_VERSION,
    SCHEMA,
    AuditEntry,
    Lease,
    Lost,
    StateStore,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    Swap,
    Swapped,
    version_of,
)
from state.bucketnumbers import BUCKETS, NUMBERS, below
from state.urls import open_store
from tests.contract.conftest import Stores, until
from tests.servers import RedisServer, free_port

pytestmark = pytest.mark.anyio

SECRET = "correct-horse-battery"
X = Swapped(version_of(b"x"))


def put(number: int, blob: bytes) -> Swap:
    return Swap("users", number, EMPTY_VERSION, blob)


def lease(member: str) -> Lease:
    return Lease(member=member, ring_address=member, incarnation=1, synced=True)


async def failure_of_open(url: str, *, timeout: float = 2.0) -> StoreError:
    store = open_store(url, base_dir=Path("/"), timeout=timeout)
    try:
        with pytest.raises(StoreError) as caught:
            await store.open()
    finally:
        await store.close()
    return caught.value


def everything_said(exc: BaseException) -> str:
    """The message, its attributes, and the trace with all causes."""
    return "".join(traceback.format_exception(exc)) + repr(exc) + repr(vars(exc))


@pytest.fixture
async def store(own_redis: RedisServer, stores: Stores) -> StateStore:
    """An open store on a server of its own, which is given half a second to answer."""
    return await stores.open(own_redis.url, timeout=0.5)


@pytest.fixture
def tls_redis() -> Iterator[RedisServer]:
    """A server with a certificate that only itself signed."""
    with RedisServer(tls_port=free_port()) as server:
        yield server


# Shared


@pytest.mark.shows("S-95")
async def test_a_director_reads_the_writes_of_another_director(
    redis_server: RedisServer, stores: Stores
) -> None:
    one, other = stores.new(redis_server.url), stores.new(redis_server.url)
    await one.open()
    await other.open()
    assert await one.swap_buckets([put(1, b"x")]) == [X]
    assert await other.swap_buckets([put(1, b"y")]) == [Lost(version_of(b"x"), b"x")]
    await one.renew(lease("10.0.0.2"), 30)
    await other.renew(lease("10.0.0.1"), 30)
    assert [held.member for held in await one.members()] == ["10.0.0.1", "10.0.0.2"]
    await one.release("10.0.0.2")
    assert [held.member for held in await other.members()] == ["10.0.0.1"]


@pytest.mark.shows("S-115")
async def test_the_lease_of_a_killed_director_lapses_for_the_others(
    redis_server: RedisServer, stores: Stores
) -> None:
    dead, alive = stores.new(redis_server.url), stores.new(redis_server.url)
    await dead.open()
    await alive.open()
    await dead.renew(lease("10.0.0.1"), 0.3)
    await dead.close()
    await alive.renew(lease("10.0.0.2"), 30)

    async def lapsed() -> bool:
        return len(await alive.members()) == 1

    await until(lapsed)
    assert [held.member for held in await alive.members()] == ["10.0.0.2"]


async def test_two_prefixes_on_one_server_share_no_data(redis_server: RedisServer, stores: Stores) -> None:
    one, other = (
        stores.new(f"{redis_server.url}?prefix=one:"),
        stores.new(f"{redis_server.url}?prefix=other:"),
    )
    await one.open()
    await other.open()
    await one.swap_buckets([put(1, b"x")])
    await one.swap_document("hosts", EMPTY_VERSION, b"h")
    await one.renew(lease("10.0.0.1"), 30)
    assert await other.versions("users") == {}
    assert await other.read_document("hosts") is None
    assert await other.members() == []
    assert await other.run_id() != await one.run_id()


async def test_two_databases_of_one_server_share_no_data(redis_server: RedisServer, stores: Stores) -> None:
    one, other = stores.new(f"{redis_server.url}?db=1"), stores.new(f"{redis_server.url}?db=2")
    await one.open()
    await other.open()
    await one.swap_buckets([put(1, b"x")])
    assert await other.versions("users") == {}


async def test_every_key_begins_with_the_prefix(redis_server: RedisServer, stores: Stores) -> None:
    store = await stores.open(f"{redis_server.url}?prefix=mine:")
    await store.swap_buckets([put(n, b"x") for n in range(BUCKETS)])
    await store.swap_document("hosts", EMPTY_VERSION, b"h")
    await store.renew(lease("10.0.0.1"), 30)
    keys = redis_server.command("KEYS", "*").split(b"\r\n")[2::2]
    assert keys
    # python-redis-lock puts its own prefix before the name of a lock; its signal key lapses in a second.
    assert {key for key in keys if not key.startswith(b"mine:")} <= {b"lock-signal:mine:{lock}migrate"}


async def test_64_buckets_share_a_hash_tag_and_the_next_bucket_has_another(
    redis_server: RedisServer, stores: Stores
) -> None:
    store = await stores.open(redis_server.url)
    await store.swap_buckets([put(n, b"x") for n in (63, 64, 127, 4095)])
    keys = sorted(key for key in redis_server.command("KEYS", "dd:{u*").split(b"\r\n")[2::2])
    assert keys == [b"dd:{u00}03f", b"dd:{u01}040", b"dd:{u01}07f", b"dd:{u3f}fff"]


async def test_a_server_on_a_tcp_port_serves_as_well(own_redis: RedisServer, stores: Stores) -> None:
    port = free_port()
    own_redis.command("CONFIG", "SET", "port", str(port))
    store = await stores.open(f"redis://127.0.0.1:{port}/1")
    assert await store.swap_buckets([put(1, b"x")]) == [X]
    assert store.url == f"redis://127.0.0.1:{port}/1?prefix=dd:"


async def test_a_server_with_a_trusted_certificate_serves_over_tls(
    tls_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, stores: Stores
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_redis.certificate))
    store = await stores.open(f"rediss://127.0.0.1:{tls_redis.tls_port}")
    assert await store.swap_buckets([put(1, b"x")]) == [X]


async def test_a_server_with_an_untrusted_certificate_gets_no_command(tls_redis: RedisServer) -> None:
    failure = await failure_of_open(f"rediss://127.0.0.1:{tls_redis.tls_port}")
    assert isinstance(failure, StoreUnavailable)
    assert "certificate" in failure.reason.lower()


async def test_a_server_without_tls_gets_no_command_in_plain_text(own_redis: RedisServer) -> None:
    port = free_port()
    own_redis.command("CONFIG", "SET", "port", str(port))
    failure = await failure_of_open(f"rediss://127.0.0.1:{port}", timeout=0.5)
    assert isinstance(failure, StoreUnavailable)


# Unreachable


@pytest.mark.shows("S-84")
async def test_a_suspended_server_is_unavailable_within_the_time_out(
    store: StateStore, own_redis: RedisServer
) -> None:
    own_redis.freeze()
    start = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await store.swap_buckets([put(1, b"x")])
    took = time.monotonic() - start
    own_redis.thaw()
    assert (caught.value.operation, caught.value.after) == ("swap_buckets", 0.5)
    assert 0.4 < took < 2


async def test_many_callers_of_a_suspended_server_wait_for_one_time_out_in_parallel(
    store: StateStore, own_redis: RedisServer
) -> None:
    own_redis.freeze()
    failed: list[StoreUnavailable] = []

    async def ask() -> None:
        with pytest.raises(StoreUnavailable) as caught:
            await store.versions("users")
        failed.append(caught.value)

    start = time.monotonic()
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(ask)
    took = time.monotonic() - start
    own_redis.thaw()
    assert len(failed) == 20
    assert took < 2


@pytest.mark.shows("S-92")
async def test_a_cancelled_caller_returns_at_once(own_redis: RedisServer, stores: Stores) -> None:
    store = await stores.open(own_redis.url, timeout=10.0)
    own_redis.freeze()
    start = time.monotonic()
    with anyio.move_on_after(0.1) as scope:
        await store.swap_buckets([put(1, b"x")])
    took = time.monotonic() - start
    own_redis.thaw()
    assert scope.cancelled_caught
    assert took < 2
    assert await store.swap_buckets([put(1, b"x")]) == [X]


async def test_a_store_works_again_when_its_server_resumes(store: StateStore, own_redis: RedisServer) -> None:
    own_redis.freeze()
    with pytest.raises(StoreUnavailable):
        await store.read_document("hosts")
    own_redis.thaw()
    assert await store.swap_buckets([put(1, b"x")]) == [X]


@pytest.mark.shows("S-101")
@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_store_works_again_when_its_server_runs_again(
    store: StateStore, own_redis: RedisServer, how: str
) -> None:
    await store.swap_buckets([put(1, b"x")])
    before = await store.run_id()
    getattr(own_redis, how)()
    with pytest.raises(StoreUnavailable):
        await store.versions("users")
    own_redis.start()
    assert await store.versions("users") == {1: version_of(b"x")}
    assert await store.run_id() != before


async def test_a_server_that_was_restarted_between_two_calls_is_no_error(
    store: StateStore, own_redis: RedisServer
) -> None:
    await store.swap_buckets([put(1, b"x")])
    await to_thread.run_sync(own_redis.stop)
    await to_thread.run_sync(own_redis.start)
    assert await store.swap_buckets([put(2, b"x")]) == [X]


@pytest.mark.shows("S-98")
async def test_a_server_unreachable_at_the_start_can_be_opened_later(
    own_redis: RedisServer, stores: Stores
) -> None:
    own_redis.stop()
    store = stores.new(own_redis.url)
    with pytest.raises(StoreUnavailable, match="open"):
        await store.open()
    own_redis.start()
    await store.open()
    assert await store.swap_buckets([put(1, b"x")]) == [X]


async def test_a_host_that_does_not_answer_is_unavailable() -> None:
    failure = await failure_of_open(f"redis://127.0.0.1:{free_port()}")
    assert isinstance(failure, StoreUnavailable)
    assert "refused" in failure.reason.lower()


async def test_a_server_that_is_loading_its_data_is_unavailable(
    own_redis: RedisServer, stores: Stores
) -> None:
    store = await stores.open(own_redis.url, timeout=5.0)
    await store.swap_buckets([put(n, b"x") for n in range(BUCKETS)])
    await to_thread.run_sync(own_redis.stop)
    with (own_redis.folder / "redis.conf").open("a") as config:
        config.write("key-load-delay 500\n")  # microseconds; clients are heard every 1024 commands
    await to_thread.run_sync(own_redis.start_loading)
    with pytest.raises(StoreUnavailable, match=r"LOADING: .* wait until"):
        await store.versions("users")


# Lost data


async def test_a_server_that_lost_its_scripts_receives_them_again(
    store: StateStore, own_redis: RedisServer
) -> None:
    await store.swap_buckets([put(n, b"x") for n in range(BUCKETS)])
    own_redis.command("SCRIPT", "FLUSH")
    assert await store.swap_buckets([put(n, b"x") for n in range(BUCKETS)]) == [X] * BUCKETS
    own_redis.command("SCRIPT", "FLUSH")
    assert len(await store.versions("users")) == BUCKETS
    own_redis.command("SCRIPT", "FLUSH")
    await store.renew(lease("10.0.0.1"), 30)
    assert len(await store.members()) == 1


@pytest.mark.shows("S-101", "S-102")
async def test_a_flushed_server_gets_another_run_id_and_its_layout_again(
    store: StateStore, own_redis: RedisServer
) -> None:
    before = await store.run_id()
    await store.swap_buckets([put(1, b"x")])
    own_redis.command("FLUSHALL")
    after = await store.run_id()
    assert after != before
    assert await store.run_id() == after
    assert await store.versions("users") == {}
    assert own_redis.command("HGET", "dd:meta", "schema") == b"$1\r\n%d\r\n" % SCHEMA


# Refused


async def test_a_missing_password_is_refused_with_what_to_do() -> None:
    with RedisServer(password=SECRET) as server:
        failure = await failure_of_open(f"unix://{server.socket}")
    assert isinstance(failure, StoreRefused)
    assert failure.code == "NOAUTH"
    assert "password_file=" in str(failure)


async def test_a_wrong_password_is_refused_and_never_shown() -> None:
    with RedisServer(password=SECRET) as server:
        failure = await failure_of_open(f"unix://:not-{SECRET}@{server.socket}")
    assert isinstance(failure, StoreRefused)
    assert failure.code == "WRONGPASS"
    assert SECRET not in everything_said(failure)


async def test_a_password_for_a_server_without_one_is_refused_and_never_shown(
    redis_server: RedisServer,
) -> None:
    failure = await failure_of_open(f"unix://:{SECRET}@{redis_server.socket}")
    assert isinstance(failure, StoreRefused)
    assert failure.code == "WRONGPASS"
    assert SECRET not in everything_said(failure)


@pytest.mark.shows("S-94")
async def test_the_right_password_opens_the_store_and_is_never_shown(stores: Stores) -> None:
    with RedisServer(password=SECRET) as server:
        store = await stores.open(server.url, timeout=0.3)
        assert await store.swap_buckets([put(1, b"x")]) == [X]
        server.freeze()
        with pytest.raises(StoreUnavailable) as caught:
            await store.versions("users")
        server.thaw()
        said = everything_said(caught.value) + store.url + repr(store) + repr(vars(store))
        await store.close()
    assert SECRET not in said


async def test_a_password_is_read_from_a_file(tmp_path: Path, stores: Stores) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    with RedisServer(password=SECRET) as server:
        url = f"unix://{server.socket}?password_file=secret"
        store = await stores.open(url, folder=tmp_path)
        assert await store.swap_buckets([put(1, b"x")]) == [X]
        await store.close()


async def log_out(server: RedisServer, store: StateStore) -> None:
    """End the connections of the store; its next call finds them closed."""
    server.command("CLIENT", "KILL", "USER", "director")
    with suppress(StoreUnavailable):
        await store.run_id()


async def test_a_password_changed_in_server_and_file_is_read_again_when_the_server_refuses(
    own_redis: RedisServer, tmp_path: Path, stores: Stores
) -> None:
    file = tmp_path / "secret"
    url = f"unix://{own_redis.socket}?username=director&password_file=secret"
    own_redis.command("ACL", "SETUSER", "director", "on", "allkeys", "allcommands", f">{SECRET}")
    file.write_text(f"{SECRET}\n")
    store = await stores.open(url, folder=tmp_path)
    assert await store.swap_buckets([put(1, b"x")]) == [X]
    file.write_text("another one\n")
    own_redis.command("ACL", "SETUSER", "director", "resetpass", ">another one")
    await log_out(own_redis, store)
    assert await store.swap_buckets([put(1, b"x")]) == [X]


@pytest.mark.parametrize(("content", "problem"), [(None, "No such file"), ("", "it is empty")])
async def test_a_missing_or_empty_password_file_keeps_the_old_password_and_is_reported(
    own_redis: RedisServer, tmp_path: Path, stores: Stores, content: str | None, problem: str
) -> None:
    file = tmp_path / "secret"
    url = f"unix://{own_redis.socket}?username=director&password_file=secret"
    own_redis.command("ACL", "SETUSER", "director", "on", "allkeys", "allcommands", f">{SECRET}")
    file.write_text(f"{SECRET}\n")
    store = await stores.open(url, folder=tmp_path)
    file.unlink() if content is None else file.write_text(content)
    assert await store.read_passwords_again() == []
    await log_out(own_redis, store)
    assert await store.versions("users") == {}
    own_redis.command("ACL", "SETUSER", "director", "resetpass", ">another one")
    await log_out(own_redis, store)
    with pytest.raises(StoreRefused, match=problem) as caught:
        await store.versions("users")
    assert caught.value.code == "WRONGPASS"
    assert "password that was read before" in str(caught.value)
    assert SECRET not in everything_said(caught.value)


async def test_a_reload_logs_in_with_the_present_password_of_the_file(
    own_redis: RedisServer, tmp_path: Path, stores: Stores
) -> None:
    file = tmp_path / "secret"
    url = f"unix://{own_redis.socket}?username=director&password_file=secret"
    own_redis.command(
        "ACL", "SETUSER", "director", "on", "allkeys", "allcommands", ">first one", ">second one"
    )
    file.write_text("first one\n")
    store = await stores.open(url, folder=tmp_path)
    assert await store.read_passwords_again() == []
    file.write_text("second one\n")
    assert await store.read_passwords_again() == ["password_file"]
    own_redis.command("ACL", "SETUSER", "director", "<first one")
    assert await store.swap_buckets([put(1, b"x")]) == [X]
    assert "second one" not in repr(store) + repr(vars(store))


@pytest.mark.shows("S-85")
async def test_a_user_without_the_right_is_refused_with_what_to_do(own_redis: RedisServer) -> None:
    own_redis.command("ACL", "SETUSER", "director", "on", f">{SECRET}", "~dd:*", "+info", "+hmget")
    failure = await failure_of_open(f"unix://director:{SECRET}@{own_redis.socket}")
    assert isinstance(failure, StoreRefused)
    assert failure.code == "NOPERM"
    assert "ACL SETUSER" in str(failure)
    assert SECRET not in everything_said(failure)


@pytest.mark.shows("S-85", "S-118")
async def test_a_read_only_replica_is_refused_with_what_to_do(
    store: StateStore, own_redis: RedisServer
) -> None:
    own_redis.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreRefused, match="name the primary") as caught:
        await store.swap_buckets([put(1, b"x")])
    with pytest.raises(StoreRefused):
        await store.health()
    assert caught.value.code == "READONLY"
    own_redis.command("REPLICAOF", "NO", "ONE")
    assert await store.swap_buckets([put(1, b"x")]) == [X]


@pytest.mark.shows("S-85")
async def test_a_server_without_memory_is_refused_with_what_to_do(
    store: StateStore, own_redis: RedisServer
) -> None:
    own_redis.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreRefused, match="raise maxmemory") as caught:
        await store.swap_buckets([put(1, b"x")])
    assert caught.value.code == "OOM"
    own_redis.command("CONFIG", "SET", "maxmemory", "0")
    assert await store.swap_buckets([put(1, b"x")]) == [X]


async def test_too_few_replicas_are_refused_with_what_to_do(
    store: StateStore, own_redis: RedisServer
) -> None:
    own_redis.command("CONFIG", "SET", "min-replicas-to-write", "1")
    with pytest.raises(StoreRefused, match="min-replicas-to-write") as caught:
        await store.swap_buckets([put(1, b"x")])
    assert caught.value.code == "NOREPLICAS"


@pytest.mark.shows("S-85")
async def test_a_server_that_cannot_save_is_refused_with_what_to_do(tmp_path: Path, stores: Stores) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with RedisServer(options={"dir": str(data), "save": "3600 1"}) as server:
        store = await stores.open(server.url)
        data.rmdir()
        server.command("BGSAVE")

        async def failed() -> bool:
            return b"rdb_last_bgsave_status:err" in server.command("INFO", "persistence")

        await until(failed)
        with pytest.raises(StoreRefused, match="see its log") as caught:
            await store.swap_buckets([put(1, b"x")])
        await store.close()
    assert caught.value.code == "MISCONF"


async def test_data_of_another_program_under_the_prefix_are_refused(
    store: StateStore, own_redis: RedisServer
) -> None:
    own_redis.command("LPUSH", "dd:{u00}001", "x")
    with pytest.raises(StoreRefused, match="another program"):
        await store.swap_buckets([put(1, b"x")])


async def test_a_lease_that_cannot_be_read_is_refused_and_not_skipped(
    store: StateStore, own_redis: RedisServer
) -> None:
    await store.renew(lease("10.0.0.1"), 30)
    own_redis.command("HSET", "dd:lease", "10.0.0.2", "9999999999999 what?")
    with pytest.raises(StoreRefused, match=r"HDEL dd:lease 10\.0\.0\.2"):
        await store.members()


async def test_an_audit_entry_that_cannot_be_read_is_refused(
    store: StateStore, own_redis: RedisServer
) -> None:
    own_redis.command("XADD", "dd:audit", "*", "e", "what?")
    with pytest.raises(StoreRefused, match="XDEL dd:audit"):
        await store.audit(10)


async def test_a_director_whose_clock_is_years_ahead_does_not_drop_the_audit_of_the_others(
    redis_server: RedisServer, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = stores.new(redis_server.url), stores.new(redis_server.url)
    await one.open()
    await other.open()
    for number in range(20):
        await one.append_audit([AuditEntry(at=time.time(), who="root", what="down", target=f"{number}")])
    true_time = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: true_time() + 10 * 365 * 86_400)
        await other.append_audit([AuditEntry(at=time.time(), who="root", what="up", target="ahead")])
    assert len(await one.audit(100)) == 21


@pytest.mark.shows("S-24")
async def test_audit_entries_that_grow_too_old_are_dropped_though_there_are_few(
    store: StateStore, own_redis: RedisServer
) -> None:
    with Redis(unix_socket_path=str(own_redis.socket)) as client:
        for days in (200, 91, 89, 1):
            at = time.time() - days * 86400
            old = AuditEntry(at=at, who="root", what="down", target=f"{days} days ago")
            client.xadd("dd:audit", {"e": msgspec.msgpack.encode(old)}, id=f"{at * 1000:.0f}-1")
        await store.append_audit([AuditEntry(at=time.time(), who="root", what="down", target="now")])
        assert client.xlen("dd:audit") == 3
    assert [entry.target for entry in await store.audit(10)] == ["now", "1 days ago", "89 days ago"]


async def test_a_value_too_short_to_be_a_bucket_counts_as_none(
    store: StateStore, own_redis: RedisServer
) -> None:
    own_redis.command("SET", "dd:{u00}001", "short")
    assert await store.versions("users") == {}
    assert (await store.read_buckets("users", [1]))[0].blob == b""
    assert await store.swap_buckets([put(1, b"x")]) == [X]


async def test_a_server_that_is_not_redis_is_a_store_error() -> None:
    async def talk(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(b"220 mail.example.com ESMTP\r\n")
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, talk)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        failure = await failure_of_open(f"redis://127.0.0.1:{port}", timeout=0.5)
        tasks.cancel_scope.cancel()
    assert isinstance(failure, StoreError)


# Several servers over TLS


async def test_a_store_uses_tls_to_all_nodes_of_a_cluster(
    monkeypatch: pytest.MonkeyPatch, stores: Stores
) -> None:
    tls, bus = free_port(), str(free_port())
    options = {"cluster-enabled": "yes", "cluster-port": bus, "tls-cluster": "yes"}
    with RedisServer(tls_port=tls, options=options) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")

        async def served() -> bool:
            return b"cluster_state:ok" in server.command("CLUSTER", "INFO")

        await until(served)
        store = await stores.open(f"rediss+cluster://127.0.0.1:{tls}")
        assert await store.swap_buckets([put(n, b"x") for n in range(BUCKETS)]) == [X] * BUCKETS
        await store.close()


async def test_a_store_uses_tls_to_sentinels_and_the_primary(
    monkeypatch: pytest.MonkeyPatch, stores: Stores
) -> None:
    with RedisServer(tls_port=free_port(), options={"tls-replication": "yes"}) as server:
        monitor = {"sentinel monitor": f"mail 127.0.0.1 {server.tls_port} 1", "tls-replication": "yes"}
        sentinel = RedisServer(tls_port=free_port(), certificate_of=server, options=monitor, sentinel=True)
        with sentinel:
            monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
            store = await stores.open(f"rediss+sentinel://127.0.0.1:{sentinel.tls_port}/mail")
            assert await store.swap_buckets([put(1, b"x")]) == [X]
            await store.close()


async def test_a_bucket_and_all_that_it_is_split_into_are_kept_in_one_slot(
    store: StateStore, own_redis: RedisServer
) -> None:
    numbers = [0x1F2, *below(0x1F2), below(below(0x1F2)[1])[0], NUMBERS - 1]
    await store.swap_buckets([put(number, b"x") for number in numbers])
    keys = own_redis.command("KEYS", "dd:{u*").split(b"\r\n")[2::2]
    assert sorted(keys) == [
        b"dd:{u07}13e4",
        b"dd:{u07}13e5",
        b"dd:{u07}1f2",
        b"dd:{u07}37ca",
        b"dd:{u3f}3efff",
    ]
