"""Listeners between real sockets: limits, what runs out, clients that fail."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute, SocketStream

from director.net.accept import MOST_LEAVING, PAUSE, Acceptor, Limits
from director.net.descriptors import RESERVE, Descriptors
from director.net.listen import BACKLOG, tcp_listener, unix_listener
from director.net.places import StreamPlace
from tests.descriptors import without_descriptors
from tests.listening import Reports
from tests.waiting import until

pytestmark = pytest.mark.anyio
HERE, THERE = "127.0.81.1", "127.0.81.2"


made: list[asyncio.Transport] = []
"""Of the connections of a test."""


class Echo(asyncio.Protocol):
    """Says `+` at once, and returns what it is told."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        made.append(self.transport)
        self.transport.write(b"+")

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def echo(stream: SocketStream, peer: str, place: StreamPlace) -> None:
    async with stream:
        await stream.send(b"+")
        async for data in stream:
            await stream.send(data)


class Place:
    """A listening socket, what its acceptor tells, and its clients."""

    def __init__(self, sock: socket.socket, stack: ExitStack) -> None:
        self.told, self._sock, self._stack = Reports(), sock, stack
        self.acceptor: Acceptor

    def make(self, limits: Limits | None = None, descriptors: int | None = None, **options: Any) -> Acceptor:
        of_process = Descriptors(descriptors)
        self._stack.callback(of_process.close)
        self.acceptor = Acceptor("listener", self._sock, of_process, self.told, limits, **options)
        return self.acceptor

    def client(self, source: str = "") -> socket.socket:
        """A connection that is in the kernel's queue."""
        sock = self._stack.enter_context(socket.socket(self._sock.family))
        if source:
            sock.bind((source, 0))
        sock.connect(self._sock.getsockname())
        sock.setblocking(False)
        return sock


@contextmanager
def place(sock: socket.socket) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(sock, stack)


@pytest.fixture
def over_tcp() -> Iterator[Place]:
    with place(tcp_listener("listener", HERE, 0).socket) as found:
        yield found


@pytest.fixture
def over_unix(tmp_path: Path) -> Iterator[Place]:
    with place(unix_listener("listener", str(tmp_path / "s"), mode=0o600).socket) as found:
        yield found


@asynccontextmanager
async def serving(
    acceptor: Acceptor, factory: Callable[[], asyncio.BaseProtocol] = Echo, **options: Any
) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:

        async def serve() -> None:
            await acceptor.serve_protocols(factory, **options)

        tasks.start_soon(serve)
        try:
            yield
        finally:
            for transport in made:
                transport.abort()
            made.clear()
            await until(lambda: acceptor.connections == 0)
            tasks.cancel_scope.cancel()


async def heard(sock: socket.socket) -> bytes:
    """The next bytes; empty: the connection was closed."""
    with anyio.fail_after(10):
        try:
            return await asyncio.get_running_loop().sock_recv(sock, 100)
        except ConnectionResetError:
            return b""


# ---- limits


@pytest.mark.shows("A-2")
async def test_a_connection_over_the_limit_of_a_listener_is_closed_and_reported(over_unix: Place) -> None:
    clients = [over_unix.client() for _ in range(3)]
    async with serving(over_unix.make(Limits(2))):
        assert [await heard(sock) for sock in clients] == [b"+", b"+", b""]
        assert over_unix.told.refused == [("listener", "all", "unix")]
        clients[0].close()
        await until(lambda: over_unix.acceptor.connections == 1)
        assert await heard(over_unix.client()) == b"+"


@pytest.mark.shows("A-2")
async def test_a_connection_over_the_limit_of_an_address_is_closed_and_other_addresses_are_served(
    over_tcp: Place,
) -> None:
    clients = [over_tcp.client() for _ in range(3)]
    async with serving(over_tcp.make(Limits(10, per_address=2))):
        assert [await heard(sock) for sock in clients] == [b"+", b"+", b""]
        assert [limit for _, limit, _ in over_tcp.told.refused] == ["address"]
        assert await heard(over_tcp.client(THERE)) == b"+"
        clients[0].close()
        await until(lambda: over_tcp.acceptor.connections == 2)
        assert await heard(over_tcp.client()) == b"+"


@pytest.mark.shows("A-2")
async def test_connections_of_exempt_addresses_are_not_counted(over_tcp: Place) -> None:
    clients = [over_tcp.client(THERE) for _ in range(5)]
    async with serving(over_tcp.make(Limits(1, per_address=1), exempt=lambda address: address == THERE)):
        assert [await heard(sock) for sock in clients] == [b"+"] * 5
        assert await heard(over_tcp.client()) == b"+"
        assert over_tcp.told.refused == []


async def test_a_limit_that_is_raised_holds_for_the_next_connection(over_unix: Place) -> None:
    limits = Limits(1)
    first = over_unix.client()
    async with serving(over_unix.make(limits)):
        assert await heard(first) == b"+"
        limits.in_all = 2
        assert await heard(over_unix.client()) == b"+"


async def test_over_a_limit_a_connection_that_can_be_spared_is_closed_instead(over_unix: Place) -> None:
    def make_room(address: str) -> bool:
        if not made:
            return False
        made.pop(0).abort()
        return True

    clients = [over_unix.client() for _ in range(5)]  # all of them wait when it begins to accept
    async with serving(over_unix.make(Limits(2)), make_room=make_room):
        assert [await heard(sock) for sock in clients] == [b"+"] * 5
        assert [await heard(sock) for sock in clients[:3]] == [b""] * 3
        assert len(over_unix.told.refused) == 3
        await until(lambda: over_unix.acceptor.connections == 2)


async def test_few_connections_that_lose_their_places_are_open_at_a_time(over_unix: Place) -> None:
    leaving: list[asyncio.Transport] = []

    def make_room(address: str) -> bool:
        if len(leaving) == len(made):
            return False
        leaving.append(made[len(leaving)])  # it takes its time
        return True

    clients = [over_unix.client() for _ in range(40)]
    async with serving(over_unix.make(Limits(2)), make_room=make_room):
        await until(lambda: len(leaving) == MOST_LEAVING)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert over_unix.acceptor.connections == 2 + MOST_LEAVING
        for count in range(38):
            await until(lambda count=count: len(leaving) > count)
            leaving[count].abort()
            await until(lambda count=count: made[count].is_closing())
            assert over_unix.acceptor.connections <= 2 + MOST_LEAVING
        assert [await heard(sock) for sock in clients] == [b"+"] * 40


# ---- what runs out


@pytest.mark.shows("A-4")
@pytest.mark.parametrize("limits", [None, Limits(10)])
async def test_without_descriptors_connections_wait_until_there_are_some(
    over_unix: Place, limits: Limits | None
) -> None:
    client, acceptor = over_unix.client(), over_unix.make(limits, descriptors=10_000)
    async with serving(acceptor):
        with without_descriptors():
            asked = over_unix.told.pauses
            await until(lambda: len(asked) >= 2)  # it goes on trying
            assert asked[0] == ("listener", "Too many open files")
            assert acceptor.connections == 0
        assert await heard(client) == b"+"


@pytest.mark.shows("A-4")
async def test_an_operator_is_served_by_the_spare_descriptor_which_is_kept_again_afterwards(
    over_unix: Place,
) -> None:
    clients, acceptor = [over_unix.client() for _ in range(2)], over_unix.make(Limits(9), for_operators=True)
    with without_descriptors() as taken:
        async with serving(acceptor):
            assert await heard(clients[0]) == b"+"
            await until(lambda: over_unix.told.pauses)
            assert acceptor.connections == 1
            clients[0].shutdown(socket.SHUT_RDWR)
            assert await heard(clients[1]) == b"+"
            os.close(taken.pop())
            clients[1].shutdown(socket.SHUT_RDWR)
            await until(lambda: acceptor.connections == 0)
            await until(lambda: acceptor._descriptors._spare >= 0)


async def test_the_spare_descriptor_is_kept_again_when_its_connection_ends(over_unix: Place) -> None:
    client, acceptor = over_unix.client(), over_unix.make(Limits(9), for_operators=True)
    with without_descriptors():
        async with serving(acceptor):
            assert await heard(client) == b"+"
            assert acceptor._descriptors._spare < 0
            made.pop().abort()
            await until(lambda: acceptor.connections == 0)
            assert acceptor._descriptors._spare >= 0


@pytest.mark.shows("A-4")
async def test_a_listener_without_limits_leaves_descriptors_to_others_and_to_its_own_connections(
    over_unix: Place,
) -> None:
    clients = [over_unix.client() for _ in range(3)]
    probe = os.open(os.devnull, os.O_RDONLY)  # the next descriptor but one: the spare one comes first
    os.close(probe)
    owed = 0
    acceptor = over_unix.make(descriptors=probe + 1 + 2 + RESERVE)
    async with serving(acceptor, owed=lambda: owed):
        assert await heard(clients[0]) == b"+"
        await until(lambda: len(over_unix.told.pauses) > 2)
        assert over_unix.told.pauses[0] == ("listener", "few descriptors are left")
        served = acceptor.connections
        assert served < 3
        acceptor._descriptors.most += 100
        owed = 200
        await anyio.sleep(2 * PAUSE)
        assert acceptor.connections == served
        owed = 0
        assert await heard(clients[2]) == b"+"


async def test_a_listener_that_refuses_connections_is_not_polled_without_end(over_tcp: Place) -> None:
    acceptor = over_tcp.make()
    async with serving(acceptor):
        assert await heard(over_tcp.client()) == b"+"
        descriptor = acceptor._sock.fileno()
        acceptor.refuse()
        with pytest.raises(ConnectionRefusedError):
            over_tcp.client()
        acceptor._accept()  # as the loop does it
        assert not asyncio.get_running_loop().remove_reader(descriptor)


@pytest.mark.shows("A-6")
async def test_the_queue_of_the_kernel_stays_as_long_as_it_was_made(over_tcp: Place) -> None:
    acceptor = over_tcp.make()
    async with serving(acceptor):
        assert await heard(over_tcp.client()) == b"+"
        info = acceptor._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        assert struct.unpack_from("I", info, 28)[0] == min(BACKLOG, somaxconn())


def somaxconn() -> int:
    return int(Path("/proc/sys/net/core/somaxconn").read_text())


# ---- clients that fail


async def test_clients_that_reset_before_they_are_served_are_no_failures(over_tcp: Place) -> None:
    for _ in range(20):
        client = over_tcp.client()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    acceptor = over_tcp.make()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(acceptor.serve_streams, echo)
        assert await heard(over_tcp.client()) == b"+"
        await until(lambda: acceptor.connections == 1)
        tasks.cancel_scope.cancel()
    assert over_tcp.told.failures == []


async def test_a_silent_client_that_has_vanished_is_noticed(over_tcp: Place) -> None:
    async def look(stream: SocketStream, peer: str, place: StreamPlace) -> None:
        async with stream:
            sock = stream.extra(SocketAttribute.raw_socket)
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            idle, interval, count = (sock.getsockopt(socket.IPPROTO_TCP, option) for option in options)
            kept = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            await stream.send(b"%d" % (kept and idle + interval * count))

    client, acceptor = over_tcp.client(), over_tcp.make()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(acceptor.serve_streams, look)
        assert await heard(client) == b"120"
        tasks.cancel_scope.cancel()


@pytest.mark.shows("A-1")
async def test_a_bug_in_the_handler_of_a_client_ends_its_connection_alone(over_unix: Place) -> None:
    async def broken(stream: SocketStream, peer: str, place: StreamPlace) -> None:
        await stream.receive()
        raise ZeroDivisionError("a bug")

    one, other = over_unix.client(), over_unix.client()
    acceptor = over_unix.make()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(acceptor.serve_streams, broken)
        one.send(b"x")
        assert await heard(one) == b""
        assert [str(error) for error in over_unix.told.failures] == ["a bug"]
        await until(lambda: acceptor.connections == 1)
        other.send(b"x")
        assert await heard(other) == b""
        tasks.cancel_scope.cancel()


@pytest.mark.shows("A-1")
async def test_a_bug_at_the_beginning_of_a_connection_ends_it(over_unix: Place) -> None:
    class Broken(Echo):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            raise ZeroDivisionError("a bug")

    client, acceptor = over_unix.client(), over_unix.make()
    async with serving(acceptor, Broken):
        assert await heard(client) == b""
        assert [str(error) for error in over_unix.told.failures] == ["a bug"]
        assert acceptor.connections == 0


@pytest.mark.shows("A-1")
async def test_a_failure_that_is_not_the_handlers_ends_the_program(over_unix: Place) -> None:
    async def broken(stream: SocketStream, peer: str, place: StreamPlace) -> None:
        raise ZeroDivisionError("a bug of the core")

    over_unix.told.fatal = True
    over_unix.client()
    with pytest.raises(ExceptionGroup) as raised:
        await over_unix.make().serve_streams(broken)
    assert isinstance(raised.value.exceptions[0], ZeroDivisionError)
