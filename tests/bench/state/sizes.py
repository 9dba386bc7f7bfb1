"""The size of a user in a store: full buckets, written as a director writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from state.base import SPACES, StateStore
from state.urls import open_store
from tests.bench.state.parts import Bench, fill, table
from tests.servers import RedisServer


async def run(bench: Bench, counts: Sequence[int]) -> None:
    rows = [
        await measure(bench, users, names=names, number=number)
        for number, (users, names) in enumerate((users, names) for users in counts for names in (False, True))
    ]
    head = ("users", "names", "Redis: memory", "values", "SQLite: file", "values")
    table("bytes a user; a name is of 23 bytes", head, rows)


async def measure(bench: Bench, users: int, *, names: bool, number: int) -> tuple[str, ...]:
    redis = bench.redis()
    folder = bench.folder / f"sizes{number}"
    folder.mkdir()
    before = used_memory(redis)
    stores = [open_store(url, base_dir=folder) for url in (redis.url, "sqlite:///state.db")]
    for store in stores:
        await store.open()
    await fill(stores, users, names=names)
    values = [await stored_bytes(store) for store in stores]
    for store in stores:
        await store.close()  # SQLite copies its log into the file
    sizes = (
        used_memory(redis) - before,
        values[0],
        sum(path.stat().st_size for path in folder.glob("state.db*")),
        values[1],
    )
    redis.close()
    remove(folder)
    return (str(users), "yes" if names else "no", *(f"{size / users:.2f}" for size in sizes))


def used_memory(redis: RedisServer) -> int:
    found = re.search(rb"used_memory:(\d+)", redis.command("INFO", "memory"))
    assert found
    return int(found[1])


async def stored_bytes(store: StateStore) -> int:
    """Return the bytes of all versions and blobs."""
    return sum(
        [
            len(bucket.version) + len(bucket.blob)
            for space in SPACES
            async for batch in store.load_buckets(space)
            for bucket in batch
        ]
    )


def remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
