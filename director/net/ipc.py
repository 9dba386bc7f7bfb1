"""Dovecot 2.3's ipc socket: requests out, answers in, in order, many outstanding on one connection.

ipc carries out one request of a connection at a time (checked with 2.3.19), so what is asked in a row is
answered in that order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

import anyio

from director.errors import KickError
from director.wire.kick import REPLY_LIMIT, Done, Failed, Malformed, Row, read_reply
from director.wire.tabs import LineBuffer, LineTooLong


class Ipc:
    """The way to one ipc socket. Connects when it is asked for a connection, and again after it was lost."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._connection: IpcConnection | None = None
        self._dialling = anyio.Lock()

    async def connection(self) -> IpcConnection:
        """One that takes requests. Raises KickError where nobody listens."""
        async with self._dialling:
            if self._connection is None or not self._connection.open:
                loop = asyncio.get_running_loop()
                try:
                    _, self._connection = await loop.create_unix_connection(
                        lambda: IpcConnection(self.path), self.path
                    )
                except OSError as exc:
                    raise KickError(self.path, f"cannot connect: {exc.strerror or exc}") from exc
            return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close("closed by this director")


class IpcConnection(asyncio.Protocol):
    """One connection. `ask` writes at once, so requests are carried out in the order of the calls."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._transport: asyncio.Transport | None = None
        self._buffer = LineBuffer(REPLY_LIMIT)
        self._waiting: deque[Answer] = deque()
        self._retired = False

    @property
    def open(self) -> bool:
        """Whether it takes requests."""
        return self._transport is not None and not self._retired

    def ask(self, request: bytes, row: Callable[[bytes], None] | None = None) -> Answer:
        """Send one line (with its LF). row: gets each line of data."""
        answer = Answer(row)
        if self._transport is None:
            answer.end(KickError(self.path, "the connection is closed"))
        else:
            self._waiting.append(answer)
            self._transport.write(request)
        return answer

    def retire(self) -> None:
        """Take no more requests: an answer is overdue, and later ones would wait behind it.

        What was asked may still be answered; the connection is closed when nobody waits for that any more.
        """
        self._retired = True
        if all(answer.dropped for answer in self._waiting):
            self.close("its answers are overdue")

    def close(self, reason: str) -> None:
        """End it; whoever waits gets KickError."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        while self._waiting:
            self._waiting.popleft().end(KickError(self.path, reason))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        try:
            for line in self._buffer.feed(data):
                self._line(line)
        except (LineTooLong, Malformed) as exc:
            self.close(f"unexpected reply: {exc}")
        if self._retired:
            self.retire()

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(f"the connection was lost: {exc}" if exc else "ipc closed the connection")

    def _line(self, line: bytes) -> None:
        if not self._waiting:
            raise Malformed("nothing was asked")
        match read_reply(line):
            case Row(line=row):
                self._waiting[0].add(row)
            case Done(count=count):
                self._waiting.popleft().end(count)
            case Failed(reason=reason):
                self._waiting.popleft().end(KickError(self.path, f"refused: {reason}"))


class Answer:
    """What comes back for one request."""

    def __init__(self, row: Callable[[bytes], None] | None) -> None:
        self._row = row
        self._end = anyio.Event()
        self._result: int | KickError = 0
        self.dropped = False
        """Nobody waits for it any more. It may still come."""

    @property
    def ended(self) -> bool:
        return self._end.is_set()

    async def count(self) -> int:
        """The number at its end, when that has come. Raises KickError."""
        await self._end.wait()
        if isinstance(self._result, KickError):
            raise self._result
        return self._result

    def drop(self) -> None:
        self.dropped = True

    def add(self, row: bytes) -> None:
        if self._row is not None:
            self._row(row)

    def end(self, result: int | KickError) -> None:
        self._result = result
        self._end.set()
