"""Processes that write to a SQLite store, or make its file, are killed at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from state.base import EMPTY_VERSION, Document, Swap, Swapped, version_of
from tests.contract.conftest import Stores

pytestmark = pytest.mark.anyio

KILLS = 30

WRITERS = """
    import asyncio, os, sys, time
    from pathlib import Path
    from state.base import (EMPTY_VERSION, AuditEntry, Document, Swap, version_of)
    from state.urls import open_store

    async def write(folder, out):
        store = open_store("sqlite:///state.db", base_dir=Path(folder))
        await store.open()
        stored = await store.read_document("hosts") or Document(EMPTY_VERSION, b"0")
        versions, version = await store.versions("users"), stored.version
        for turn in range(int(stored.data) + 1, 1_000_000):
            blob = b"%09d" % turn * 300
            swaps = [Swap("users", n, versions.get(n, EMPTY_VERSION), blob) for n in range(0, 4096, 64)]
            await store.swap_buckets(swaps)
            versions = dict.fromkeys(range(0, 4096, 64), version_of(blob))
            os.write(out, b"b %d\\n" % turn)
            version = (await store.swap_document("hosts", version, b"%d" % turn)).version
            os.write(out, b"d %d\\n" % turn)
            await store.append_audit([AuditEntry(at=time.time(), who="root", what="down", target=str(turn))])
            os.write(out, b"a %d\\n" % turn)

    for line in sys.stdin:  # a process for each line: to start Python each time would take longest
        pid = os.fork()
        if pid == 0:
            asyncio.run(write(line.strip(), 1))
        os.write(1, b"%d\\n" % pid)
        os.waitpid(pid, 0)
        os.write(1, b"ended\\n")
"""


class Writers:
    """Starts processes, one after another, that write in a loop and print the confirmed writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        command = [sys.executable, "-u", "-c", textwrap.dedent(WRITERS)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, lines: int) -> dict[str, int]:
        """Kill a process that has confirmed `lines` writes. Returns the last confirmed turn of each kind."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{self._folder}\n".encode())
        self._process.stdin.flush()
        said = []
        pid = 0
        while not pid or len(said) < lines:
            word = self._process.stdout.readline().strip()
            pid = int(word) if word.isdigit() else pid
            said += [word] * (not word.isdigit())
        os.kill(pid, signal.SIGKILL)
        said += iter(lambda: self._process.stdout.readline().strip(), b"ended")  # type: ignore[union-attr]
        return {word[:1].decode(): int(word[2:]) for word in said}


@pytest.mark.shows("S-111", "S-122")
async def test_thirty_kills_at_any_moment_lose_no_confirmed_write(tmp_path: Path, stores: Stores) -> None:
    chance = random.Random(5)
    with Writers(tmp_path) as writers:
        for _ in range(KILLS):
            confirmed = writers.run(chance.randrange(0, 40))
            store = await stores.open("sqlite:///state.db", folder=tmp_path)
            document = await store.read_document("hosts") or Document(EMPTY_VERSION, b"0")
            entries = [int(entry.target) for entry in await store.audit(20_000)]
            loaded = [bucket async for batch in store.load_buckets("users") for bucket in batch]
            await store.close()
            assert store.set_aside is None
            last = int(document.data)
            assert confirmed.get("d", 0) <= last <= max(confirmed.values(), default=last) + 1
            assert [b.version for b in loaded] == [version_of(b.blob) for b in loaded]
            turns = {int(bucket.blob[:9]) for bucket in loaded} or {0}
            assert len(turns) == 1, "a call is one transaction here"
            assert max(turns) in (last, last + 1)
            assert max(turns) >= confirmed.get("b", 0)
            assert entries == sorted(set(entries), reverse=True)
            assert max(entries, default=0) >= confirmed.get("a", 0)
            assert len(entries) >= last - KILLS, "a kill between document and audit costs an entry at most"


def killed_while_opening(parent: Path) -> list[Path]:
    """Folders in which a process was killed while it made its file."""
    program = f"""
import os
from pathlib import Path
from state.migrate import sqlite_steps
from state.sqlite_file import DatabaseFile
for number in range(40):
    if os.fork():
        continue
    os.mkdir(f"{parent}/{{number}}")
    os.write(1, b".")
    DatabaseFile(Path(f"{parent}/{{number}}/state.db"), "sqlite", 5.0, sqlite_steps()).open()
    os.kill(os.getpid(), {signal.SIGKILL:d})
os.write(1, b"!")
os.read(0, 1)
"""
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
    assert process.stdout is not None
    while process.stdout.read(1) == b".":
        pass
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return list(parent.iterdir())


@pytest.mark.shows("S-122")
async def test_a_kill_while_the_file_is_made_leaves_a_file_that_can_be_opened(
    tmp_path: Path, stores: Stores
) -> None:
    folders = killed_while_opening(tmp_path)
    assert folders
    for folder in folders:
        store = await stores.open("sqlite:///state.db", folder=folder)
        assert await store.swap_buckets([Swap("users", 1, EMPTY_VERSION, b"x")]) == [
            Swapped(version_of(b"x"))
        ]
        assert store.set_aside is None
        await store.close()
