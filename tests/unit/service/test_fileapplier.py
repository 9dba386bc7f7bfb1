"""Changed configuration files over restarts of one director, with a store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from director.core.protocol.events import HostChange
from director.core.tables.hosts import BackendSetting, HostTable
from director.errors import TryAgain
from director.records import ConfiguredHost
from director.service.configuration.config import BackendsConfig
from director.service.operations.fileapplier import FileApplier
from director.service.resolution.backendnames import BackendNames
from director.service.resolution.namewatch import NameWatch
from director.types import Address
from state.resolver import Resolver
from tests.servers import RedisServer
from tests.unit.service.parts import HOSTS, Node
from tests.waiting import until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def started(
    folder: Path, hosts: Sequence[str] = HOSTS, state: str = "", snapshot: str = ""
) -> AsyncIterator[Node]:
    """A director with these hosts in its file that has applied it."""
    node = Node(state or "sqlite:///state.db", folder, hosts=hosts, snapshot=snapshot)
    async with applying(node, file_applier(node)):
        yield node


def file_applier(node: Node, operations: Any = None, **options: float) -> FileApplier:
    """The applier of a node's file. operations: instead of the node's."""
    config = BackendsConfig(mail_servers=tuple(node.director.hosts.configured.values()))
    operations = operations or node.operations.hosts
    names = BackendNames(config, node.log)
    return FileApplier(node.director, node.persistence, operations, names, node.log, **options)


class Changing:
    """The operations of a node, with another way to change a host."""

    def __init__(self, node: Node, change: Callable[[HostChange, str, str], Awaitable[None]]) -> None:
        self.apply = change
        self.move_hosts = node.operations.hosts.move_hosts


@asynccontextmanager
async def applying(node: Node, file_applier: FileApplier) -> AsyncIterator[None]:
    await node.persistence.open()
    node.start()
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(node.operations.jobs.run)
            tasks.start_soon(node.persistence.run)
            tasks.start_soon(file_applier.run)
            await until(lambda: node.persistence.documents.applied_here and node.persistence.documents.stored)
            yield
            tasks.cancel_scope.cancel()
    finally:
        node.driver.stop()
        await node.persistence.stop()


def there(node: Node) -> list[tuple[str, int]]:
    return [(row.address, row.weight) for row in node.director.hosts.present()]


def planned(node: Node, hosts: Sequence[str]) -> list[tuple[str, str, str]]:
    plan = node.operations.queries.plan([ConfiguredHost(address=host, weight=100) for host in hosts])
    assert plan.known
    return [(one.address, one.what, one.outcome) for one in plan.changes]


async def test_a_host_taken_out_of_the_file_is_removed_for_all_and_a_new_one_added(tmp_path: Path) -> None:
    new = [HOSTS[0], "127.0.3.9"]
    async with started(tmp_path) as node:
        assert planned(node, new) == [
            (HOSTS[1], "host", "made"),
            (HOSTS[2], "host", "made"),
            ("127.0.3.9", "host", "made"),
        ]
    async with started(tmp_path, new) as node:
        assert there(node) == [(host, 100) for host in new]
        assert [node.director.hosts.rows[host].present_at > 0 for host in HOSTS] == [False, True, True]  # type: ignore[index]
        assert planned(node, new) == []
        assert len(node.logged("configuration_change_applied")) == 3
        changes = {("add", "127.0.3.9"), ("remove", HOSTS[1]), ("remove", HOSTS[2])}
        await until(lambda: not node.persistence.core.steps.audit)
        told = await node.store.audit(10)
        assert {(one.what, one.target) for one in told} == changes
        assert {one.reason for one in told} == {"the configuration file has changed"}


LOSES = "the pool without a tag loses its last usable host: its new users wait 30 s and fail temporarily"


async def test_a_file_that_takes_the_last_usable_host_of_a_pool_is_planned_with_a_warning(
    tmp_path: Path,
) -> None:
    async with started(tmp_path) as node:

        def warnings(*hosts: ConfiguredHost) -> list[str]:
            return node.operations.queries.plan(hosts).warnings

        kept, weightless, tagged = (
            ConfiguredHost(address=HOSTS[0], weight=100),
            ConfiguredHost(address=HOSTS[0], weight=0),
            ConfiguredHost(address=HOSTS[0], weight=100, tag="gold"),
        )
        assert warnings(kept) == []
        assert warnings() == warnings(weightless) == warnings(tagged) == [LOSES]
        await node.operations.hosts.set_up(HOSTS[0], up=False, reason="test")
        assert warnings(kept) == [LOSES]
        await node.operations.hosts.set_up(HOSTS[1], up=False, reason="test")
        await node.operations.hosts.set_up(HOSTS[2], up=False, reason="test")
        assert warnings() == [], "it has none already"


async def test_a_file_that_removes_no_host_because_an_operator_added_it_is_planned_without_a_warning(
    tmp_path: Path,
) -> None:
    async with started(tmp_path, HOSTS[:1]) as node:
        await node.operations.hosts.remove(HOSTS[0], reason="test")
        await node.operations.hosts.set(HOSTS[0], None, 5, reason="test")
        assert node.operations.queries.plan([]).warnings == []


async def test_an_operators_change_stays_and_is_reported(tmp_path: Path) -> None:
    async with started(tmp_path, HOSTS[:2]) as node:
        await node.operations.hosts.remove(HOSTS[0], reason="test")
        await node.operations.hosts.set(HOSTS[0], None, 5, reason="test")
    async with started(tmp_path, HOSTS[1:2]) as node:
        assert there(node) == [(HOSTS[0], 5), (HOSTS[1], 100)]
        (line,) = node.logged("configuration_change_skipped")
        assert f"host={HOSTS[0]} what=host" in line


async def test_a_change_that_the_ring_cannot_confirm_is_logged_once_and_retried(tmp_path: Path) -> None:
    async with started(tmp_path):
        pass
    node = Node("sqlite:///state.db", tmp_path, hosts=HOSTS[:2])
    tries: list[HostChange] = []

    async def change(change: HostChange, what: str, reason: str) -> None:
        tries.append(change)
        if len(tries) < 4:
            raise TryAgain("Ring sync timed out")
        await node.operations.hosts.apply(change, what, reason)

    async with applying(node, file_applier(node, Changing(node, change), again=0.01)):
        assert there(node) == [(host, 100) for host in HOSTS[:2]]
        assert len(tries) == 4
        (line,) = node.logged("configuration_change_delayed")
        assert f"host={HOSTS[2]} what=host" in line
        assert 'reason="Ring sync timed out"' in line


async def test_an_operators_change_just_before_is_not_reported_as_applied(tmp_path: Path) -> None:
    async with started(tmp_path):
        pass
    node = Node("sqlite:///state.db", tmp_path, hosts=HOSTS[:2])

    async def change(change: HostChange, what: str, reason: str) -> None:
        await node.operations.hosts.remove(HOSTS[2], reason="test")
        await node.operations.hosts.set(HOSTS[2], None, 5, reason="test")
        await node.operations.hosts.apply(change, what, reason)

    async with applying(node, file_applier(node, Changing(node, change))):
        assert there(node) == [(HOSTS[0], 100), (HOSTS[1], 100), (HOSTS[2], 5)]
        assert node.logged("configuration_change_applied") == []
        assert len(node.logged("configuration_change_skipped")) == 1


async def test_a_restart_with_the_same_file_writes_and_says_nothing(tmp_path: Path) -> None:
    async with started(tmp_path) as node:
        pass
    async with started(tmp_path) as node:
        assert [line for line in node.lines if "event=configuration_" in line] == []
        assert planned(node, HOSTS) == []


@pytest.mark.shows("S-21")
async def test_a_director_that_dies_before_it_wrote_what_it_applied_applies_it_once(tmp_path: Path) -> None:
    async with started(tmp_path) as node:
        before = await node.store.read_document("applied")
        assert before is not None
    async with started(tmp_path, HOSTS[:2]) as node:
        written = await node.store.read_document("applied")
        assert written is not None
        await node.store.swap_document("applied", written.version, before.data)
    async with started(tmp_path, HOSTS[:2]) as node:
        assert there(node) == [(host, 100) for host in HOSTS[:2]]
        assert node.logged("configuration_change_applied") == []


async def test_a_store_without_memory_knows_nothing_of_what_was_applied(tmp_path: Path) -> None:
    async with started(tmp_path, state="memory:") as node:
        assert there(node) == [(host, 100) for host in HOSTS]


async def test_a_damaged_document_of_what_was_applied_is_named_and_written_again(tmp_path: Path) -> None:
    async with started(tmp_path) as node:
        written = await node.store.read_document("applied")
        assert written is not None
        await node.store.swap_document("applied", written.version, b"damaged")
    async with started(tmp_path, HOSTS[:2]) as node:
        assert "document=applied" in node.logged("store_document_damaged")[0]
        assert there(node) == [(host, 100) for host in HOSTS[:2]]  # as with a file that nothing is known of
        again = await node.store.read_document("applied")
        assert again is not None
        assert again.data != b"damaged"


async def test_what_was_applied_comes_back_from_the_snapshot_into_a_store_that_was_wiped(
    tmp_path: Path,
) -> None:
    copy = f"sqlite:///{tmp_path}/snapshot.db"
    with RedisServer() as redis:
        async with started(tmp_path, state=redis.url, snapshot=copy) as node:
            snapshot = node.persistence._snapshot
            assert snapshot is not None
            await until(lambda: snapshot.up)
        redis.command("FLUSHALL")
        async with started(tmp_path, HOSTS[1:], state=redis.url, snapshot=copy) as node:
            assert len(node.logged("snapshot_loaded")) == 1
            assert there(node) == [(host, 100) for host in HOSTS[1:]]
            assert [
                line.split("host=")[1].split()[0] for line in node.logged("configuration_change_applied")
            ] == [HOSTS[0]]
        redis.command("FLUSHALL")
        async with started(tmp_path, HOSTS[1:], state=redis.url, snapshot=copy) as node:
            assert await node.store.read_document("applied") is not None


async def test_names_that_leave_a_pool_without_a_usable_host_are_applied_with_an_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in tests/e2e/test_dns.py, without the time after which an address that is missing is taken away."""
    monkeypatch.setattr("director.core.backendnames.DROPPED_AFTER", 0.0)
    table = {"imap.example.test": [HOSTS[0], HOSTS[1]]}
    gold = BackendSetting(Address(""), "imap.example.test", "gold", 100)
    fixed = BackendSetting(Address(HOSTS[2]), "", "", 100)
    found = [msgspec.structs.replace(gold, address=Address(host)) for host in table["imap.example.test"]]
    node = Node("sqlite:///state.db", tmp_path, hosts=())
    node.director.hosts.put(HostTable([fixed, *found]).rows.values())
    node.director.hosts.set_configured((fixed, *found))
    names = BackendNames(BackendsConfig(mail_servers=(fixed, *found), names=(gold,)), node.log)
    watch = NameWatch(lambda: names.names, names.answered, Resolver(lambda name: table[name]))
    file = FileApplier(node.director, node.persistence, node.operations.hosts, names, node.log)
    async with applying(node, file):
        await node.operations.hosts.set_up(HOSTS[0], up=False, reason="test")
        await watch.resolve_all()
        assert node.logged("pool_unusable") == []
        table["imap.example.test"] = [HOSTS[0]]
        await watch.resolve_all()
        await until(lambda: node.logged("pool_unusable"))
        assert [row.address for row in node.director.hosts.present()] == [HOSTS[0], HOSTS[2]]
        assert "tag=gold" in node.logged("pool_unusable")[0]
        table["imap.example.test"] = [HOSTS[0], HOSTS[1]]
        await watch.resolve_all()
        await until(lambda: node.logged("pool_usable"))
