"""Admin, socketmap and authreply listeners that are full of clients who do nothing, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from director.net import admin, authreply, places, socketmap
from director.net.accept import Acceptor, Limits
from director.net.authreply import AuthreplyClient, AuthreplySocket
from director.net.listen import tcp_listener, unix_listener
from director.wire.admin import Command, UserList
from director.wire.socketmap import Request, found, netstring
from tests.listening import Reports, acceptor
from tests.waiting import until

pytestmark = pytest.mark.anyio

MOST = 4
HERE = "127.0.81.3"
ADMIN_HELLO, AUTHREPLY_HELLO = (
    b"VERSION\tdirector-doveadm\t1\t0\n",
    b"VERSION\tdirector-authreply-client\t1\t0\n",
)


class Log:
    def debug(self, event: str, **fields: object) -> None: ...

    def warning(self, event: str, **fields: object) -> None: ...

    def error(self, event: str, **fields: object) -> None: ...


class Work:
    """Records the requests of clients. Requests that say `later`, and `HOST-FLUSH`, wait for `done`."""

    def __init__(self) -> None:
        self.begun = 0
        self.done = anyio.Event()
        self.sent = 0
        """Bytes of listings."""
        self._held: list[tuple[AuthreplyClient, bytes]] = []

    async def command(self, command: Command) -> AsyncGenerator[bytes, None]:
        self.begun += 1
        if isinstance(command, UserList):
            while True:
                yield b"x" * 4095 + b"\n"
                self.sent += 4096
        if type(command).__name__ == "HostFlush":
            await self.done.wait()
        yield b"OK\n"

    async def request(self, request: Request) -> bytes:
        self.begun += 1
        if request.key == b"later":
            await self.done.wait()
        return found(b"OK")

    def lines(self, client: AuthreplyClient, data: bytes) -> None:
        for line in data.splitlines(keepends=True):
            self.begun += 1
            if b"later" in line:
                client.waiting.add(len(self._held))
                self._held.append((client, line))
            else:
                client.write(line)

    def finish(self) -> None:
        self.done.set()
        for number, (client, line) in enumerate(self._held):
            client.waiting.discard(number)
            client.write(line)

    def client_gone(self, client: AuthreplyClient) -> None: ...

    def authreply_refused(self, reason: str) -> None: ...


class Protocol:
    """How one protocol is served, and what its clients say."""

    def __init__(
        self,
        serve: Callable[[Acceptor, Work], Awaitable[None]],
        *,
        hello: bytes,
        greeting: bytes,
        short: bytes,
        long: bytes,
        answer: bytes,
    ) -> None:
        self.serve, self.hello, self.greeting = serve, hello, greeting
        self.short, self.long = short, long
        """A request that is answered at once, and one that is answered later."""
        self.answer = answer
        """To a short request."""


async def serve_admin(listener: Acceptor, work: Work) -> None:
    await admin.AdminClients(work.command, Log()).serve(listener)


async def serve_socketmap(listener: Acceptor, work: Work) -> None:
    await listener.serve_streams(
        lambda stream, _, place: socketmap.serve_client(stream, work.request, Log(), place)
    )


async def serve_authreply(listener: Acceptor, work: Work) -> None:
    await AuthreplySocket(work).serve(listener)


PROTOCOLS = {
    "admin": Protocol(
        serve_admin,
        hello=ADMIN_HELLO,
        greeting=b"VERSION\tdirector-doveadm\t1\t0\n",
        short=b"HOST-LIST\n",
        long=b"HOST-FLUSH\n",
        answer=b"OK\n",
    ),
    "socketmap": Protocol(
        serve_socketmap,
        hello=b"",
        greeting=b"",
        short=netstring(b"lmtp now"),
        long=netstring(b"lmtp later"),
        answer=netstring(found(b"OK")),
    ),
    "authreply": Protocol(
        serve_authreply,
        hello=AUTHREPLY_HELLO,
        greeting=authreply.GREETING,
        short=b"now\n",
        long=b"later\n",
        answer=b"now\n",
    ),
}


class Full:
    """A listener with MOST places, and its clients."""

    def __init__(self, protocol: Protocol, sock: socket.socket, stack: ExitStack) -> None:
        self.protocol, self.work, self.told = protocol, Work(), Reports()
        self._address, self._family, self._stack = sock.getsockname(), sock.family, stack
        self._acceptor = acceptor(sock, Limits(MOST), reports=self.told)

    async def serve(self) -> None:
        await self.protocol.serve(self._acceptor, self.work)

    async def client(self, said: bytes = b"") -> socket.socket:
        """A client that has been greeted, where the protocol greets, and has said something."""
        sock = self._stack.enter_context(socket.socket(self._family))
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, self._address)
        await loop.sock_sendall(sock, said)
        assert await receive(sock, len(self.protocol.greeting)) == self.protocol.greeting
        return sock

    async def busy(self, said: bytes) -> socket.socket:
        """A client whose request has been begun."""
        begun = self.work.begun
        sock = await self.client(self.protocol.hello + said)
        await until(lambda: self.work.begun > begun)
        return sock

    async def is_served(self) -> bool:
        """Whether a new client is answered."""
        sock = await self.client(self.protocol.hello + self.protocol.short)
        return await self.answers(sock)

    async def is_closed_at_once(self) -> bool:
        """Whether a new client is closed without a word."""
        with self._stack.enter_context(socket.socket(self._family)) as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, self._address)
            return await receive(sock, 1) == b""

    async def answers(self, sock: socket.socket) -> bool:
        return bool(await receive(sock, len(self.protocol.answer)))

    async def ask(self, sock: socket.socket) -> bool:
        """Whether a short request is answered; False: the connection is closed."""
        try:
            await asyncio.get_running_loop().sock_sendall(sock, self.protocol.short)
        except OSError:
            return False
        return await self.answers(sock)


async def receive(sock: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer where the connection is closed."""
    data = b""
    with anyio.fail_after(10):
        while len(data) < size:
            try:
                part = await asyncio.get_running_loop().sock_recv(sock, size - len(data))
            except ConnectionResetError:
                break
            if not part:
                break
            data += part
    return data


@asynccontextmanager
async def full_of(name: str, sock: socket.socket) -> AsyncIterator[Full]:
    with ExitStack() as stack:
        full = Full(PROTOCOLS[name], sock, stack)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(full.serve)
            try:
                yield full
            finally:
                full.work.finish()
                tasks.cancel_scope.cancel()


@pytest.fixture(params=sorted(PROTOCOLS))
async def full(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Full]:
    sock = unix_listener(request.param, str(tmp_path / "s"), mode=0o600).socket
    async with full_of(request.param, sock) as found:
        yield found


@pytest.mark.shows("A-3")
@pytest.mark.parametrize("said", ["nothing", "half", "hello", "asked"])
async def test_clients_that_only_hold_their_connections_lock_no_client_out(full: Full, said: str) -> None:
    protocol = full.protocol
    words = {
        "nothing": b"",
        "half": (protocol.hello + protocol.short)[:-2],
        "hello": protocol.hello,
        "asked": protocol.hello + protocol.short,
    }
    held = []
    for _ in range(3 * MOST):
        held.append(await full.client(words[said]))
        if said == "asked":
            assert await full.answers(held[-1])
        assert await full.is_served()
    assert full.told.failures == []
    assert {limit for _, limit, _ in full.told.refused} == {"all"}


@pytest.mark.shows("A-3")
async def test_the_client_that_was_idle_longest_loses_its_place_and_the_others_stay(full: Full) -> None:
    clients = []
    for _ in range(MOST):
        clients.append(await full.client(full.protocol.hello))
        assert await full.ask(clients[-1])
    assert await full.ask(clients[0])
    assert await full.is_served()
    rests = [await full.ask(sock) for sock in (clients[1], clients[0], clients[2], clients[3])]
    assert rests == [False, True, True, True]


@pytest.mark.shows("A-3")
async def test_operations_in_progress_lose_no_place_to_another_client_and_are_answered(full: Full) -> None:
    held = [await full.busy(full.protocol.long) for _ in range(MOST)]
    assert await full.is_closed_at_once()
    full.work.finish()
    assert [await full.answers(sock) for sock in held] == [True] * MOST


@pytest.mark.shows("A-3")
async def test_a_client_that_sends_nothing_is_closed_after_the_time_out(
    full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "FIRST_WITHIN", 0.2)
    monkeypatch.setattr(authreply, "FIRST_WITHIN", 0.2)
    silent, half = await full.client(), await full.client((full.protocol.hello + full.protocol.short)[:5])
    assert await receive(silent, 1) == await receive(half, 1) == b""
    assert full.told.failures == full.told.refused == []


@pytest.mark.shows("A-3")
async def test_a_client_that_has_sent_a_line_may_be_idle_without_limit(
    full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "FIRST_WITHIN", 0.2)
    monkeypatch.setattr(authreply, "FIRST_WITHIN", 0.2)
    idle = await full.client(full.protocol.hello + full.protocol.short)
    assert await full.answers(idle)
    silent = await full.client()
    assert await receive(silent, 1) == b""  # the time of the idle client would be over too
    assert await full.ask(idle)


@pytest.mark.shows("A-3")
async def test_clients_that_do_not_read_their_listings_lock_no_client_out_and_a_read_listing_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "TAKE_WITHIN", 0.2)
    sock = unix_listener("admin", str(tmp_path / "s"), mode=0o600).socket
    async with full_of("admin", sock) as full:
        read = await full.busy(b"USER-LIST\n")
        unread = [await full.busy(b"USER-LIST\n") for _ in range(MOST - 1)]
        with anyio.fail_after(10):
            while await full.is_closed_at_once():  # until the others have read nothing for long enough
                assert len(await receive(read, 1 << 16)) == 1 << 16
        assert await full.is_served()
        assert len(await receive(read, 1 << 20)) == 1 << 20
        assert len(unread) == MOST - 1


@pytest.mark.parametrize("name", ["admin", "socketmap"])
async def test_an_idle_client_loses_its_place_to_another_client_of_its_address(name: str) -> None:
    sock = tcp_listener(name, HERE, 0).socket
    async with full_of(name, sock) as full:
        for _ in range(3 * MOST):
            await full.client(full.protocol.hello)
            assert await full.is_served()
        assert {peer.partition(":")[0] for _, _, peer in full.told.refused} <= {HERE, "127.0.0.1"}
