"""500 bytes of a SQLite file are damaged, at any place: every document or its copy is undamaged."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from state.base import EMPTY_VERSION, SPLIT, AuditEntry, Document, StateStore, Swap, Swapped, version_of
from state.bucketnumbers import BUCKETS, above, below
from state.sqlite_documents import copies_in
from tests.contract.conftest import Stores
from tests.disks import PAGE

pytestmark = pytest.mark.anyio

DAMAGED = 500
STEP = {"random": 997, "zeros": 2011}
"""Bytes from one damaged place to the next. All ends of pages are damaged too."""
CHANCE = random.Random(1)
LARGE, SMALL = CHANCE.randbytes(30_000), CHANCE.randbytes(300)
DOCUMENTS = {"applied": CHANCE.randbytes(5000), "hosts": LARGE, "members": SMALL}
BLOBS = {n: CHANCE.randbytes(22 * (n % 40 + 1)) for n in range(0, BUCKETS, 40)}


async def fill(store: StateStore) -> None:
    """Write everything twice. Old data of the first write may remain in pages that are no longer in use."""
    await store.open()
    for blobs in ({n: bytes(len(blob) + 500) for n, blob in BLOBS.items()}, BLOBS):
        versions = await store.versions("users")
        await store.swap_buckets(
            [Swap("users", n, versions.get(n, EMPTY_VERSION), blob) for n, blob in blobs.items()]
        )
    for number in (2, 1, 0):
        for name, data in DOCUMENTS.items():
            old = await store.read_document(name) or Document(EMPTY_VERSION, b"")
            written = data if number == 0 else data[: len(data) // number] + b"old"
            assert isinstance(await store.swap_document(name, old.version, written), Swapped)
    await store.append_audit(
        [AuditEntry(at=time.time(), who="root", what="x", target=str(n)) for n in range(40)]
    )


async def whole(store: StateStore) -> dict[str, bytes]:
    """Return the documents as a director gets them."""
    found = {}
    for name in DOCUMENTS:
        document = await store.read_document(name)
        if document is None or document.version != version_of(document.data):
            document = await store.second_copy(name)
        if document is not None:
            found[name] = document.data
    return found


def junk(file: Path, at: int, kind: str) -> None:
    """Return zeros, or other bytes that a faulty disk may return."""
    with file.open("r+b") as data:
        size = min(DAMAGED, file.stat().st_size - at)
        data.seek(at)
        data.write(bytes(size) if kind == "zeros" else random.Random(at).randbytes(size))


@pytest.mark.shows("S-29")
@pytest.mark.parametrize("kind", ["zeros", "random"])
async def test_500_damaged_bytes_anywhere_in_a_file_lose_no_document(
    tmp_path: Path, stores: Stores, kind: str
) -> None:
    store = stores.new("sqlite:///whole.db", folder=tmp_path)
    await fill(store)
    await store.close()
    size = len((tmp_path / "whole.db").read_bytes())
    ends = range(PAGE - DAMAGED // 2, size, PAGE)
    for place in sorted({*range(0, size, STEP[kind]), *ends}):
        folder = tmp_path / "damaged"
        folder.mkdir()
        shutil.copy(tmp_path / "whole.db", folder / "state.db")
        junk(folder / "state.db", place, kind)
        damaged = stores.new("sqlite:///state.db", folder=folder)
        await damaged.open()
        assert await whole(damaged) == DOCUMENTS, place
        buckets = [bucket async for batch in damaged.load_buckets("users") for bucket in batch]
        good = sum(BLOBS[bucket.number] == bucket.blob for bucket in buckets)
        assert good >= len(BLOBS) - 2 * PAGE // 22, place
        await damaged.close()
        shutil.rmtree(folder)


@pytest.mark.shows("S-29")
@pytest.mark.parametrize("place", ["file", "log"])
async def test_500_damaged_bytes_in_the_files_of_a_director_that_was_killed_lose_no_document(
    tmp_path: Path, stores: Stores, place: str
) -> None:
    """The newest data are in the write-ahead log alone: a damaged log loses the last writes, which no copy
    has, but no data that were in the file before."""
    store = stores.new("sqlite:///state.db", folder=tmp_path)
    await fill(store)
    await store.close()
    await store.open()
    newer = {name: data + b"newer" for name, data in DOCUMENTS.items()}
    for name, data in newer.items():
        assert isinstance(await store.swap_document(name, version_of(DOCUMENTS[name]), data), Swapped)
    name = "state.db" if place == "file" else "state.db-wal"
    for at in range(0, len((tmp_path / name).read_bytes()), 1999):
        folder = tmp_path / "killed"
        folder.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"state.db{suffix}", folder / f"state.db{suffix}")
        junk(folder / name, at, "random")
        damaged = stores.new("sqlite:///state.db", folder=folder)
        await damaged.open()
        found = await whole(damaged)
        if place == "file":
            assert found == newer, at
        else:
            assert found.keys() == DOCUMENTS.keys()
            assert all(data in (DOCUMENTS[name], newer[name]) for name, data in found.items()), at
        await damaged.close()
        shutil.rmtree(folder)


def first_page(file: Path) -> None:
    with file.open("r+b") as data:
        data.write(os.urandom(PAGE))


def half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.shows("S-31")
@pytest.mark.parametrize("damage", [first_page, half], ids=lambda f: f.__name__)
async def test_the_new_file_has_everything_that_is_readable_in_the_damaged_file(
    tmp_path: Path, stores: Stores, damage: Callable[[Path], None]
) -> None:
    store = stores.new("sqlite:///state.db", folder=tmp_path)
    await fill(store)
    await store.close()
    damage(tmp_path / "state.db")
    await store.open()
    assert store.set_aside is not None
    buckets = {b.number: b.blob async for batch in store.load_buckets("users") for b in batch}
    assert len(buckets) > len(BLOBS) // 4
    if damage is first_page:
        assert buckets == BLOBS
        assert await whole(store) == DOCUMENTS
        assert len(await store.audit(100)) == 40
    else:
        assert set(buckets.items()) <= set(BLOBS.items())
    assert [name for name in os.listdir(tmp_path) if ".new" in name] == []


@pytest.mark.shows("S-31")
async def test_a_split_bucket_whose_mark_was_on_a_damaged_page_is_marked_again(
    tmp_path: Path, stores: Stores
) -> None:
    """Buckets below a bucket that is not marked are ignored."""
    store = stores.new("sqlite:///state.db", folder=tmp_path)
    await store.open()
    leaf = below(below(7)[1])[0]
    swaps = [Swap("users", leaf, EMPTY_VERSION, b"x" * 22), Swap("users", above(leaf), EMPTY_VERSION, SPLIT)]
    await store.swap_buckets(swaps)
    await store.close()
    first_page(tmp_path / "state.db")
    await store.open()
    found = {bucket.number: bucket.blob async for batch in store.load_buckets("users") for bucket in batch}
    assert found == {7: SPLIT, above(leaf): SPLIT, leaf: b"x" * 22}


@pytest.mark.shows("S-29")
async def test_the_second_copy_follows_the_document(tmp_path: Path, stores: Stores) -> None:
    store = stores.new("sqlite:///state.db", folder=tmp_path)
    await store.open()
    version = EMPTY_VERSION
    for size in (10, 30_000, 3000, 1):
        data = CHANCE.randbytes(size)
        version = (await store.swap_document("hosts", version, data)).version
        assert await store.second_copy("hosts") == Document(version, data)
    await store.swap_document("hosts", version, b"")
    assert await store.second_copy("hosts") is None
    assert await store.second_copy("members") is None
    await store.close()
    assert copies_in((tmp_path / "state.db").read_bytes()) == {"hosts": b""}, "removed documents stay removed"


async def test_a_file_of_an_older_release_gets_copies_as_documents_are_written(
    tmp_path: Path, stores: Stores
) -> None:
    store = stores.new("sqlite:///state.db", folder=tmp_path)
    await store.open()
    await store.close()
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as database:
        database.execute("INSERT INTO document VALUES ('hosts', ?, ?)", (version_of(SMALL), SMALL))
    await store.open()
    assert await store.second_copy("hosts") is None
    assert await store.swap_document("hosts", version_of(SMALL), SMALL) == Swapped(version_of(SMALL))
    assert await store.second_copy("hosts") == Document(version_of(SMALL), SMALL)
