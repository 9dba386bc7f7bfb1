"""Connections to a kick channel of either release of Dovecot: sends lines and reads the answers.

Both ipc and anvil run one request of a connection at a time, and end it when the last login process has
answered. The next request on the same connection does not begin before: one stalled login process would delay
a kick in all the others. Therefore each call has a connection of its own (checked: 2.3.19, 2.4.1).
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar, cast

import anyio

from director.errors import KickError
from director.wire.tabs import LineBuffer, LineTooLong

CONNECTIONS = 64
"""The most connections at the same time; further calls wait. (ipc has room for 1,000, login processes
included.)"""
LINES = 200
"""Lines of an answer that are read in one turn of the loop. A listing has a line for each session."""
IDLE_KEPT = 32
"""Idle connections that are kept, so that in a long series of kicks nearly no kick has to connect."""
IDLE_TIME = 2.0
"""Seconds until idle connections are closed: when Dovecot 2.4 stops, it waits for anvil, and anvil for its
clients."""


class KickConnection(asyncio.Protocol):
    """A connection, with one `ask` at a time."""

    def __init__(self, path: str, limit: int) -> None:
        self.path = path
        self._transport: asyncio.Transport | None = None
        self._buffer = LineBuffer(limit)
        self._lines: deque[bytes] = deque()
        self._lost = ""
        """Why the connection ended, set while lines are left to read."""
        self._row: Callable[[bytes], None] | None = None
        self._missing = 0
        self._count = 0
        self._ended = anyio.Event()
        self._problem = ""

    @property
    def open(self) -> bool:
        return self._transport is not None

    async def ask(self, requests: Sequence[bytes], row: Callable[[bytes], None] | None = None) -> int:
        """Send lines, and wait until all are answered.

        Args:
            requests: at least one line, each with its LF.
            row: called with each line of data.

        Returns:
            The sum of the answers.

        Raises:
            KickError: a request was refused, or the connection was lost.
        """
        self._row, self._missing, self._count = row, len(requests), 0
        self._ended = anyio.Event()
        if self._transport is not None:
            self._transport.write(b"".join(requests))
            await self._ended.wait()
        if self._problem:
            raise KickError(self.path, self._problem)
        return self._count

    def close(self, reason: str) -> None:
        """Close the connection. A waiting `ask` raises KickError."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
            self._lines.clear()
            self._fail(reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        idle = not self._lines
        try:
            self._lines.extend(self._buffer.feed(data))
        except LineTooLong as exc:
            self.close(f"unexpected reply: {exc}")
        if idle:
            self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = f"the connection was lost: {exc}" if exc else "Dovecot closed the connection"
        if not self._lines:
            self.close(self._lost)

    def _read_on(self) -> None:
        """Handle some received lines in this turn of the loop, and the rest in the next turns.

        Until all are handled, the socket is not read.
        """
        try:
            for _ in range(min(LINES, len(self._lines))):
                self._line(self._lines.popleft())
        except ValueError as exc:
            self.close(f"unexpected reply: {exc}")
        if self._transport is None:
            return
        if self._lines:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)
        elif self._lost:
            self.close(self._lost)
        else:
            self._transport.resume_reading()

    _hello = b""
    """The first line that is sent."""

    def _line(self, line: bytes) -> None:
        """Handle a line, without its LF. Raises ValueError if Dovecot would not send it."""
        raise NotImplementedError

    def _answered(self, count: int) -> None:
        """Note that the first request that was still unanswered has ended with `count`."""
        self._count += count
        self._missing -= 1
        if not self._missing:
            self._ended.set()

    def _fail(self, problem: str) -> None:
        self._problem = self._problem or problem
        self._ended.set()


C = TypeVar("C", bound=KickConnection)


class Connections(Generic[C]):
    """Connections to one socket, made when needed."""

    def __init__(self, path: str, make: Callable[[str], C]) -> None:
        self.path, self._make = path, make
        self._idle: list[C] = []
        self._free = anyio.Semaphore(CONNECTIONS)
        self._identity: object = None
        """The identity of the socket at `path` when the idle connections were made."""
        self._closing: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[C]:
        """Give a connection for one caller. Raises KickError if it cannot connect.

        If the block raises an exception, the connection is closed, because a late answer would be taken for
        the answer to another request.
        """
        async with self._free:
            connection = await self._get()
            socket_identity = self._identity
            try:
                yield connection
            except BaseException:
                connection.close("its caller has ended")
                raise
            if len(self._idle) < IDLE_KEPT and socket_identity == self._identity:
                self._keep(connection)
            else:
                connection.close("not needed")

    def close(self) -> None:
        """Close the idle connections."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        while self._idle:
            self._idle.pop().close("not needed")

    def _keep(self, connection: C) -> None:
        self._idle.append(connection)
        if self._closing is not None:
            self._closing.cancel()
        self._closing = asyncio.get_running_loop().call_later(IDLE_TIME, self.close)

    async def _get(self) -> C:
        if (socket_identity := identity(self.path)) != self._identity:
            # An anvil outlives its Dovecot while a client is connected to it, and does not know new sessions.
            self.close()
            self._identity = socket_identity
        while self._idle:
            if (connection := self._idle.pop()).open:
                return connection
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_unix_connection(lambda: self._make(self.path), self.path)
        except PermissionError as exc:
            name = os.path.basename(self.path)
            reason = (
                f"cannot connect: {exc.strerror}; give unix_listener {name} in dovecot.conf a mode and group "
                "with which the director may connect (`director doctor` shows the lines)"
            )
            raise KickError(self.path, reason) from exc
        except OSError as exc:
            raise KickError(self.path, f"cannot connect: {exc.strerror or exc}") from exc
        return connection


def identity(path: str) -> tuple[int, int, int] | None:
    """Return a value that changes when another socket is made at `path`; None: there is none, or it cannot
    be examined."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns
