"""Login and userdb sockets: one connection to auth for each connection of a login process, closed together.

Bytes from the login process go to auth untouched. Bytes from auth go line by line to the owner, who writes
what may go on at once and keeps what has to wait. While auth cannot be reached the login process is held,
never closed: it would give up on us for good (dovecot-integration, section 8).
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Protocol, cast

import anyio
import anyio.abc

from director.wire.tabs import LineBuffer, LineTooLong

LINE_LIMIT = 16384
"""Longest line accepted from auth, in bytes."""
HELD_LIMIT = 65536
"""Bytes of a login process that are kept, before more are read from it, while auth has not said a word."""
RETRY_FIRST = 0.05
RETRY_LONGEST = 1.0
"""Seconds between two attempts to reach auth."""
NO_CLEANUP: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""From 3.13 on the loop looks at a socket's file, to remove it: what we inherit is not ours, and lies where
only login processes may go."""


class Owner(Protocol):
    """Who deals with lines and is told of troubles."""

    def lines(self, client: Client, data: bytes) -> None:
        """Complete lines from auth, for this client."""

    def client_gone(self, client: Client) -> None: ...

    def auth_unreachable(self, path: str, reason: str) -> None: ...

    def auth_reached(self, path: str) -> None: ...

    def line_too_long(self, path: str, limit: int) -> None: ...


class Relay:
    """One listening socket and the auth socket behind it."""

    def __init__(self, name: str, auth_path: str, passlines: bool, owner: Owner) -> None:
        self.name, self.auth_path, self.passlines, self.owner = name, auth_path, passlines, owner
        self.clients: set[Client] = set()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._server: asyncio.AbstractServer | None = None

    async def serve(self, sock: object) -> None:
        """Accept until cancelled or stopped; then close all connections."""
        loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            self._server = await loop.create_unix_server(
                lambda: Client(self),
                sock=sock,  # type: ignore[arg-type]
                backlog=1024,
                **NO_CLEANUP,
            )
            try:
                await anyio.sleep_forever()
            finally:
                self.stop()

    def stop(self) -> None:
        """Accept nobody any more, and close all connections after what was written to them."""
        if self._server is not None:
            self._server.close()
        self._server = self._tasks = None
        for client in list(self.clients):
            client.end()

    def connect(self, client: Client) -> None:
        """Get this client a connection to auth, however long it takes."""
        if self._tasks is not None:
            self._tasks.start_soon(self._connect, client)

    async def _connect(self, client: Client) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await anyio.sleep(client.pause)
            client.pause = min(max(RETRY_FIRST, 2 * client.pause), RETRY_LONGEST)
            if not client.open:
                return
            try:
                await loop.create_unix_connection(lambda: _Auth(client), self.auth_path)
            except OSError as exc:
                self.owner.auth_unreachable(self.auth_path, exc.strerror or str(exc))
            else:
                return


class Client(asyncio.Protocol):
    """A login process (or lmtp, or doveadm)."""

    __slots__ = (
        "_auth",
        "_auth_full",
        "_first",
        "_heard",
        "_mid_line",
        "_own",
        "_paused",
        "_transport",
        "pause",
        "relay",
        "waiting",
    )

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.waiting: set[int] = set()
        """Requests of this client that wait for an answer; kept by the owner."""
        self.pause = 0.0
        """Seconds until auth is tried (again)."""
        self._transport: asyncio.Transport | None = None
        self._auth: asyncio.Transport | None = None
        self._auth_full = False
        self._first = b""
        """All that was sent while auth had not said a word: if it goes away, it is said to its successor."""
        self._heard = False
        self._paused = False
        self._mid_line = False
        """Whether what went to auth so far ends within a line."""
        self._own = b""
        """Lines of ours that wait for the end of that line."""

    @property
    def open(self) -> bool:
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.relay.clients.add(self)
        self.relay.connect(self)

    def data_received(self, data: bytes) -> None:
        if not self._heard:
            self._first += data
            self._steer()
        if self._auth is not None:
            self._auth.write(self._with_own(data) if self._own else data)
        self._mid_line = not data.endswith(b"\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
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
        if self._transport is not None:
            self._transport.write(data)

    def tell_auth(self, lines: bytes) -> None:
        """Send auth lines of our own, between two of the client's."""
        if self._mid_line:
            self._own += lines
        elif self._auth is not None:
            self._auth.write(lines)

    def end(self) -> None:
        """Close this connection and the one to auth, of which nothing more is read."""
        if self._auth is not None:
            self._auth.close()
        if self._transport is not None:
            self._transport.close()

    def auth_connected(self, auth: asyncio.Transport) -> None:
        if self._transport is None or self._transport.is_closing():
            auth.close()
            return
        self._auth = auth
        if self._first:
            auth.write(self._first)

    def auth_heard(self) -> None:
        """Auth has answered: what was sent to it need not be kept any longer."""
        if not self._heard:
            self._heard = True
            self._first = b""
            self._steer()
            self.relay.owner.auth_reached(self.relay.auth_path)

    def auth_lost(self) -> None:
        self._auth = None
        self.auth_full(False)
        if self._heard:
            self.end()
        elif self._transport is not None and not self._transport.is_closing():
            self.relay.owner.auth_unreachable(self.relay.auth_path, "it hangs up before it has said a word")
            self.relay.connect(self)

    def auth_full(self, full: bool) -> None:
        """Auth does not read as fast as this client writes."""
        self._auth_full = full
        self._steer()

    def _with_own(self, data: bytes) -> bytes:
        """What the client sends, with our own lines behind the end of its line."""
        end = data.find(b"\n") + 1
        if not end:
            return data
        own, self._own = self._own, b""
        return data[:end] + own + data[end:]

    def _steer(self) -> None:
        """Read from the client only while there is room for what it sends."""
        if self._transport is None or self._transport.is_closing():
            return
        pause = self._auth_full or len(self._first) > HELD_LIMIT
        if pause is not self._paused:
            self._paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()


class _Auth(asyncio.Protocol):
    """The connection to auth that belongs to one client."""

    __slots__ = ("_buffer", "_client", "_transport")

    def __init__(self, client: Client) -> None:
        self._client = client
        self._buffer = LineBuffer(LINE_LIMIT)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._client.auth_connected(self._transport)

    def data_received(self, data: bytes) -> None:
        client = self._client
        client.auth_heard()
        try:
            lines = self._buffer.complete(data)
        except LineTooLong as exc:
            lines = exc.before
            client.relay.owner.line_too_long(client.relay.auth_path, exc.limit)
            self._transport.abort()  # the client's connection follows, after these lines
        if lines:
            client.relay.owner.lines(client, lines)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.auth_lost()

    def pause_writing(self) -> None:
        self._client.auth_full(True)

    def resume_writing(self) -> None:
        self._client.auth_full(False)
