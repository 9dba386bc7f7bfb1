"""Migrations: how the layout of a store is brought up to date, and when it is not."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import anyio
import pytest
import redis

from state.base import (
    EMPTY_VERSION,
    KNOWN_SCHEMA,
    SCHEMA,
    Lease,
    SchemaTooNew,
    Step,
    StoreBusy,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    Swap,
    Swapped,
    version_of,
)
from state.migrate import RedisStep, SqlStep, migrate_sqlite, redis_steps, sqlite_steps
from state.migrate_redis import migrate_redis
from state.redis import RedisStore
from state.redis_clients import RedisAddress
from state.sqlite import SqliteStore
from tests.contract.conftest import Stores
from tests.servers import RedisServer

pytestmark = pytest.mark.anyio

PREFIX = "dd:"
X = Swapped(version_of(b"x"))


def file_store(stores: Stores, folder: Path, *steps: SqlStep) -> SqliteStore:
    """Of a program that knows the first layout and these steps."""
    store = SqliteStore(folder / "state.db", "sqlite:///state.db", 2.0, [sqlite_steps()[0], *steps])
    return stores.keep(store)


def sql(folder: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(folder / "state.db", isolation_level=None)
    rows = connection.execute(query).fetchall()
    connection.close()
    return rows


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def address(server: RedisServer) -> RedisAddress:
    return RedisAddress(url="unix:", path=str(server.socket), prefix=PREFIX)


def redis_store(stores: Stores, server: RedisServer, *steps: RedisStep) -> RedisStore:
    """Of a program that knows the first layout and these steps."""
    return stores.keep(RedisStore(address(server), 2.0, [redis_steps()[0], *steps]))


def lease(member: str, known: int = 1) -> Lease:
    """The lease of a member that knows schemas up to `known`; the first release does not say."""
    info = {KNOWN_SCHEMA: str(known)} if known > 1 else {}
    return Lease(member=member, ring_address=member, incarnation=1, synced=True, info=info)


async def all_steps() -> int:
    return len(redis_steps())


def test_this_program_knows_the_schema_that_its_steps_lead_to() -> None:
    assert len(redis_steps()) == len(sqlite_steps()) == SCHEMA


def schema(server: RedisServer) -> bytes:
    return server.command("HGET", "dd:meta", "schema")


def mark(server: redis.Redis, prefix: str) -> None:
    server.incr(f"{prefix}marks")


def fail(server: redis.Redis, prefix: str) -> None:
    raise redis.ConnectionError("the power went out")


# SQLite


async def test_a_new_file_has_the_newest_schema(tmp_path: Path, stores: Stores) -> None:
    store = stores.new("sqlite:///state.db", folder=tmp_path)
    await store.open()
    await store.close()
    assert sql(tmp_path, "SELECT schema FROM meta") == [(SCHEMA,)]


@pytest.mark.shows("S-99")
async def test_a_file_of_an_older_schema_gets_the_missing_steps_once_and_keeps_its_data(
    tmp_path: Path, stores: Stores
) -> None:
    old = file_store(stores, tmp_path)
    await old.open()
    await old.swap_buckets([Swap("users", 1, EMPTY_VERSION, b"x")])
    await old.close()
    step = SqlStep(2, "CREATE TABLE extra (n INTEGER); INSERT INTO extra VALUES (1)")
    for _ in range(2):
        new = file_store(stores, tmp_path, step)
        await new.open()
        assert await new.versions("users") == {1: version_of(b"x")}
        await new.close()
    assert sql(tmp_path, "SELECT schema, n FROM meta, extra") == [(2, 1)]


async def test_a_step_that_fails_in_a_file_leaves_it_as_before_and_runs_again(
    tmp_path: Path, stores: Stores
) -> None:
    bad = SqlStep(2, "CREATE TABLE extra (n INTEGER); INSERT INTO nowhere VALUES (1)")
    good = SqlStep(2, "CREATE TABLE extra (n INTEGER)")
    with pytest.raises(StoreError, match="no such table: nowhere"):
        await file_store(stores, tmp_path, bad).open()
    assert sql(tmp_path, "SELECT schema FROM meta") == [(1,)]
    store = file_store(stores, tmp_path, good)
    await store.open()
    await store.close()
    assert sql(tmp_path, "SELECT schema FROM meta") == [(2,)]


@pytest.mark.shows("S-86")
async def test_a_file_of_a_newer_schema_is_refused_with_both_numbers_and_left_alone(
    tmp_path: Path, stores: Stores
) -> None:
    newer = file_store(stores, tmp_path, SqlStep(2, ""), SqlStep(3, ""))
    await newer.open()
    await newer.close()
    before = (tmp_path / "state.db").read_bytes()
    with pytest.raises(SchemaTooNew, match="upgrade the program") as caught:
        await file_store(stores, tmp_path).open()
    assert (caught.value.found, caught.value.known) == (3, 1)
    assert (tmp_path / "state.db").read_bytes() == before


@pytest.mark.shows("S-81")
async def test_reading_the_layout_of_a_missing_file_does_not_create_it(
    tmp_path: Path, stores: Stores
) -> None:
    layout = await file_store(stores, tmp_path).layout()
    assert (layout.found, layout.known, layout.size) == (0, 1, None)
    assert [(step.number, step.title[:25]) for step in layout.steps] == [(1, "initial: One row a bucket")]
    assert files(tmp_path) == []


@pytest.mark.shows("S-81")
async def test_the_layout_of_a_file_names_the_missing_steps_and_runs_none(
    tmp_path: Path, stores: Stores
) -> None:
    old = file_store(stores, tmp_path)
    await old.open()
    await old.close()
    layout = await file_store(stores, tmp_path, SqlStep(2, "", "Doubling"), SqlStep(3, "", "Names")).layout()
    assert (layout.found, layout.known, layout.size) == (1, 3, (tmp_path / "state.db").stat().st_size)
    assert layout.steps == (Step(number=2, title="Doubling"), Step(number=3, title="Names"))
    assert sql(tmp_path, "SELECT schema FROM meta") == [(1,)]


async def test_the_layout_of_a_newer_file_is_no_error(tmp_path: Path, stores: Stores) -> None:
    newer = file_store(stores, tmp_path, SqlStep(2, ""))
    await newer.open()
    await newer.close()
    layout = await file_store(stores, tmp_path).layout()
    assert (layout.found, layout.known, layout.steps) == (2, 1, ())


@pytest.mark.shows("S-82")
async def test_the_layout_of_a_file_in_use_is_busy(tmp_path: Path, stores: Stores) -> None:
    await file_store(stores, tmp_path).open()
    with pytest.raises(StoreBusy, match="is in use by process"):
        await file_store(stores, tmp_path).layout()


@pytest.mark.shows("S-82")
async def test_the_layout_of_a_damaged_file_is_refused_and_the_file_left_where_it_is(
    tmp_path: Path, stores: Stores
) -> None:
    (tmp_path / "state.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreRefused, match="is damaged"):
        await file_store(stores, tmp_path).layout()
    assert files(tmp_path) == ["state.db", "state.db.lock"]


@pytest.mark.shows("S-97")
async def test_migrating_a_file_reports_the_step_in_progress(tmp_path: Path) -> None:
    said: list[int] = []
    connection = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    migrate_sqlite(connection, "sqlite", 0, sqlite_steps(), lambda step: said.append(step.number))
    connection.close()
    assert said == list(range(1, SCHEMA + 1))


async def test_a_file_of_the_first_schema_is_brought_up_to_date_with_what_is_in_it(
    tmp_path: Path, stores: Stores
) -> None:
    old = file_store(stores, tmp_path)
    await old.open()
    assert (old.schema, old.held_by) == (1, ())
    await old.swap_buckets([Swap("users", 1, EMPTY_VERSION, b"x")])
    await old.close()
    new = await stores.open("sqlite:///state.db", folder=tmp_path)
    assert (new.schema, new.held_by) == (SCHEMA, ())
    assert await new.versions("users") == {1: version_of(b"x")}


# Redis


@pytest.mark.shows("S-81")
async def test_the_layout_of_a_prefix_names_the_missing_steps_and_runs_none(
    redis_server: RedisServer, stores: Stores
) -> None:
    empty = await redis_store(stores, redis_server).layout()
    assert (empty.found, empty.known) == (0, 1)
    assert empty.steps[0].title.startswith("layout: The first layout.")
    assert redis_server.command("DBSIZE") == b":0\r\n"
    old = redis_store(stores, redis_server)
    await old.open()
    layout = await redis_store(stores, redis_server, RedisStep(2, mark, "Marks")).layout()
    assert (layout.found, layout.known, layout.steps) == (1, 2, (Step(number=2, title="Marks"),))
    assert schema(redis_server) == b"$1\r\n1\r\n"


async def test_a_new_prefix_has_the_newest_schema(redis_server: RedisServer, stores: Stores) -> None:
    await stores.open(redis_server.url)
    assert schema(redis_server) == b"$1\r\n%d\r\n" % SCHEMA


@pytest.mark.shows("S-99")
async def test_a_prefix_of_an_older_schema_gets_the_missing_steps_once_and_keeps_its_data(
    redis_server: RedisServer, stores: Stores
) -> None:
    old = redis_store(stores, redis_server)
    await old.open()
    await old.swap_buckets([Swap("users", 1, EMPTY_VERSION, b"x")])
    await old.close()
    for _ in range(2):
        new = redis_store(stores, redis_server, RedisStep(2, mark))
        await new.open()
        assert await new.versions("users") == {1: version_of(b"x")}
        await new.close()
    assert schema(redis_server) == b"$1\r\n2\r\n"
    assert redis_server.command("GET", "dd:marks") == b"$1\r\n1\r\n"


@pytest.mark.shows("S-97")
async def test_migrating_a_prefix_reports_the_step_in_progress(
    redis_server: RedisServer, stores: Stores
) -> None:
    seen: list[Step | None] = []
    store = redis_store(stores, redis_server, RedisStep(2, lambda *_: seen.append(store.step), "Looks"))
    await store.open()
    assert [*seen, store.step] == [Step(number=2, title="Looks"), None]


async def test_an_interrupted_migration_continues_with_the_step_that_was_not_done(
    redis_server: RedisServer, stores: Stores
) -> None:
    with pytest.raises(StoreUnavailable, match="the power went out"):
        await redis_store(stores, redis_server, RedisStep(2, mark), RedisStep(3, fail)).open()
    assert schema(redis_server) == b"$1\r\n2\r\n"
    store = redis_store(stores, redis_server, RedisStep(2, mark), RedisStep(3, mark))
    await store.open()
    await store.close()
    assert schema(redis_server) == b"$1\r\n3\r\n"
    assert redis_server.command("GET", "dd:marks") == b"$1\r\n2\r\n"


@pytest.mark.shows("S-99")
async def test_directors_that_start_together_migrate_once(redis_server: RedisServer, stores: Stores) -> None:
    several = [redis_store(stores, redis_server, RedisStep(2, mark)) for _ in range(5)]
    async with anyio.create_task_group() as tasks:
        for store in several:
            tasks.start_soon(store.open)
    assert redis_server.command("GET", "dd:marks") == b"$1\r\n1\r\n"
    assert len({await store.run_id() for store in several}) == 1


@pytest.mark.shows("S-86")
async def test_a_prefix_of_a_newer_schema_is_refused_with_both_numbers(
    redis_server: RedisServer, stores: Stores
) -> None:
    newer = redis_store(stores, redis_server, RedisStep(2, mark), RedisStep(3, mark))
    await newer.open()
    await newer.close()
    with pytest.raises(SchemaTooNew, match="upgrade the program") as caught:
        await redis_store(stores, redis_server).open()
    assert (caught.value.found, caught.value.known) == (3, 1)


async def test_a_running_director_notices_a_migration_by_the_run_id(
    redis_server: RedisServer, stores: Stores
) -> None:
    running = redis_store(stores, redis_server)
    await running.open()
    newer = redis_store(stores, redis_server, RedisStep(2, mark))
    await newer.open()
    await newer.close()
    with pytest.raises(SchemaTooNew):
        await running.run_id()


async def test_a_migration_waits_for_the_lock_of_another_director_and_then_gives_up(
    redis_server: RedisServer,
) -> None:
    redis_server.command("SET", "lock:dd:{lock}migrate", "another holder")
    client = address(redis_server).client(2.0)
    with pytest.raises(StoreUnavailable, match="another director holds the migration lock"):
        await migrate_redis(
            client, PREFIX, "redis", redis_steps(), all_steps, begun=lambda step: None, wait=0.0
        )
    client.close()
    assert schema(redis_server) == b"$-1\r\n"


async def test_a_migration_that_lost_its_lock_does_not_record_the_step(
    redis_server: RedisServer, stores: Stores
) -> None:
    def lose(server: redis.Redis, prefix: str) -> None:
        server.set(f"lock:{prefix}{{lock}}migrate", "another holder")

    with pytest.raises(StoreUnavailable, match="lock was lost"):
        await redis_store(stores, redis_server, RedisStep(2, lose)).open()
    assert schema(redis_server) == b"$1\r\n1\r\n"


async def test_the_lock_is_free_after_a_migration(redis_server: RedisServer, stores: Stores) -> None:
    store = redis_store(stores, redis_server)
    await store.open()
    await store.close()
    assert redis_server.command("EXISTS", "lock:dd:{lock}migrate") == b":0\r\n"


# Two releases on one Redis


@pytest.mark.shows("S-56")
async def test_the_older_schema_is_used_while_a_director_without_the_newer_holds_a_lease(
    redis_server: RedisServer, stores: Stores
) -> None:
    old = redis_store(stores, redis_server)
    await old.open()
    await old.renew(lease("d1"), 30)
    await old.renew(lease("d2", known=2), 30)
    await old.swap_buckets([Swap("users", 1, EMPTY_VERSION, b"x")])
    new = redis_store(stores, redis_server, RedisStep(2, mark))
    layout = await new.layout()
    assert (layout.found, layout.known, layout.held_by) == (1, 2, ("d1",))
    await new.open()
    assert (new.schema, new.held_by, new.step) == (1, ("d1",), None)
    assert await new.versions("users") == {1: version_of(b"x")}
    before = await new.run_id()
    assert before == await old.run_id()
    await old.release("d1")
    assert await new.run_id() == before  # so no write is in doubt
    assert (new.schema, new.held_by) == (2, ())
    assert redis_server.command("GET", "dd:marks") == b"$1\r\n1\r\n"
    with pytest.raises(SchemaTooNew, match="upgrade the program"):
        await redis_store(stores, redis_server).open()


async def test_a_store_gets_the_newest_schema_that_all_directors_know(
    redis_server: RedisServer, stores: Stores
) -> None:
    old = redis_store(stores, redis_server)
    await old.open()
    await old.renew(lease("d1", known=2), 30)
    await old.renew(lease("d2", known=3), 30)
    new = redis_store(stores, redis_server, RedisStep(2, mark), RedisStep(3, mark))
    await new.open()
    assert (new.schema, new.held_by) == (2, ("d1",))


@pytest.mark.shows("S-57")
async def test_the_common_schema_is_determined_under_the_lock_and_no_newer_one_is_made(
    redis_server: RedisServer,
) -> None:
    held: list[bytes] = []

    async def only_the_first() -> int:
        held.append(redis_server.command("EXISTS", "lock:dd:{lock}migrate"))
        return 1

    client = address(redis_server).client(2.0)
    steps = [redis_steps()[0], RedisStep(2, mark)]
    await migrate_redis(client, PREFIX, "redis", steps, only_the_first, begun=lambda step: None)
    client.close()
    assert held == [b":1\r\n"]
    assert schema(redis_server) == b"$1\r\n1\r\n"


async def test_a_wiped_store_keeps_its_older_schema_while_directors_that_need_it_may_return(
    redis_server: RedisServer, stores: Stores
) -> None:
    old = redis_store(stores, redis_server)
    await old.open()
    await old.renew(lease("d1"), 30)
    new = redis_store(stores, redis_server, RedisStep(2, mark))
    await new.open()
    redis_server.command("FLUSHALL")
    await new.run_id()
    assert (new.schema, await old.run_id() != "") == (1, True)
    await new.run_id()
    assert new.schema == 1


@pytest.mark.shows("S-58")
async def test_leases_that_cannot_be_read_keep_a_store_from_being_migrated(
    redis_server: RedisServer, stores: Stores
) -> None:
    await redis_store(stores, redis_server).open()
    redis_server.command("HSET", "dd:lease", "d1", "99999999999999 nonsense")
    with pytest.raises(StoreRefused, match="HDEL dd:lease d1"):
        await redis_store(stores, redis_server, RedisStep(2, mark)).open()
    assert schema(redis_server) == b"$1\r\n1\r\n"
