"""The driver between a core and its sockets: order of what leaves, nothing lost, bugs contained."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest

from director.core.director import Director
from director.core.logins.logins import SLICE
from director.core.logins.pending import WAITING_LIMIT
from director.core.placement.assign import Gate, Wait
from director.core.protocol.effects import Effect, Refuse
from director.core.protocol.events import (
    Event,
    HostChange,
    LinkOpened,
    Lookup,
    Seen,
    TableChanged,
    TimerFired,
)
from director.core.protocol.messages import Bye, Names, Users
from director.core.ring.link import LinkState
from director.errors import BadRequest, Refused, UnknownName
from director.net import listen
from director.net.login import Client, Relay
from director.net.ringlink import RingLink
from director.net.tls import RingTls
from director.service.heldlogins import BYTES_LIMIT, CONNECTION_LIMIT
from director.service.ringsockets import RingSockets
from director.types import Address, LinkId, MemberId, Now, RequestId, UserKey
from director.wire.ring_native import FrameReader
from tests.certificates import Authority
from tests.servers import free_port
from tests.unit.service.parts import EXPIRE, HOSTS, ME, OTHER, Node, key_of
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Recorder(Client):
    """A client that notes what is written to it, in a list shared with others."""

    __slots__ = ("name", "written")

    def __init__(self, relay: Relay, name: str, written: list[tuple[str, bytes]]) -> None:
        super().__init__(relay)
        self.name, self.written = name, written

    def write(self, data: bytes) -> None:
        self.written.append((self.name, data))

    def tell_auth(self, lines: bytes) -> None:
        self.written.append((f"auth of {self.name}", lines))


class RecordingLink(RingLink):
    """A link that notes what is sent over it, in the same list."""

    def __init__(self, number: int, owner: RingSockets, written: list[tuple[str, bytes]]) -> None:
        super().__init__(LinkId(number), owner)
        self.written = written

    def send(self, frame: bytes) -> None:
        self.written.append(("link", frame))


class Setting:
    """A node that answers everybody, two clients, and all they get, in order."""

    def __init__(self, members: Sequence[MemberId] = ()) -> None:
        self.node = Node(members=members).start()
        self.driver = self.node.driver
        self.written: list[tuple[str, bytes]] = []
        relay = Relay("login", "/nowhere", False, self.node.logins)
        self.one = Recorder(relay, "one", self.written)
        self.two = Recorder(relay, "two", self.written)

    def told(self, name: str) -> list[bytes]:
        data = b"".join(data for to, data in self.written if to == name)
        return data.split(b"\n")[:-1]


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    setting = Setting()
    yield setting
    setting.driver.stop()


def ok(number: int, user: str) -> bytes:
    return f"OK\t{number}\tuser={user}\tproxy\n".encode()


async def turn() -> None:
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()


# ---- answers


async def test_a_proxied_reply_gets_a_host_and_others_pass(setting: Setting) -> None:
    setting.node.logins.lines(setting.one, b"FAIL\t1\n" + ok(2, "alice") + b"anything\n")
    await turn()
    first, second, third = setting.told("one")
    assert (first, third) == (b"FAIL\t1", b"anything")
    assert second.startswith(ok(2, "alice")[:-1] + b"\tproxy_refresh=%d\thost=127.0.3." % (EXPIRE // 3))
    assert setting.node.counts.counts == {("answered", "login"): 1}


async def test_what_a_login_decided_goes_to_the_ring_before_its_answer() -> None:
    setting = Setting([ME, OTHER])
    link = RecordingLink(7, setting.node.ring, setting.written)
    setting.node.ring.links[LinkId(7)] = link
    setting.node.mailbox.handle(LinkOpened(LinkId(7), bytes(32), Address("127.0.2.32"), None))
    setting.node.director.ring.links[LinkId(7)].state = LinkState.EXCHANGING
    setting.node.director.assigner.gate = Gate.OPEN
    setting.written.clear()
    setting.node.logins.lines(setting.one, ok(1, "alice"))
    setting.node.logins.lines(setting.two, ok(1, "bob"))
    await turn()
    setting.driver.stop()
    order = [name for name, _ in setting.written]
    assert order.index("link") < order.index("one") < order.index("two")
    messages = messages_in(setting.written)
    records = b"".join(m.records for m in messages if isinstance(m, Users))
    assert len(records) == 2 * 22
    assert [type(m) for m in messages].count(Names) <= 1


def messages_in(written: list[tuple[str, bytes]]) -> list[Any]:
    reader = FrameReader()
    reader.limit = 1 << 24
    return [m for name, data in written if name == "link" for frame in reader.feed(data) for m in frame]


async def test_the_lines_of_one_client_keep_their_order_whatever_happens_in_between(
    setting: Setting,
) -> None:
    setting.node.logins.lines(setting.one, ok(1, "alice"))
    setting.node.mailbox.handle(Seen([b"alice"]))
    setting.node.logins.lines(setting.one, b"NOTE\tsecond\n")
    setting.node.logins.lines(setting.one, ok(3, "bob"))
    await turn()
    assert [line.split(b"\t")[1] for line in setting.told("one")] == [b"1", b"second", b"3"]


async def test_a_login_that_had_to_wait_is_answered_when_the_core_can(setting: Setting) -> None:
    setting.node.director.assigner.gate = Gate.CLOSED
    setting.node.logins.lines(setting.one, ok(1, "alice"))
    await turn()
    assert setting.told("one") == []
    assert setting.one.waiting
    setting.node.director.pending.wake()
    setting.node.mailbox.handle(Seen([]))
    await until(lambda: setting.told("one"))
    assert b"\thost=127.0.3." in setting.told("one")[0]
    assert setting.one.waiting == set()
    assert setting.node.counts.counts == {("waited", "login"): 1, ("answered_later", "login"): 1}


def perhaps(number: int, user: str) -> bytes:
    return f"OK\t{number}\tuser={user}\tdirector_proxy_maybe=y\n".encode()


async def test_auth_forgets_a_user_it_took_for_local_who_is_proxied(setting: Setting) -> None:
    """It kept each of them, and said so in its log when the login process ended."""
    setting.node.logins.lines(setting.one, perhaps(1, "alice") + ok(2, "bob"))
    setting.node.director.assigner.gate = Gate.CLOSED
    setting.node.logins.lines(setting.one, perhaps(3, "alice"))
    await turn()
    assert setting.told("auth of one") == [b"CANCEL\t1"]
    setting.node.director.pending.wake()
    setting.node.mailbox.handle(Seen([]))
    await until(lambda: setting.told("auth of one") == [b"CANCEL\t1", b"CANCEL\t3"])


async def test_a_client_that_disconnects_is_not_answered_and_other_clients_are(setting: Setting) -> None:
    setting.node.director.assigner.gate = Gate.CLOSED
    setting.node.logins.lines(setting.one, ok(1, "alice") + ok(2, "bob"))
    setting.node.logins.lines(setting.two, ok(1, "carl"))
    setting.node.logins.client_gone(setting.one)
    setting.node.director.pending.wake()
    setting.node.mailbox.handle(Seen([]))
    await until(lambda: setting.told("two"))
    assert setting.told("one") == []
    assert len(setting.node.director.pending) == 0


async def test_what_waited_too_long_is_refused_in_the_words_of_the_protocol(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("director.core.logins.pending.PENDING_TIMEOUT", 0.0)
    setting.node.director.assigner.set_backends([])
    setting.node.logins.lines(setting.one, ok(1, "alice") + perhaps(2, "bob"))
    setting.node.mailbox.handle(Seen([]))
    await until(lambda: len(setting.told("one")) == 2)
    assert setting.told("one") == [b"FAIL\t1\tcode=temp_fail", b"FAIL\t2\tcode=temp_fail"]
    assert setting.told("auth of one") == [b"CANCEL\t2"]
    assert "user=alice" in setting.node.logged("login_refused")[0]


@pytest.mark.shows("A-35")
async def test_ten_thousand_logins_of_a_connection_wait_and_further_ones_fail_temporarily(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CONNECTION_LIMIT == 10_000
    monkeypatch.setattr("director.service.heldlogins.CONNECTION_LIMIT", 2)
    setting.node.director.assigner.set_backends([])
    setting.node.logins.lines(setting.one, ok(1, "alice") + ok(2, "bob") + perhaps(3, "carl") + ok(4, "dora"))
    setting.node.logins.lines(setting.two, ok(1, "eve"))
    await turn()
    assert setting.told("one") == [b"FAIL\t3\tcode=temp_fail", b"FAIL\t4\tcode=temp_fail"]
    assert setting.told("auth of one") == [b"CANCEL\t3"]
    assert setting.told("two") == []
    assert setting.node.director.counters.waiting_refused == 2
    assert "2 logins of this connection wait already" in setting.node.logged("login_refused")[0]
    setting.node.logins.client_gone(setting.one)
    setting.node.logins.lines(setting.one, ok(5, "alice"))
    await turn()
    assert len(setting.told("one")) == 2, "there is room again"


@pytest.mark.shows("A-35")
async def test_a_hundred_thousand_logins_wait_in_all_and_further_ones_fail_temporarily(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert WAITING_LIMIT == 100_000
    monkeypatch.setattr("director.core.logins.pending.WAITING_LIMIT", 3)
    setting.node.director.assigner.set_backends([])
    setting.node.logins.lines(setting.one, ok(1, "alice") + ok(2, "bob"))
    setting.node.logins.lines(setting.two, ok(1, "carl") + ok(2, "dora"))
    await turn()
    assert setting.told("two") == [b"FAIL\t2\tcode=temp_fail"]
    assert setting.node.director.counters.waiting_refused == 1
    assert len(setting.node.director.pending) == 3
    setting.node.logins.client_gone(setting.one)
    setting.node.logins.lines(setting.two, ok(3, "dora"))
    await turn()
    assert len(setting.told("two")) == 1, "there is room again"


@pytest.mark.shows("A-35")
async def test_logins_that_wait_take_a_bounded_number_of_bytes_however_long_their_names_are(
    setting: Setting,
) -> None:
    setting.node.director.assigner.set_backends([])
    number = 0
    while not setting.told("one"):
        number += 1
        setting.node.logins.lines(setting.one, ok(number, "x" * 15_000))
        assert number * 15_000 < BYTES_LIMIT
    assert setting.told("one") == [b"FAIL\t%d\tcode=temp_fail" % number]
    setting.node.logins.lines(setting.two, ok(1, "alice"))
    setting.node.logins.client_gone(setting.one)
    setting.node.logins.lines(setting.two, ok(2, "y" * 15_000))
    assert setting.told("two") == [], "short ones still wait, and long ones again"


@pytest.mark.shows("A-36")
async def test_logins_that_came_at_once_are_refused_in_several_turns(setting: Setting) -> None:
    """All of them were refused in one turn: with 100,000 that was a stall."""
    core = setting.node.director
    core.assigner.set_backends([])
    for number in range(3 * SLICE):
        core.pending.add(Lookup(RequestId(number), UserKey(number + 1), b"", b""), 0.0, Wait.NO_HOST)
    refused = []
    while core.pending:
        effects = core.handle(TimerFired(), Now(1000.0, time.time()))
        refused.append(sum(isinstance(effect, Refuse) for effect in effects))
    assert refused == [SLICE] * 3
    core._logins.removed = True
    for number in range(2 * SLICE):
        core.pending.add(Lookup(RequestId(number), UserKey(number + 1), b"", b""), 1000.0, Wait.NO_HOST)
    effects = core.handle(TimerFired(), Now(1000.0, time.time()))
    assert sum(isinstance(effect, Refuse) for effect in effects) == SLICE
    assert core.next_deadline() == 0.0, "the others follow in the next turn"


# ---- bugs


class Broken(Director):
    """A core that fails at one kind of event, the first time it meets it."""

    fails_at: type[Event] | None = None

    def announce(self) -> list[Effect]:
        if self.fails_at is TableChanged:
            self.fails_at = None
            raise AssertionError("a bug")
        return super().announce()

    def handle(self, event: Event, now: Now, *, same_turn: bool = False) -> list[Effect]:
        if self.fails_at is not None and isinstance(event, self.fails_at):
            self.fails_at = None
            raise AssertionError("a bug")
        return super().handle(event, now)


@pytest.fixture
async def broken(setting: Setting) -> Setting:
    setting.node.director.__class__ = Broken
    return setting


async def test_answers_that_are_ready_go_out_even_if_announcing_them_fails(broken: Setting) -> None:
    bugs: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: bugs.append(context))
    broken.node.director.fails_at = TableChanged  # type: ignore[attr-defined]
    broken.node.logins.lines(broken.one, ok(1, "alice"))
    await until(lambda: bugs)
    assert len(broken.told("one")) == 1


async def test_an_event_behind_one_that_failed_is_still_dealt_with(broken: Setting) -> None:
    broken.node.director.fails_at = Seen  # type: ignore[attr-defined]
    client, held = broken.one, RequestId(99)
    broken.driver._busy = True
    broken.node.mailbox.handle(Seen([]))
    broken.node.mailbox.handle(Lookup(held, key_of("alice"), b"", b"alice"))
    broken.driver._busy = False
    with pytest.raises(AssertionError, match="a bug"):
        broken.node.mailbox.handle(TableChanged())
    await until(lambda: broken.node.host("alice"))
    assert client.waiting == set()


async def test_the_timer_survives_a_bug(broken: Setting) -> None:
    broken.node.director.fails_at = Seen  # type: ignore[attr-defined]
    with pytest.raises(AssertionError):
        broken.node.mailbox.handle(Seen([]))
    timer = broken.driver._timer
    assert timer is not None
    assert not timer.cancelled()


# ---- notify


@pytest.mark.shows("I-19")
async def test_notify_lines_are_unescaped_refresh_and_are_announced(setting: Setting) -> None:
    setting.node.logins.lines(setting.one, ok(1, "a\x01tb"))
    await turn()
    old = setting.node.director.users.get(key_of("a\tb"))
    assert old is not None
    setting.node.director.users.merge(b"")
    setting.node.logins.names_seen([b"a\x01tb", b"nobody"])
    await turn()
    assert not setting.node.director.users.has_changes
    assert setting.node.director.users.get(key_of("nobody")) is None


# ---- operators


async def test_a_change_returns_when_it_is_done(setting: Setting) -> None:
    row = await setting.node.faults.carry_out(HostChange(0, Address(HOSTS[0]), weight=7))
    assert (row.address, row.weight) == (HOSTS[0], 7)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (HostChange(0, Address("192.0.2.1"), weight=7), UnknownName),
        (HostChange(0, Address(HOSTS[0]), weight=-1), BadRequest),
        (HostChange(0, Address(HOSTS[0]), add=True, tag="gold"), Refused),
    ],
)
async def test_a_change_that_is_not_carried_out_says_why(
    setting: Setting, change: HostChange, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await setting.node.faults.carry_out(change)


# ---- the ring's sockets


@asynccontextmanager
async def running(*tls: RingTls | None) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes that run and listen on loopback, each with or without TLS."""
    port = free_port()
    members = [MemberId(f"{member.partition(':')[0]}:{port}") for member in (ME, OTHER)]
    nodes = [Node(me=member, members=members, tls=own) for member, own in zip(members, tls, strict=True)]
    async with anyio.create_task_group() as tasks:
        servers = []
        for node in nodes:
            address = node.director.me.partition(":")[0]
            sock = listen.tcp_listener("ring", address, port).socket
            loop = asyncio.get_running_loop()
            servers.append(await loop.create_server(node.ring.new_link, sock=sock))
            await tasks.start(node.driver.run)
            node.start()
        try:
            yield nodes[0], nodes[1]
        finally:
            for node in nodes:
                node.driver.stop()
            for server in servers:
                server.close()
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def pair(*tls: RingTls | None) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes in one ring."""
    async with running(*tls or (None, None)) as nodes:
        await until(lambda: all(len(node.director.barrier.ring) == 2 for node in nodes))
        yield nodes


async def test_two_drivers_form_a_ring_and_share_what_they_decide() -> None:
    async with pair() as (one, two):
        written: list[tuple[str, bytes]] = []
        one.logins.lines(Recorder(Relay("login", "", False, one.logins), "one", written), ok(1, "alice"))
        await until(lambda: two.host("alice"))
        assert two.host("alice") == one.host("alice")
        await one.operations.hosts.update(HOSTS[0], 7, reason="test")
        assert (await two.operations.queries.hosts())[0].weight == 7


async def test_two_drivers_form_a_ring_over_tls(authority: Authority) -> None:
    tls = [authority.tls(member.partition(":")[0]) for member in (ME, OTHER)]
    async with pair(*tls) as (one, two):
        await one.operations.hosts.update(HOSTS[0], 7, reason="test")
        assert (await two.operations.queries.hosts())[0].weight == 7
        one.driver.stop()
        await until(lambda: any("the director stops" in line for line in two.logged("ring_link_closed")))


@pytest.mark.parametrize("first", [True, False])
async def test_with_tls_at_one_end_only_both_ends_say_so_and_try_again_with_pauses(
    authority: Authority, first: bool
) -> None:
    members = (ME, OTHER) if first else (OTHER, ME)
    tls = authority.tls(members[0].partition(":")[0])
    async with running(*(tls, None) if first else (None, tls)) as nodes:
        secured, plain = nodes if first else reversed(nodes)
        await until(lambda: len(secured.logged("ring_tls_failed")) >= 3 and plain.logged("ring_link_closed"))
        assert "does not use TLS" in secured.logged("ring_tls_failed")[0]
        assert "does not use TLS" in str(plain.logged("ring_link_closed"))
        await until(lambda: "uses TLS, this director does not" in str(plain.logged("ring_link_closed")))
        for node in nodes:
            (other,) = node.director.ring.rightwards
            assert node.director.ring._dials._next_try[other] - time.monotonic() < 5
            assert node.director.ring._dials._failures[other] < 10
            assert node.logged("internal_error") == []


async def test_a_director_of_another_ca_is_named_with_the_reason_and_stays_outside(
    authority: Authority, other_authority: Authority
) -> None:
    one, two = (member.partition(":")[0] for member in (ME, OTHER))
    async with running(authority.tls(one), other_authority.tls(two)) as nodes:
        await until(lambda: all("is refused" in str(node.logged("ring_tls_failed")) for node in nodes))
        for node, address in zip(nodes, (two, one), strict=True):
            line = next(line for line in node.logged("ring_tls_failed") if "is refused" in line)
            assert f"the certificate of {address} is refused: ring.tls.ca has not signed it" in line
            assert f"peer={address}" in line
            assert not any(link.live for link in node.director.ring.links.values())


async def test_a_driver_that_stops_says_so_to_its_neighbours_after_its_last_records() -> None:
    async with pair() as (one, two):
        written: list[tuple[str, bytes]] = []
        one.logins.lines(Recorder(Relay("login", "", False, one.logins), "one", written), ok(1, "alice"))
        one.driver.stop()
        assert len(written) == 1
        await until(lambda: any("the director stops" in line for line in two.logged("ring_link_closed")))
        assert two.host("alice") == one.host("alice")


async def test_garbage_from_a_neighbours_address_is_answered_with_a_good_bye_and_logged() -> None:
    async with pair() as (one, two):
        address, _, port = one.director.me.partition(":")
        with socket.socket() as stranger:
            stranger.bind((two.director.me.partition(":")[0], 0))
            stranger.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(stranger, (address, int(port)))
            await loop.sock_sendall(stranger, b"\xff" * 100)
            data = b""
            while part := await loop.sock_recv(stranger, 65536):
                data += part
        (byes,) = [[m.reason for m in f if isinstance(m, Bye)] for f in FrameReader().feed(data)][-1:]
        assert byes == ["frame of 4294967295 bytes, at most 4096 are accepted"]
        await until(lambda: any(byes[0] in line for line in one.logged("ring_link_closed")))
        assert len(one.director.barrier.ring) == 2


async def test_a_member_at_which_no_process_listens_is_reported_and_dialled_again(tmp_path: Path) -> None:
    node = Node(members=[ME, OTHER])
    async with anyio.create_task_group() as tasks:
        await tasks.start(node.driver.run)
        node.start()
        await until(lambda: len(node.logged("ring_dial_failed")) >= 2)
        assert "refused" in node.logged("ring_dial_failed")[0]
        tasks.cancel_scope.cancel()
