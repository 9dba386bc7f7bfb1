"""Login and userdb sockets: for each connection of a login process there is one to auth, and both are closed
together.

Bytes from the login process go to auth unchanged. Bytes from auth go line by line to the owner, which passes
lines on at once or keeps those that have to wait. While auth is unreachable the login process's connection is
kept open: after a refused or closed connection a login process stalls until its next client comes, or for
30 s (docs/dovecot.md, "While no director runs").

Connections can be handed to a successor, the program that replaces this one in place, without either end
noticing.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Callable, Iterable
from typing import Protocol, cast

import anyio
import anyio.abc
import msgspec

from director.net.accept import Acceptor
from director.net.hangups import HangUps
from director.wire.tabs import LineBuffer, LineTooLong

LINE_LIMIT = 16384
"""The longest line accepted from auth, in bytes."""
HELD_LIMIT = 65536
"""Bytes from a login process that are kept before reading pauses, until auth has sent something."""
RETRY_FIRST = 0.05
RETRY_LONGEST = 1.0
"""Seconds between two attempts to reach auth."""


class LoginOwner(Protocol):
    """Handles the lines from auth, and receives the problems."""

    def lines(self, client: Client, data: bytes) -> None:
        """Handle complete lines from auth for this client."""

    def client_gone(self, client: Client) -> None: ...

    def auth_unreachable(self, path: str, reason: str) -> None: ...

    def auth_reached(self, path: str) -> None: ...

    def line_too_long(self, path: str, limit: int) -> None: ...


class Connection(msgspec.Struct, kw_only=True):
    """The state of a client and its connection to auth, for a successor."""

    relay: str
    """The name of the listener."""
    client: int
    """The descriptor of the client's socket."""
    auth: int = -1
    """The descriptor of the socket to auth; -1: auth is not reached yet, or, if `heard`, is lost again."""
    heard: bool = False
    first: bytes = b""
    """All that the client has sent while auth had not sent anything."""
    mid_line: bool = False
    """Whether what was sent to auth ends within a line..."""
    own_lines: bytes = msgspec.field(default=b"", name="own")
    """...and the director's own lines, which wait for the end of that line."""
    rest: bytes = b""
    """The beginning of a line from auth."""
    to_client: bytes = b""
    """Written but not taken by the kernel."""
    to_auth: bytes = b""
    held_lines: list[bytes] = msgspec.field(default_factory=list, name="held")
    """Lines from auth (without LF) that wait for an answer."""


class Relay:
    """A listening socket, and the auth socket that its clients are connected to."""

    def __init__(self, name: str, auth_path: str, passlines: bool, owner: LoginOwner) -> None:
        self.name, self.auth_path, self.passlines, self.owner = name, auth_path, passlines, owner
        self.clients: set[Client] = set()
        self.hang_ups = HangUps()
        self.auths = 0
        """The number of clients that are connected to auth."""
        self._tasks: anyio.abc.TaskGroup | None = None
        self._acceptor: Acceptor | None = None

    async def serve(self, acceptor: Acceptor) -> None:
        """Accept until cancelled or stopped, then close all connections."""
        async with anyio.create_task_group() as tasks:
            self._tasks, self._acceptor = tasks, acceptor
            try:
                await acceptor.serve_protocols(
                    lambda: Client(self), owed=lambda: len(self.clients) - self.auths
                )
            finally:
                self.stop()

    def stop(self) -> None:
        """Stop accepting, and close all connections after sending what was written to them."""
        if self._acceptor is not None:
            self._acceptor.stop()
        self._acceptor = self._tasks = None
        for client in list(self.clients):
            client.end()
        self.hang_ups.close()

    async def finish_accepting(self) -> None:
        """Stop accepting, and wait until each accepted connection is a client."""
        if self._acceptor is not None:
            await self._acceptor.finish_accepting()

    def hand_over(self, held_lines: Callable[[Client], list[bytes]]) -> list[Connection]:
        """Stop accepting, and give away all connections. Nothing more is read from them or written to them.

        Args:
            held_lines: returns the lines of a client that wait for an answer.

        Returns:
            The connections, for a successor.
        """
        given = [client.hand_over(held_lines(client)) for client in self.clients if client.open]
        self.clients.clear()
        self.stop()
        return [connection for connection in given if connection is not None]

    async def take_over(self, connections: Iterable[Connection]) -> None:
        """Continue with the connections that a predecessor has given away. Runs beside `serve`."""
        for connection in connections:
            client = Client(self, connection)
            await _adopt(client, connection.client)
            if connection.auth >= 0:
                auth = _Auth(client, connection.rest)
                await _adopt(auth, connection.auth)
            elif connection.heard:
                client.end()
            else:
                self.connect(client)
            if connection.held_lines:
                self.owner.lines(client, b"".join(line + b"\n" for line in connection.held_lines))

    def connect(self, client: Client) -> None:
        """Connect this client to auth, and retry until it succeeds."""
        if self._tasks is not None:
            self._tasks.start_soon(self._connect, client)

    async def _connect(self, client: Client) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await anyio.sleep(client.pause)
            client.pause = min(max(RETRY_FIRST, 2 * client.pause), RETRY_LONGEST)
            if not client.open:
                return
            if client.has_hung_up():
                # The client gave up while no director ran, and has connected again. Auth takes each CPID only
                # once.
                client.end()
                return
            try:
                await loop.create_unix_connection(lambda: _Auth(client), self.auth_path)
            except OSError as exc:
                self.owner.auth_unreachable(self.auth_path, exc.strerror or str(exc))
            else:
                return


async def _adopt(protocol: asyncio.Protocol, descriptor: int) -> None:
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, sock)


class _Outlet:
    """Writes to a transport, and keeps the last bytes, since uvloop does not return what the kernel has
    not taken."""

    __slots__ = ("_last", "transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._last = b""

    def write(self, data: bytes) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._last = self._last[-waiting:] + data if waiting else data
        self.transport.write(data)

    def hand_over(self) -> tuple[int, bytes]:
        """Return a descriptor of the socket and the bytes that were not sent yet. The transport is closed."""
        waiting = self.transport.get_write_buffer_size()
        descriptor = os.dup(self.transport.get_extra_info("socket").fileno())
        self.transport.abort()
        return descriptor, self._last[-waiting:] if waiting else b""


class Client(asyncio.Protocol):
    """A connection of a login process (or of lmtp or doveadm)."""

    __slots__ = (
        "_auth",
        "_auth_full",
        "_buffer",
        "_first",
        "_heard",
        "_mid_line",
        "_outlet",
        "_own_lines",
        "_paused",
        "_taken_over",
        "_to_auth",
        "_transport",
        "pause",
        "relay",
        "waiting",
    )

    def __init__(self, relay: Relay, taken_over: Connection | None = None) -> None:
        """Begin a connection. `taken_over`: the state in which a predecessor left it; None: it is new."""
        self.relay = relay
        self.waiting: set[int] = set()
        """The requests of this client that wait for an answer; kept by the owner."""
        self.pause = 0.0
        """Seconds until the next attempt to reach auth."""
        self._transport: asyncio.Transport | None = None
        self._auth: asyncio.Transport | None = None
        self._auth_full = False
        self._first = b""
        """All that was sent while auth had not sent anything. If auth is lost before it does, this is sent
        again to the next auth."""
        self._heard = False
        self._paused = False
        self._mid_line = False
        """Whether what was sent to auth ends within a line."""
        self._own_lines = b""
        """The director's own lines, which wait for the end of that line."""
        self._outlet: _Outlet | None = None
        self._to_auth: _Outlet | None = None
        self._buffer: LineBuffer | None = None
        """The buffer of the connection to auth."""
        self._taken_over = taken_over
        if taken_over is not None:
            self._first, self._heard = taken_over.first, taken_over.heard
            self._mid_line, self._own_lines = taken_over.mid_line, taken_over.own_lines

    @property
    def open(self) -> bool:
        return self._transport is not None

    def has_hung_up(self) -> bool:
        """Whether the other end is closed. This is known even before all that it sent was read."""
        assert self._transport is not None, "only a client that is open is asked"
        asking = select.poll()
        asking.register(self._transport.get_extra_info("socket").fileno(), 0)
        return bool(asking.poll(0))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._outlet = _Outlet(self._transport)
        self.relay.clients.add(self)
        if self._taken_over is None:
            self.relay.connect(self)
        elif self._taken_over.to_client:
            self._outlet.write(self._taken_over.to_client)
        self._steer()

    def data_received(self, data: bytes) -> None:
        if not self._heard or self._to_auth is None:
            self._first += data
            self._steer()
        if self._to_auth is not None:
            self._to_auth.write(self._with_own(data) if self._own_lines else data)
        self._mid_line = not data.endswith(b"\n")

    def connection_lost(self, exc: Exception | None) -> None:
        transport, self._transport = self._transport, None
        if transport is not None and self._paused:
            self.relay.hang_ups.forget(transport)
        self.relay.clients.discard(self)
        if self._auth is not None:
            self._auth.close()
        self.relay.owner.client_gone(self)

    def pause_writing(self) -> None:
        if self._auth is not None and not self._auth.is_closing():
            self._auth.pause_reading()

    def resume_writing(self) -> None:
        if self._auth is not None and not self._auth.is_closing():
            self._auth.resume_reading()

    def write(self, data: bytes) -> None:
        if self._outlet is not None and self._transport is not None:
            self._outlet.write(data)

    def tell_auth(self, lines: bytes) -> None:
        """Send the director's own lines to auth, between two lines of the client."""
        if self._mid_line:
            self._own_lines += lines
        elif self._to_auth is not None:
            self._to_auth.write(lines)

    def hand_over(self, held_lines: list[bytes]) -> Connection | None:
        """Return the state that a successor needs; None: the connection has ended.

        After this nothing is read or written here.
        """
        assert self._outlet is not None, "only a client who is there is given away"
        if self._transport is not None and self._paused:
            self.relay.hang_ups.forget(self._transport)
        closing = self._outlet.transport.is_closing()
        if closing and not self._outlet.transport.get_write_buffer_size():
            return None
        descriptor, to_client = self._outlet.hand_over()
        if closing:
            return Connection(relay=self.relay.name, client=descriptor, heard=True, to_client=to_client)
        given = Connection(
            relay=self.relay.name,
            client=descriptor,
            heard=self._heard,
            first=self._first,
            mid_line=self._mid_line,
            own_lines=self._own_lines,
            rest=self._buffer.rest if self._buffer is not None else b"",
            to_client=to_client,
            held_lines=held_lines,
        )
        if self._to_auth is not None:
            given.auth, given.to_auth = self._to_auth.hand_over()
        self._transport = self._auth = self._outlet = self._to_auth = None
        return given

    def end(self) -> None:
        """Close this connection and the one to auth, from which nothing more is read."""
        if self._auth is not None:
            self._auth.close()
        if self._transport is not None:
            self._transport.close()

    def auth_connected(self, auth: asyncio.Transport, buffer: LineBuffer) -> None:
        if self._transport is None or self._transport.is_closing():
            auth.close()
            return
        self._auth, self._buffer = auth, buffer
        self.relay.auths += 1
        self._to_auth = _Outlet(auth)
        taken_over, self._taken_over = self._taken_over, None
        if taken_over is not None and taken_over.auth >= 0:
            # earlier bytes were sent already; `_first` may have grown since
            first = taken_over.to_auth + self._first[len(taken_over.first) :]
        else:
            first = self._first
        if first:
            self._to_auth.write(first)
        if self._heard:
            self._first = b""

    def auth_heard(self) -> None:
        """Note that auth has answered: what was sent to it need not be kept any longer."""
        if not self._heard:
            self._heard = True
            self._first = b""
            self._steer()
            self.relay.owner.auth_reached(self.relay.auth_path)

    def auth_lost(self) -> None:
        if self._auth is not None:
            self.relay.auths -= 1
        self._auth = self._to_auth = None
        self.auth_full(False)
        if self._heard:
            self.end()
        elif self._transport is not None and not self._transport.is_closing():
            self.relay.owner.auth_unreachable(self.relay.auth_path, "it hangs up before it has said a word")
            self.relay.connect(self)

    def auth_full(self, full: bool) -> None:
        """Note whether auth reads more slowly than this client writes."""
        self._auth_full = full
        self._steer()

    def _with_own(self, data: bytes) -> bytes:
        """Return the client's data, with the director's own lines inserted after the end of the client's
        line."""
        end = data.find(b"\n") + 1
        if not end:
            return data
        own_lines, self._own_lines = self._own_lines, b""
        return data[:end] + own_lines + data[end:]

    def _steer(self) -> None:
        """Read from the client only while there is room for what it sends."""
        if self._transport is None or self._transport.is_closing():
            return
        pause = self._auth_full or len(self._first) > HELD_LIMIT
        if pause is not self._paused:
            self._paused = pause
            if pause:
                self._transport.pause_reading()
                self.relay.hang_ups.watch(self._transport, self._hung_up)
            else:
                self.relay.hang_ups.forget(self._transport)
                self._transport.resume_reading()

    def _hung_up(self) -> None:
        """Close the connection: the client is gone, and no program waits for the answers."""
        if self._transport is not None:
            self._transport.abort()


class _Auth(asyncio.Protocol):
    """The connection to auth of one client."""

    __slots__ = ("_buffer", "_client", "_transport")

    def __init__(self, client: Client, rest: bytes = b"") -> None:
        """Begin a connection. `rest`: the beginning of a line that a predecessor received."""
        self._client = client
        self._buffer = LineBuffer(LINE_LIMIT, rest)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._client.auth_connected(self._transport, self._buffer)

    def data_received(self, data: bytes) -> None:
        client = self._client
        client.auth_heard()
        try:
            lines = self._buffer.complete(data)
        except LineTooLong as exc:
            lines = exc.before
            client.relay.owner.line_too_long(client.relay.auth_path, exc.limit)
            self._transport.abort()  # the client's connection is closed after these lines
        if lines:
            client.relay.owner.lines(client, lines)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.auth_lost()

    def pause_writing(self) -> None:
        self._client.auth_full(True)

    def resume_writing(self) -> None:
        self._client.auth_full(False)
