"""Look-ups for programs that are no login processes: what a login would get, and no endless waiting."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import anyio
import pytest

from director.core.placement.assign import Gate
from director.core.placement.users import MOVING, User
from director.core.protocol.events import LinkOpened, Seen
from director.core.protocol.messages import Users
from director.core.ring.link import LinkState
from director.errors import TryAgain
from director.service.endpoints import lookups as lookups_module
from director.types import Address, LinkId
from tests.unit.service.parts import EXPIRE, HOSTS, ME, OTHER, Node, bucket_of, key_of
from tests.unit.service.test_driver import RecordingLink, messages_in

pytestmark = pytest.mark.anyio


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node().start()
    yield node
    node.driver.stop()


@pytest.fixture
async def impatient() -> AsyncIterator[Node]:
    """A node whose look-ups wait for 0.05 s only."""
    node = Node(lookup_timeout=0.05).start()
    yield node
    node.driver.stop()


def wake(node: Node) -> None:
    node.director.pending.wake()
    node.mailbox.handle(Seen([]))


async def test_a_new_user_is_assigned_as_by_a_login(node: Node) -> None:
    placed = node.director.assigner.place(key_of("alice") >> 32, b"")
    answer = await node.lookups.find(b"alice", b"", "nginx")
    assert placed is not None
    assert (answer.address, answer.host, answer.hostip) == (placed.address, placed.address, None)
    assert (answer.proxy_refresh, answer.user_dirkey) == (EXPIRE // 3, f"1669653170@{placed.address}")
    assert node.host("alice") == placed.address
    assert node.counts.counts == {("answered", "nginx"): 1}


async def test_an_assigned_user_stays_and_the_assignment_is_refreshed(node: Node) -> None:
    long_ago = int(time.time()) - 1000
    node.put("alice", HOSTS[2], decided=long_ago, seen=long_ago)
    assert (await node.lookups.find(b"Alice", b"", "http")).address == HOSTS[2]
    record = node.director.users.get(key_of("alice"))
    assert record is not None
    assert record.seen > long_ago


async def test_what_a_look_up_decided_goes_to_the_ring_before_its_answer() -> None:
    node = Node(members=[ME, OTHER]).start()
    written: list[tuple[str, bytes]] = []
    node.ring.links[LinkId(7)] = RecordingLink(7, node.ring, written)
    node.mailbox.handle(LinkOpened(LinkId(7), bytes(32), Address("127.0.2.32"), None))
    node.director.ring.links[LinkId(7)].state = LinkState.EXCHANGING
    node.director.assigner.gate = Gate.OPEN
    written.clear()
    await node.lookups.find(b"alice", b"", "http")
    records = [m.records for m in messages_in(written) if isinstance(m, Users)]
    node.driver.stop()
    assert [record[:8] for record in records] == [key_of("alice").to_bytes(8)]


async def test_a_user_being_moved_is_answered_when_the_move_has_ended(node: Node) -> None:
    node.put("alice", HOSTS[0])
    record = node.director.users.get(key_of("alice"))
    assert record is not None
    node.director.users.put(User(record.key, record.host, record.decided, record.seen, MOVING))
    found: list[str] = []

    async def find() -> None:
        found.append((await node.lookups.find(b"alice", b"", "socketmap")).address)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(find)
        await anyio.wait_all_tasks_blocked()
        assert found == []
        node.put("alice", HOSTS[1], decided=record.decided + 1)
        wake(node)
    assert found == [HOSTS[1]]
    assert node.counts.counts == {("waited", "socketmap"): 1, ("answered_later", "socketmap"): 1}


async def test_the_name_of_a_look_up_that_waited_is_known_once_it_is_answered() -> None:
    node = Node()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.lookups.find, b"alice", b"", "http")
        await anyio.wait_all_tasks_blocked()
        assert node.director.names.names(bucket_of("alice")) == {}
        node.start()
    assert node.director.names.names(bucket_of("alice")) == {key_of("alice"): "alice"}
    node.driver.stop()


async def test_a_look_up_that_waits_too_long_fails_with_the_reason_and_is_removed(impatient: Node) -> None:
    impatient.director.assigner.set_backends([])
    with pytest.raises(TryAgain, match=r"^no hosts; not answered within 0\.05 s$"):
        await impatient.lookups.find(b"alice", b"gold", "nginx")
    assert len(impatient.director.pending) == 0
    assert impatient.counts.counts == {("waited", "nginx"): 1, ("refused", "nginx"): 1}
    assert "protocol=nginx user=alice" in impatient.logged("lookup_refused")[0]


async def test_a_program_that_hangs_up_is_not_waited_for(node: Node) -> None:
    node.director.assigner.gate = Gate.CLOSED
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.lookups.find, b"alice", b"", "http")
        await anyio.wait_all_tasks_blocked()
        assert len(node.director.pending) == 1
        tasks.cancel_scope.cancel()
    assert len(node.director.pending) == 0


async def test_what_the_core_refuses_is_refused_with_its_reason(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("director.core.logins.pending.PENDING_TIMEOUT", 0.0)
    node.director.assigner.set_backends([])
    with pytest.raises(TryAgain) as refusal:
        await node.lookups.find(b"alice", b"", "http")
    assert "not answered" not in str(refusal.value)


async def test_no_more_wait_than_allowed_and_the_rest_are_refused_at_once(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups_module, "WAITING_LIMIT", 1)
    node.director.assigner.gate = Gate.CLOSED
    lookups = node.lookups
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lookups.find, b"alice", b"", "http")
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(TryAgain, match="1 look-ups wait already"):
            await lookups.find(b"bob", b"", "http")
        tasks.cancel_scope.cancel()
    assert len(node.director.pending) == 0
