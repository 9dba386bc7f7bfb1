"""Stored records that do not fit when a director starts: the table in docs/state.md."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from director.core.placement.addresses import host_id
from director.core.placement.assign import Gate
from director.core.placement.users import BUCKET_SHIFT, BY_HAND, LATEST, PINNED, User
from director.core.protocol.events import Lookup, TimerFired
from director.core.protocol.messages import HostRow
from director.core.tables.hosts import encode_rows
from director.types import Address, HostId, RequestId, Stamp
from state.base import EMPTY_VERSION, Swap
from state.urls import open_store
from tests.unit.service.parts import EXPIRE, HASH, HOSTS, Node, key_of, packed
from tests.waiting import until

pytestmark = pytest.mark.anyio
NOW = int(time.time())
ALIVE, PLACED = NOW - 10, NOW - 1000
STRANGER = "127.0.3.99"
REMOVED = HostRow(HOSTS[2], "", False, NOW - 50, "", 0, 100, 0, True, 0)
BACK_AGAIN = HostRow(HOSTS[2], "", True, NOW - 50, "", 0, 100, 0, True, 0)
OTHER_POOL = HostRow(HOSTS[2], "", True, NOW - 5000, "gold", NOW - 50, 100, 0, True, 0)


def user_off(host: str) -> str:
    """A user whose hash selects another host."""
    director = Node().director
    names = (f"user{number}" for number in range(100))
    fresh = {name: director.assigner.place(key_of(name) >> 32, b"") for name in names}
    others = {host_id(Address(h)) for h in HOSTS[:2]} - {host_id(Address(host))}
    return next(name for name, backend in fresh.items() if backend is not None and backend.id in others)


@asynccontextmanager
async def started(folder: Path, record: User, *rows: HostRow) -> AsyncIterator[Node]:
    """A director on a store that holds this record and these hosts."""
    url = f"sqlite:///{folder}/state.db"
    store = open_store(url, base_dir=folder)
    await store.open()
    if rows:
        await store.swap_document("hosts", EMPTY_VERSION, encode_rows(rows))
    await store.swap_buckets([Swap("users", record.key >> BUCKET_SHIFT, EMPTY_VERSION, packed(record))])
    await store.close()
    node = Node(url)
    await node.persistence.open()
    node.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.persistence.run)
        await until(lambda: node.director.assigner.gate is Gate.OPEN and node.persistence.loaded)
        yield node
        tasks.cancel_scope.cancel()
    node.driver.stop()
    await node.persistence.stop()


async def login(node: Node, name: str) -> HostId:
    """The host of this user after a login."""
    node.handle(Lookup(RequestId(1), key_of(name), b"", name.encode()))
    node.handle(TimerFired())
    await until(lambda: len(node.director.pending) == 0)
    record = node.director.users.get(key_of(name))
    assert record is not None
    return record.host


@pytest.mark.shows("S-32")
@pytest.mark.parametrize(
    ("host", "decided", "seen", "flags", "rows"),
    [
        pytest.param(HOSTS[2], PLACED, NOW - EXPIRE - 60, 0, (), id="expired"),
        pytest.param(HOSTS[2], PLACED, NOW - 3 * EXPIRE, 0, (), id="expired for long"),
        pytest.param(STRANGER, PLACED, ALIVE, 0, (), id="of an unknown host"),
        pytest.param(HOSTS[2], PLACED, ALIVE, 0, (REMOVED,), id="of a host that was removed"),
        pytest.param(HOSTS[2], PLACED, ALIVE, PINNED | BY_HAND, (REMOVED,), id="pinned to a removed host"),
        pytest.param(HOSTS[2], PLACED, ALIVE, 0, (BACK_AGAIN,), id="from before the host came back"),
    ],
)
async def test_a_record_that_does_not_fit_is_placed_anew(
    tmp_path: Path, host: str, decided: int, seen: int, flags: int, rows: tuple[HostRow, ...]
) -> None:
    name = user_off(host)
    record = User(key_of(name), host_id(Address(host)), Stamp(decided), seen, flags)
    async with started(tmp_path, record, *rows) as node:
        expected = node.director.assigner.place(key_of(name) >> 32, b"")
        assert expected is not None
        assert await login(node, name) == expected.id != record.host


@pytest.mark.shows("S-32")
@pytest.mark.parametrize(
    ("seen", "flags"),
    [
        pytest.param(ALIVE, 0, id="alive"),
        pytest.param(NOW - 100 * EXPIRE, PINNED | BY_HAND, id="pinned long ago"),
        pytest.param(LATEST, 0, id="seen in the far future"),
    ],
)
async def test_a_record_that_fits_is_kept(tmp_path: Path, seen: int, flags: int) -> None:
    name = user_off(HOSTS[2])
    record = User(key_of(name), host_id(Address(HOSTS[2])), Stamp(PLACED), seen, flags)
    async with started(tmp_path, record) as node:
        assert await login(node, name) == record.host


@pytest.mark.shows("S-32")
async def test_a_user_whose_host_has_left_the_pool_is_moved_within_the_pool(tmp_path: Path) -> None:
    name = user_off(HOSTS[2])
    record = User(key_of(name), host_id(Address(HOSTS[2])), Stamp(PLACED), ALIVE, 0)
    async with started(tmp_path, record, OTHER_POOL) as node:
        expected = node.director.assigner.place(key_of(name) >> 32, b"")
        assert expected is not None
        assert await login(node, name) == expected.id != record.host


@pytest.mark.shows("S-32")
async def test_a_user_of_a_pool_without_hosts_waits_for_one_and_the_record_is_kept(tmp_path: Path) -> None:
    gone = HASH.key(b"alice", b"gone")
    record = User(gone, host_id(Address(HOSTS[2])), Stamp(PLACED), NOW - EXPIRE - 60, 0)
    async with started(tmp_path, record) as node:
        node.handle(Lookup(RequestId(1), gone, b"gone", b"alice"))
        node.handle(TimerFired())
        assert len(node.director.pending) == 1
        assert node.director.users.get(gone) == record
