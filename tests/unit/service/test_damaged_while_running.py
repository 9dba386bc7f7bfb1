"""The files of a SQLite store are damaged under a director that runs, which is killed a moment later."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from director.core.placement.users import PINNED
from tests.unit.service.parts import HOSTS, Node, clean, key_of, running, user
from tests.waiting import until

pytestmark = pytest.mark.anyio
NOW = int(time.time())
CHANCE = random.Random(1)
FILE, LOG, SHM = "state.db", "state.db-wal", "state.db-shm"


def emptied(folder: Path) -> None:
    os.truncate(folder / FILE, 0)


def shortened(folder: Path) -> None:
    os.truncate(folder / FILE, 5000)


def overwritten(folder: Path) -> None:
    with (folder / FILE).open("r+b") as file:
        file.write(CHANCE.randbytes(8192))


def log_overwritten(folder: Path) -> None:
    size = (folder / LOG).stat().st_size
    with (folder / LOG).open("r+b") as file:
        file.write(CHANCE.randbytes(size))


def log_shortened(folder: Path) -> None:
    os.truncate(folder / LOG, 100)


def log_removed(folder: Path) -> None:
    (folder / LOG).unlink()
    (folder / SHM).unlink()


def shm_removed(folder: Path) -> None:
    (folder / SHM).unlink()


def replaced_by_junk(folder: Path) -> None:
    (folder / "junk").write_bytes(CHANCE.randbytes(20_000))
    (folder / "junk").rename(folder / FILE)


def removed(folder: Path) -> None:
    (folder / FILE).unlink()


DAMAGES = [
    emptied,
    shortened,
    overwritten,
    log_overwritten,
    log_shortened,
    log_removed,
    shm_removed,
    replaced_by_junk,
    removed,
]


def killed(folder: Path) -> Path:
    """The files as a kill at this moment leaves them."""
    left = folder / "killed"
    left.mkdir()
    for name in (FILE, LOG):
        if (folder / name).exists():
            shutil.copy(folder / name, left / name)
    return left


async def check(folder: Path, weight: int) -> None:
    async with running(Node("sqlite:///state.db", folder)) as node:
        rows = {row.address: row for row in node.director.hosts.rows.values()}
        assert rows[HOSTS[0]].weight == 7
        assert rows[HOSTS[1]].weight == weight
        assert not rows[HOSTS[2]].up
        pinned = node.director.users.get(key_of("alice"))
        assert pinned is not None
        assert pinned.flags == PINNED


@pytest.mark.shows("S-30")
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("change", [True, False], ids=["a change", "no change"])
async def test_files_damaged_under_a_running_director_lose_nothing_at_the_next_kill(
    tmp_path: Path, damage: Callable[[Path], None], *, change: bool
) -> None:
    async with running(Node("sqlite:///state.db", tmp_path)) as node:
        await node.operations.hosts.update(HOSTS[0], 7, reason="test")
        await node.operations.hosts.set_up(HOSTS[2], up=False, reason="test")
        node.director.users.put(user("alice", HOSTS[1], decided=NOW, seen=NOW)._replace(flags=PINNED))
        node.persistence.buckets_changed()
        await clean(node)
        damage(tmp_path)
        if change:
            answer = await node.operations.hosts.update(HOSTS[1], 9, reason="test")
            assert answer.stored
        else:
            await until(lambda: node.logged("store_reachable"))
        await clean(node)
        await until(lambda: node.persistence.up)
        left = killed(tmp_path)
        if damage is not removed:
            (line,) = node.logged("store_damaged")
            assert "check the disk" in line
            assert (tmp_path / line.split("kept_as=")[1].split()[0]).exists()
        assert len(node.logged("store_reachable")) == 1
    await check(left, 9 if change else 100)


@pytest.mark.shows("S-30")
@pytest.mark.parametrize("damage", [emptied, shortened, removed], ids=lambda damage: damage.__name__)
async def test_a_change_is_not_said_to_be_stored_before_the_new_file_has_all_that_the_old_one_had(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    names = [f"user{number}" for number in range(3000)]
    pinned = [user(name, HOSTS[1], decided=NOW, seen=NOW)._replace(flags=PINNED) for name in names]
    async with running(Node("sqlite:///state.db", tmp_path)) as node:
        for record in pinned:
            node.director.users.put(record)
        node.persistence.buckets_changed()
        await clean(node)
        damage(tmp_path)
        for weight in range(1, 100):
            if (await node.operations.hosts.update(HOSTS[0], weight, reason="test")).stored:
                break
        left = killed(tmp_path)
    async with running(Node("sqlite:///state.db", left)) as node:
        await until(lambda: node.persistence.loaded)
        assert sum(node.director.users.get(record.key) is not None for record in pinned) == len(pinned)


def touched(folder: Path) -> None:
    for name in (FILE, LOG):
        os.utime(folder / name)


def log_begin_overwritten(folder: Path) -> None:
    """A damage that SQLite reads at the next start only, and then takes nothing of the log."""
    with (folder / LOG).open("r+b") as file:
        file.write(bytes(32))


@pytest.mark.shows("S-30")
@pytest.mark.parametrize("damage", [touched, log_begin_overwritten], ids=lambda damage: damage.__name__)
async def test_a_file_of_which_everything_can_be_read_is_kept_and_its_log_written_into_it(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    async with running(Node("sqlite:///state.db", tmp_path)) as node:
        await node.operations.hosts.update(HOSTS[0], 7, reason="test")
        await node.operations.hosts.set_up(HOSTS[2], up=False, reason="test")
        node.director.users.put(user("alice", HOSTS[1], decided=NOW, seen=NOW)._replace(flags=PINNED))
        node.persistence.buckets_changed()
        await clean(node)
        damage(tmp_path)
        assert (await node.operations.hosts.update(HOSTS[1], 9, reason="test")).stored
        assert node.logged("store_unreachable") == node.logged("store_damaged") == []
        left = killed(tmp_path)
    await check(left, 9)
