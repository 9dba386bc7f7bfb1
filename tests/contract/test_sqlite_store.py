"""Behaviour of a store on SQLite only: one file, one process, and faults of the file."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from state.audit import AUDIT_AGE
from state.base import (
    EMPTY_VERSION,
    AuditEntry,
    Lease,
    StateStore,
    StoreBusy,
    StoreRefused,
    StoreUnavailable,
    Swap,
    Swapped,
    version_of,
)
from state.bucketnumbers import BUCKETS
from state.urls import open_store
from tests.contract.conftest import Stores

pytestmark = pytest.mark.anyio

X = Swapped(version_of(b"x"))

WRITER = """
    import asyncio, sys
    from pathlib import Path
    from state.base import (EMPTY_VERSION, Swap, version_of)
    from state.urls import open_store

    async def main():
        store = open_store("sqlite:///state.db", base_dir=Path(sys.argv[1]))
        await store.open()
        blob, document = b"", b""
        for turn in range(1, 1_000_000):
            new = b"%d" % turn
            swaps = [Swap("users", n, version_of(blob), new * 300) for n in range(64)]
            await store.swap_buckets(swaps)
            await store.swap_document("hosts", version_of(document), new)
            blob, document = new * 300, new
            print(turn, flush=True)

    asyncio.run(main())
"""


def put(number: int, blob: bytes) -> Swap:
    return Swap("users", number, EMPTY_VERSION, blob)


def store_in(stores: Stores, folder: Path, *, name: str = "state.db") -> StateStore:
    return stores.new(f"sqlite:///{name}", folder=folder)


@pytest.fixture
async def store(tmp_path: Path, stores: Stores) -> StateStore:
    store = store_in(stores, tmp_path)
    await store.open()
    return store


# One process


@pytest.mark.shows("S-87")
async def test_a_file_that_is_in_use_is_busy_and_names_file_and_process(
    store: StateStore, tmp_path: Path, stores: Stores
) -> None:
    with pytest.raises(StoreBusy, match="stop that process") as caught:
        await store_in(stores, tmp_path).open()
    assert caught.value.file == tmp_path / "state.db"
    assert caught.value.holder == f"process {os.getpid()}"


@pytest.mark.shows("S-87")
async def test_a_file_in_use_by_another_process_is_busy_until_the_process_ends(
    tmp_path: Path, stores: Stores
) -> None:
    store = store_in(stores, tmp_path)
    with writer(tmp_path) as process:
        line(process)
        with pytest.raises(StoreBusy) as caught:
            await store.open()
        process.kill()
        process.wait()
        await store.open()
    assert caught.value.holder == f"process {process.pid}"


async def test_a_closed_file_can_be_opened_by_the_next(
    store: StateStore, tmp_path: Path, stores: Stores
) -> None:
    await store.close()
    other = store_in(stores, tmp_path)
    await other.open()
    assert await other.swap_buckets([put(1, b"x")]) == [X]


@pytest.mark.shows("S-115")
async def test_a_store_lists_its_own_lease_only(store: StateStore, tmp_path: Path, stores: Stores) -> None:
    await store.renew(Lease(member="a", ring_address="a", incarnation=1, synced=True), 30)
    await store.close()
    other = store_in(stores, tmp_path)
    await other.open()
    assert await other.members() == []


# Crashes


async def test_confirmed_writes_survive_a_kill(tmp_path: Path, stores: Stores) -> None:
    with writer(tmp_path) as process:
        for _ in range(20):
            confirmed = line(process)
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0].split()
    last = int(rest[-1]) if rest else confirmed
    store = store_in(stores, tmp_path)
    await store.open()
    document = await store.read_document("hosts")
    blobs = {bucket.blob for batch in [b async for b in store.load_buckets("users")] for bucket in batch}
    assert store.set_aside is None
    assert document is not None
    assert int(document.data) in (last, last + 1)
    assert blobs <= {b"%d" % n * 300 for n in (last, last + 1)}
    assert len(blobs) == 1


# Damage


async def test_a_file_that_is_no_database_is_set_aside_and_begun_anew(tmp_path: Path, stores: Stores) -> None:
    (tmp_path / "state.db").write_bytes(b"this is not a database, but it is long enough to be read" * 100)
    store = store_in(stores, tmp_path)
    await store.open()
    assert store.set_aside is not None
    assert store.set_aside.name.startswith("state.db.damaged-20")
    assert store.set_aside.read_bytes().startswith(b"this is not")
    assert await store.swap_buckets([put(1, b"x")]) == [X]


@pytest.mark.shows("S-101")
async def test_a_file_with_damaged_pages_is_set_aside_and_begun_anew_with_what_can_be_read_of_it(
    store: StateStore, tmp_path: Path, stores: Stores
) -> None:
    await store.swap_buckets([put(n, bytes(2000)) for n in range(500)])
    before = await store.run_id()
    await store.close()
    with (tmp_path / "state.db").open("r+b") as file:
        file.seek(4096 * 3)
        file.write(os.urandom(4096 * 40))
    again = store_in(stores, tmp_path)
    await again.open()
    assert again.set_aside is not None
    assert again.set_aside.exists()
    there = await again.versions("users")
    assert 400 < len(there) < 500
    assert set(there.values()) == {version_of(bytes(2000))}
    assert await again.run_id() != before


async def test_a_second_damaged_file_does_not_replace_the_first(tmp_path: Path, stores: Stores) -> None:
    names = []
    for text in (b"first" * 1000, b"second" * 1000):
        (tmp_path / "state.db").write_bytes(text)
        store = store_in(stores, tmp_path)
        await store.open()
        names.append(store.set_aside)
        await store.close()
    assert len({name.read_bytes() for name in names if name}) == 2


async def test_a_file_damaged_while_it_is_open_is_set_aside_and_the_next_call_works(
    store: StateStore, tmp_path: Path
) -> None:
    await store.swap_buckets([put(n, bytes(3000)) for n in range(BUCKETS)])
    before = await store.run_id()
    await store.close()
    await store.open()
    with (tmp_path / "state.db").open("r+b") as file:
        file.seek(4096 * 10)
        file.write(os.urandom(4096 * 1500))
    with pytest.raises(StoreUnavailable, match="set aside"):
        async for _ in store.load_buckets("users"):
            pass
    assert store.set_aside is not None
    assert await store.run_id() != before
    assert await store.swap_buckets([put(BUCKETS, b"x")]) == [X]


async def test_an_empty_file_becomes_a_store(tmp_path: Path, stores: Stores) -> None:
    (tmp_path / "state.db").touch()
    store = store_in(stores, tmp_path)
    await store.open()
    assert store.set_aside is None
    assert await store.swap_buckets([put(1, b"x")]) == [X]


# Refused


async def test_the_database_of_another_program_is_refused_and_left_alone(
    tmp_path: Path, stores: Stores
) -> None:
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE mail (id INTEGER)")
    before = (tmp_path / "state.db").read_bytes()
    with pytest.raises(StoreRefused, match="another program"):
        await store_in(stores, tmp_path).open()
    assert (tmp_path / "state.db").read_bytes() == before


async def test_a_database_of_another_program_with_a_table_of_the_same_name_is_refused(
    tmp_path: Path, stores: Stores
) -> None:
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE meta (key TEXT, value TEXT)")
    with pytest.raises(StoreRefused, match="another program"):
        await store_in(stores, tmp_path).open()


async def test_a_folder_that_does_not_exist_is_refused_by_name(tmp_path: Path, stores: Stores) -> None:
    with pytest.raises(StoreRefused, match=f"create {tmp_path}/none"):
        await store_in(stores, tmp_path, name="none/state.db").open()


async def test_a_folder_in_place_of_the_file_is_a_store_error(tmp_path: Path, stores: Stores) -> None:
    (tmp_path / "state.db").mkdir()
    with pytest.raises((StoreRefused, StoreUnavailable), match="open"):
        await store_in(stores, tmp_path).open()


async def test_a_store_opened_twice_at_once_is_open_and_its_file_is_free_when_closed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    store = open_store(url, base_dir=tmp_path)
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(store.open)
    assert await store.versions("users") == {}
    await store.close()
    other = open_store(url, base_dir=tmp_path)
    await other.open()
    await other.close()


async def test_a_failed_open_leaves_no_lock_behind(tmp_path: Path, stores: Stores) -> None:
    (tmp_path / "state.db").mkdir()
    store = store_in(stores, tmp_path)
    with pytest.raises((StoreRefused, StoreUnavailable)):
        await store.open()
    (tmp_path / "state.db").rmdir()
    await store.open()
    assert await store.swap_buckets([put(1, b"x")]) == [X]


@pytest.mark.shows("S-85")
async def test_a_full_disk_is_refused_with_what_to_do_until_there_is_space(
    store: StateStore, tmp_path: Path
) -> None:
    await store.swap_buckets([put(1, b"x")])
    limit(store, pages=40)
    with pytest.raises(StoreRefused, match="free some space"):
        await store.swap_buckets([put(n, bytes(5000)) for n in range(100)])
    with pytest.raises(StoreRefused, match="free some space"):
        await store.swap_document("hosts", EMPTY_VERSION, bytes(500_000))
    limit(store, pages=1_000_000)
    assert await store.versions("users") == {1: version_of(b"x")}
    assert await store.swap_document("hosts", EMPTY_VERSION, b"x") == X


@pytest.mark.shows("S-84")
async def test_a_file_locked_by_a_tool_is_unavailable_and_then_works_again(
    tmp_path: Path, stores: Stores
) -> None:
    store = stores.new("sqlite:///state.db", folder=tmp_path, timeout=0.3)
    await store.open()
    tool = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    tool.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="swap_buckets"):
        await store.swap_buckets([put(1, b"x")])
    tool.execute("ROLLBACK")
    tool.close()
    assert await store.swap_buckets([put(1, b"x")]) == [X]


@pytest.mark.shows("S-92")
async def test_a_cancelled_caller_returns_at_once(tmp_path: Path, stores: Stores) -> None:
    store = await stores.open("sqlite:///state.db", folder=tmp_path, timeout=10.0)
    tool = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    tool.execute("BEGIN IMMEDIATE")
    start = time.monotonic()
    with anyio.move_on_after(0.1) as scope:
        await store.swap_buckets([put(1, b"x")])
    took = time.monotonic() - start
    tool.execute("ROLLBACK")
    tool.close()
    assert scope.cancelled_caught
    assert took < 2
    assert await store.swap_buckets([put(1, b"x")]) == [X]


# Around the file


async def test_audit_entries_that_are_too_old_leave_the_file(store: StateStore, tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    old = time.time() - AUDIT_AGE - 60
    db.execute(
        "INSERT INTO audit (at, who, what, target, detail, reason) VALUES (?, '', '', '', '', '')", (old,)
    )
    await store.append_audit([AuditEntry(at=time.time(), who="root", what="down", target="10.0.0.1")])
    assert db.execute("SELECT count(*) FROM audit").fetchone() == (1,)
    db.close()


async def test_other_users_cannot_read_the_file(store: StateStore, tmp_path: Path) -> None:
    await store.swap_buckets([put(1, b"x")])
    assert open_bits(tmp_path) == dict.fromkeys(
        ("state.db", "state.db-wal", "state.db-shm", "state.db.lock"), 0
    )


async def test_a_copy_taken_while_closed_is_a_backup(
    store: StateStore, tmp_path: Path, stores: Stores
) -> None:
    await store.swap_buckets([put(1, b"x")])
    await store.close()
    shutil.copy(tmp_path / "state.db", tmp_path / "copy.db")
    copy = store_in(stores, tmp_path, name="copy.db")
    await copy.open()
    assert await copy.versions("users") == {1: version_of(b"x")}


async def test_an_absolute_path_is_used_unchanged(tmp_path: Path, stores: Stores) -> None:
    store = stores.new(f"sqlite:///{tmp_path}/there.db", folder=Path("/nowhere"))
    await store.open()
    assert (tmp_path / "there.db").exists()


def writer(folder: Path) -> subprocess.Popen[bytes]:
    """A process that writes without end and prints the number of each turn that was confirmed."""
    program = textwrap.dedent(WRITER)
    return subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE)


def line(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def open_bits(folder: Path) -> dict[str, int]:
    """Return the rights of group and others for each file."""
    return {file.name: file.stat().st_mode & 0o077 for file in folder.iterdir()}


def limit(store: StateStore, *, pages: int) -> None:
    """Make the file as full as a full disk would."""
    store._file.connection.execute(f"PRAGMA max_page_count = {pages}")  # type: ignore[attr-defined]
