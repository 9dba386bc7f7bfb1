"""Faults of the file of a SQLite store: damage, full and read-only disks, missing rights."""

from __future__ import annotations

import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from state.base import (
    EMPTY_VERSION,
    SPACES,
    AuditEntry,
    Document,
    Lost,
    StateStore,
    StoreBusy,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    Swap,
    Swapped,
    version_of,
)
from state.sqlite import SqliteStore
from state.urls import open_store
from tests.contract.conftest import Stores
from tests.disks import PAGE, fill_up, remount, small_disk
from tests.needs import needs_root

pytestmark = pytest.mark.anyio

UNPRIVILEGED = 65534


def put(number: int, blob: bytes) -> Swap:
    return Swap("users", number, EMPTY_VERSION, blob)


def store_in(stores: Stores, folder: Path) -> StateStore:
    return stores.new("sqlite:///state.db", folder=folder)


async def fill(store: StateStore) -> None:
    """Open a store, and write some data of each kind."""
    await store.open()
    await store.swap_buckets([put(n, bytes([n]) * (n * 97 % 7000 + 1)) for n in range(1, 200)])
    await store.swap_document("hosts", EMPTY_VERSION, b"h" * 3000)
    await store.append_audit(
        [AuditEntry(at=time.time(), who="root", what="x", target=str(n)) for n in range(50)]
    )


async def use(store: StateStore) -> None:
    """Call every method once, and check every answer."""
    for space in SPACES:
        async for batch in store.load_buckets(space):
            assert all(type(bucket.blob) is bytes and len(bucket.version) == 8 for bucket in batch)
    versions = await store.versions("users")
    document = await store.read_document("hosts") or Document(EMPTY_VERSION, b"")
    assert "hosts" in await store.documents() or not document.data
    assert all(type(entry.who) is str for entry in await store.audit(100))
    assert await store.run_id()
    await store.health()
    await store.append_audit([AuditEntry(at=time.time(), who="root", what="x", target="y")])
    swaps = [Swap("users", n, versions.get(n, EMPTY_VERSION), b"new") for n in range(210)]
    outcomes = await store.swap_buckets(swaps)
    again = [Swap("users", n, outcome.version, b"new") for n, outcome in enumerate(outcomes)]
    assert await store.swap_buckets(again) == [Swapped(version_of(b"new"))] * 210
    assert await store.swap_document("hosts", document.version, b"new") == Swapped(version_of(b"new"))


async def attempts_until_it_works(store: StateStore) -> int:
    """Return how many attempts it takes. All errors but the first four StoreErrors are raised."""
    for attempt in range(1, 5):
        try:
            await store.open()
            await use(store)
        except StoreError:
            continue
        return attempt
    await store.open()
    await use(store)
    return 5


# Damage


def zeroed_header(file: Path) -> None:
    with file.open("r+b") as data:
        data.write(bytes(100))


def overwritten_middle(file: Path) -> None:
    with file.open("r+b") as data:
        data.seek(file.stat().st_size // PAGE // 2 * PAGE)
        data.write(random.Random(1).randbytes(8 * PAGE))


def half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def fifty_bytes(file: Path) -> None:
    os.truncate(file, 50)


def text(file: Path) -> None:
    file.write_text("users go here\n")


@pytest.mark.shows("S-96", "S-123")
@pytest.mark.parametrize(
    "damage", [zeroed_header, overwritten_middle, half, fifty_bytes, text], ids=lambda f: f.__name__
)
async def test_a_damaged_file_is_set_aside_with_its_name_and_begun_anew(
    tmp_path: Path, stores: Stores, damage: Callable[[Path], None]
) -> None:
    store = store_in(stores, tmp_path)
    await fill(store)
    await store.close()
    damage(tmp_path / "state.db")
    damaged = (tmp_path / "state.db").read_bytes()
    await store.open()
    assert store.set_aside is not None
    assert store.set_aside.read_bytes() == damaged
    await use(store)


@pytest.mark.shows("S-123")
@pytest.mark.parametrize("seed", range(60))
async def test_a_file_with_any_changed_bytes_works_again_and_raises_store_errors_only(
    tmp_path: Path, stores: Stores, seed: int
) -> None:
    chance = random.Random(seed)
    store = store_in(stores, tmp_path)
    await fill(store)
    await store.close()
    data = bytearray((tmp_path / "state.db").read_bytes())
    page = chance.randrange(len(data) // PAGE)
    places = {
        0: lambda: chance.randrange(len(data)),
        1: lambda: page * PAGE + chance.randrange(120),  # the page's header
        2: lambda: (
            chance.randrange(6) * PAGE + PAGE - 1 - chance.randrange(700)
        ),  # the schema, and small rows
    }[seed % 3]
    for _ in range(3):
        data[places()] = chance.randrange(256)
    (tmp_path / "state.db").write_bytes(data)
    assert await attempts_until_it_works(store) <= 2


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"CREATE TABLE document", b"CREATE T\xbdBLE document"), (b"target TEXT", b"t\xbdrget TEXT")],
    ids=["malformed", "column"],
)
async def test_a_file_with_a_damaged_schema_is_set_aside(
    tmp_path: Path, stores: Stores, old: bytes, new: bytes
) -> None:
    store = store_in(stores, tmp_path)
    await fill(store)
    await store.close()
    data = (tmp_path / "state.db").read_bytes()
    (tmp_path / "state.db").write_bytes(data.replace(old, new))
    await store.open()
    assert store.set_aside is not None
    await use(store)


async def test_a_file_whose_schema_is_no_number_is_set_aside(tmp_path: Path, stores: Stores) -> None:
    store = store_in(stores, tmp_path)
    await fill(store)
    await store.close()
    sql(tmp_path, "UPDATE meta SET schema = 'one'")
    await store.open()
    assert store.set_aside is not None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE bucket SET data = 'text' WHERE id = 7",
        "UPDATE bucket SET version = x'0102' WHERE id = 7",
        "UPDATE document SET data = 5",
    ],
)
async def test_a_row_of_another_type_counts_as_damage(tmp_path: Path, stores: Stores, statement: str) -> None:
    store = store_in(stores, tmp_path)
    await fill(store)
    await store.close()
    sql(tmp_path, statement)
    assert await attempts_until_it_works(store) == 2
    assert store.set_aside is not None


async def test_an_audit_entry_with_damaged_text_hides_no_other_entry(tmp_path: Path, stores: Stores) -> None:
    store = store_in(stores, tmp_path)
    await fill(store)
    await store.close()
    sql(tmp_path, "UPDATE audit SET what = CAST(x'ff41' AS TEXT) WHERE id = 3")
    await store.open()
    assert [entry.what for entry in await store.audit(50)].count("x") == 49


@pytest.mark.parametrize("at", [0, 40, 5000, 20_000])
async def test_a_damaged_log_beside_the_file_costs_its_last_writes_only(
    tmp_path: Path, stores: Stores, at: int
) -> None:
    store = store_in(stores, tmp_path)
    await store.open()
    await store.swap_buckets([put(1, b"x")])
    await store.close()  # so that these data are in the file itself
    await store.open()
    await store.swap_buckets([put(n, bytes(3000)) for n in range(2, 30)])
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for name in ("state.db", "state.db-wal"):
        shutil.copy(tmp_path / name, crashed / name)
    with (crashed / "state.db-wal").open("r+b") as log:
        log.seek(at)
        log.write(random.Random(at).randbytes(5000))
    again = store_in(stores, crashed)
    await again.open()
    assert again.set_aside is None
    assert await again.versions("users") == {1: version_of(b"x")}
    assert await again.swap_buckets([put(2, b"y")]) == [Swapped(version_of(b"y"))]


async def test_a_write_ahead_log_without_its_file_is_not_used_for_the_new_file(
    tmp_path: Path, stores: Stores
) -> None:
    store = store_in(stores, tmp_path)
    await fill(store)
    crashed = tmp_path / "crashed"  # between the two renames of setting aside
    crashed.mkdir()
    shutil.copy(tmp_path / "state.db-wal", crashed / "state.db-wal")
    again = store_in(stores, crashed)
    await again.open()
    assert await again.versions("users") == {}
    await use(again)


@pytest.mark.shows("S-123")
async def test_a_file_damaged_after_each_new_beginning_is_refused(tmp_path: Path, stores: Stores) -> None:
    store = store_in(stores, tmp_path)
    for _ in range(10):
        (tmp_path / "state.db").write_text("damaged" * 100)
        await store.open()
        await store.close()
    (tmp_path / "state.db").write_text("damaged" * 100)
    with pytest.raises(StoreRefused, match="check the disk") as caught:
        await store.open()
    assert str(tmp_path / "state.db.damaged-*") in str(caught.value)
    damaged_files(tmp_path)[0].unlink()
    await store.open()
    await use(store)


@pytest.mark.shows("S-98")
async def test_a_failed_or_cancelled_open_does_not_close_the_file_of_the_next_open(
    tmp_path: Path, stores: Stores
) -> None:
    """Symptom: its thread closed that file, and the process ended with a segmentation fault."""
    store = store_in(stores, tmp_path)
    await fill(store)
    await store.close()
    for _ in range(15):
        sql(tmp_path, "ALTER TABLE meta RENAME TO other")
        with pytest.raises(StoreRefused):
            await store.open()
        sql(tmp_path, "ALTER TABLE other RENAME TO meta")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await store.open()
        await opened_in_the_end(store)
        await store.health()
        await store.close()


async def opened_in_the_end(store: StateStore) -> None:
    """Open a file that a cancelled open may hold for a moment."""
    with anyio.fail_after(10):
        while True:
            try:
                return await store.open()
            except StoreBusy:
                await anyio.sleep(0.001)


# Paths that are no file


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
async def test_a_path_that_is_no_regular_file_is_refused_and_left_unchanged(
    tmp_path: Path, stores: Stores, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "state.db")
    store = store_in(stores, tmp_path)
    with pytest.raises(StoreRefused, match="remove it, or name another file"):
        await store.open()
    with pytest.raises(StoreRefused, match="remove it, or name another file"):
        await store.layout()
    assert os.listdir(tmp_path) == ["state.db"]


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_a_file_removed_while_in_use_is_noticed_at_the_next_call(
    tmp_path: Path, stores: Stores, how: str
) -> None:
    store, backup = store_in(stores, tmp_path), stores.new("sqlite:///backup.db", folder=tmp_path)
    await fill(store)
    await backup.open()
    await backup.swap_buckets([put(1, b"old")])
    await backup.close()
    if how == "removed":
        (tmp_path / "state.db").unlink()
    else:
        (tmp_path / "backup.db").rename(tmp_path / "state.db")
    with pytest.raises(StoreUnavailable, match="removed or replaced"):
        await store.swap_document("hosts", version_of(b"h" * 3000), b"new")
    expected = {} if how == "removed" else {1: version_of(b"old")}
    assert await store.versions("users") == expected
    assert await store.swap_document("hosts", EMPTY_VERSION, b"new") == Swapped(version_of(b"new"))
    await store.close()
    assert (tmp_path / "state.db").exists()


# Disks


async def test_a_store_on_a_full_disk_is_refused_and_opens_when_there_is_space(
    tmp_path: Path, stores: Stores
) -> None:
    with small_disk(tmp_path) as disk:
        store = store_in(stores, disk)
        filling = fill_up(disk)
        for _ in range(2):  # the first attempt must not keep its own lock
            with pytest.raises(StoreRefused, match="free some space"):
                await store.open()
        filling.unlink()
        await store.open()
        await use(store)
        await store.close()


async def test_writes_to_a_full_disk_are_refused_keep_the_data_and_succeed_later(
    tmp_path: Path, stores: Stores
) -> None:
    with small_disk(tmp_path) as disk:
        store = store_in(stores, disk)
        await store.open()
        assert isinstance(await store.swap_document("hosts", EMPTY_VERSION, b"h"), Swapped)
        filling = fill_up(disk)
        with pytest.raises(StoreRefused, match="free some space"):
            await store.swap_buckets([put(n, bytes(5000)) for n in range(100)])
        with pytest.raises(StoreRefused, match="free some space"):
            await store.swap_document("plan", EMPTY_VERSION, bytes(100_000))
        assert await store.versions("users") == {}
        assert await store.read_document("hosts") == Document(version_of(b"h"), b"h")
        filling.unlink()
        assert isinstance(await store.swap_document("plan", EMPTY_VERSION, bytes(1000)), Swapped)
        assert isinstance(await store.swap_document("hosts", EMPTY_VERSION, b"i"), Lost)
        await store.close()
        await store.open()
        assert await store.documents() == ["hosts", "plan"]
        await store.close()


@pytest.mark.shows("S-118")
async def test_health_is_refused_on_a_full_disk(tmp_path: Path, stores: Stores) -> None:
    with small_disk(tmp_path) as disk:
        store = store_in(stores, disk)
        await store.open()
        await store.close()
        await store.open()
        fill_up(disk)
        with pytest.raises(StoreRefused, match="free some space"):
            await store.health()
        assert await store.documents() == []
        await store.close()


async def test_a_disk_with_write_errors_is_unavailable_and_the_message_says_where_to_look(
    tmp_path: Path, stores: Stores
) -> None:
    store = store_in(stores, tmp_path)
    await store.open()
    assert isinstance(await store.swap_document("hosts", EMPTY_VERSION, b"h"), Swapped)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(StoreUnavailable, match="kernel's log"):
            await store.swap_buckets([put(n, bytes(5000)) for n in range(100)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert await store.read_document("hosts") == Document(version_of(b"h"), b"h")
    await use(store)


async def test_a_read_only_file_system_is_refused_with_what_to_do(tmp_path: Path, stores: Stores) -> None:
    with small_disk(tmp_path, size="8m") as disk:
        store = store_in(stores, disk)
        await fill(store)
        await store.close()
        remount(disk, "ro")
        for look in (store.open, store.layout):
            with pytest.raises(StoreRefused, match=r"read-only.*writable for this user"):
                await look()
        remount(disk, "rw")
        await store.open()
        await use(store)
        await store.close()


# Rights


@contextmanager
def as_unprivileged_user(stores: Stores) -> Iterator[tuple[Path, StateStore]]:
    """Run the block as a user without rights. Yields a folder of this user and a store in it.

    The store is made before: the user may not be allowed to read the files of this program."""
    folder = Path(tempfile.mkdtemp(prefix="unprivileged-"))
    root = os.geteuid() == 0
    store = store_in(stores, folder)
    try:
        if root:
            os.chown(folder, UNPRIVILEGED, UNPRIVILEGED)
            os.seteuid(UNPRIVILEGED)
        yield folder, store
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("state.db", 0o000), ("state.db", 0o400), ("state.db.lock", 0o400), (".", 0o500)],
    ids=["unreadable", "read-only", "lock", "folder"],
)
async def test_missing_rights_are_refused_with_what_to_do_and_nothing_is_set_aside(
    stores: Stores, name: str, mode: int
) -> None:
    with as_unprivileged_user(stores) as (folder, store):
        await fill(store)
        await store.close()
        (folder / name).chmod(mode)
        if name == ".":
            (folder / "state.db.lock").chmod(0o400)
        with pytest.raises(StoreRefused, match="writable for this user"):
            await store.open()
        for path in (folder, folder / "state.db", folder / "state.db.lock"):
            path.chmod(0o700)
        await store.open()
        await use(store)
        await store.close()
        assert damaged_files(folder) == []


@pytest.mark.parametrize("beside", [False, True], ids=["as a director", "as a tool"])
@pytest.mark.parametrize("mode", [0o755, 0o700], ids=["file", "folder"])
async def test_a_file_of_another_user_is_refused_with_the_advice_to_run_as_that_user(
    stores: Stores, *, beside: bool, mode: int
) -> None:
    needs_root("files of another user")
    with as_unprivileged_user(stores) as (folder, store):
        await fill(store)
        await store.close()
        os.seteuid(0)
        os.chown(folder, 0, 0)
        for path in (folder, *folder.iterdir()):
            path.chmod(0o600)
            os.chown(path, 0, 0)
        folder.chmod(mode)
        os.seteuid(UNPRIVILEGED)
        store = stores.keep(open_store("sqlite:///state.db", base_dir=folder, beside=beside))
        with pytest.raises(StoreRefused, match="it belongs to root, and this program runs as") as refused:
            await store.open()
        assert "run it as root" in str(refused.value)
        assert "writable" not in str(refused.value)


def opened_by_another_process(folder: Path) -> subprocess.CompletedProcess[str]:
    program = """
import asyncio, sys
from pathlib import Path
from state.urls import open_store
asyncio.run(open_store("sqlite:///state.db", base_dir=Path(sys.argv[1])).open())
"""
    return subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True)


@pytest.mark.shows("S-87")
async def test_a_second_process_learns_which_process_has_the_file_open(
    tmp_path: Path, stores: Stores
) -> None:
    await store_in(stores, tmp_path).open()
    second = opened_by_another_process(tmp_path)
    error = second.stderr.splitlines()[-1]
    assert second.returncode == 1
    assert error.startswith(f"state.base.{StoreBusy.__name__}: sqlite:///state.db: {tmp_path}/state.db")
    assert f"process {os.getpid()}" in error


@pytest.mark.shows("S-30")
@pytest.mark.parametrize("writes", [True, False], ids=["a write", "a read"])
async def test_bytes_overwritten_during_a_call_are_noticed_at_the_next_call(
    tmp_path: Path, stores: Stores, *, writes: bool
) -> None:
    store = await stores.open("sqlite:///state.db", folder=tmp_path)
    await fill(store)
    assert isinstance(store, SqliteStore)
    file = tmp_path / "state.db"

    def copied(db: sqlite3.Connection) -> None:
        db.execute("UPDATE document SET version = version")
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def job(db: sqlite3.Connection) -> None:
        if writes:
            db.execute("UPDATE document SET version = version")
        with file.open("r+b") as content:
            content.write(os.urandom(file.stat().st_size))

    await store._run("test", copied)
    await store.run_id()
    assert store.set_aside is None
    await store._run("test", job)
    with pytest.raises(StoreUnavailable, match="set aside"):
        await store.run_id()
    assert store.set_aside is not None


@pytest.mark.shows("S-111")
async def test_documents_wait_for_the_disk_and_buckets_do_not(tmp_path: Path, stores: Stores) -> None:
    store = store_in(stores, tmp_path)
    await store.open()
    database = store._file.connection  # type: ignore[attr-defined]
    levels = []
    for write in (
        lambda: store.swap_document("hosts", EMPTY_VERSION, b"h"),
        lambda: store.swap_buckets([put(1, b"x")]),
        lambda: store.append_audit([AuditEntry(at=time.time(), who="root", what="x", target="y")]),
    ):
        await write()
        levels.append(database.execute("PRAGMA synchronous").fetchone()[0])
    assert levels == [2, 1, 2], "FULL, NORMAL, FULL"


@pytest.mark.shows("S-121")
async def test_all_calls_share_one_thread_and_the_file_has_a_write_ahead_log(
    tmp_path: Path, stores: Stores
) -> None:
    store = store_in(stores, tmp_path)
    await fill(store)
    names: set[str] = set()
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(store.swap_buckets, [put(number, b"x")])
            tasks.start_soon(store.versions, "users")
            names |= {thread.name for thread in threading.enumerate() if thread.name.startswith("sqlite")}
    assert len(names) == 1
    assert store._file.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)  # type: ignore[attr-defined]


def damaged_files(folder: Path) -> list[Path]:
    return list(folder.glob("*damaged*"))


def sql(folder: Path, statement: str) -> None:
    """Change the file as another program would while the store is closed."""
    database = sqlite3.connect(folder / "state.db", isolation_level=None)
    database.execute(statement)
    database.close()
