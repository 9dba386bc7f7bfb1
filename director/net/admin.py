"""Admin connections (unix or TCP): read the lines of one client, have them done, write the replies.

One command at a time and in order; what a client sent ahead waits here and in the kernel. Nothing is lost:
the original throws away the line after one that waited, and replies not yet written when the client shuts
down its sending side.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

import anyio
from anyio.abc import ByteStream

from director.errors import PeerError
from director.net.places import StreamPlace
from director.wire.admin import GREETING, LINE_LIMIT, AdminSyntaxError, Command, check_version, parse
from director.wire.tabs import LineBuffer, LineTooLong

Handler = Callable[[Command], AsyncGenerator[bytes, None]]
"""Carries out one command and yields its reply in pieces that are sent as they come."""

READ_SIZE = 4096


class Log(Protocol):
    """What is used of the daemon's log."""

    def debug(self, event: str, **fields: object) -> None: ...

    def error(self, event: str, **fields: object) -> None: ...


async def serve_client(stream: ByteStream, peer: str, handle: Handler, log: Log, place: StreamPlace) -> None:
    """Talk to one client until it hangs up, sends what is no command, or loses its place; closes the stream.

    A client that is slow to read only delays itself, one that goes away only ends its own conversation. Any
    other error of `handle` is a bug and passes through. peer: the client, for the log.
    """
    async with stream:
        try:
            with place:
                await stream.send(GREETING)
                await _converse(stream, handle, place)
        except PeerError as exc:
            log.error("admin_client_refused", peer=peer, reason=str(exc))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            log.debug("admin_client_gone", peer=peer)


async def _converse(stream: ByteStream, handle: Handler, place: StreamPlace) -> None:
    greeted = False
    async with aclosing(_lines(stream)) as lines:
        async for line in lines:
            if not place.begin():
                return
            if not greeted:
                check_version(line)
                greeted = True
                place.end()
                continue
            try:
                command = parse(line)
            except AdminSyntaxError as exc:
                if exc.reply:
                    await stream.send(exc.reply)
                raise
            async with aclosing(handle(command)) as reply:
                async for piece in reply:
                    await place.send(stream, piece)
            place.end()


async def _lines(stream: ByteStream) -> AsyncGenerator[bytes, None]:
    """The lines of a client until it sends no more. Raises AdminSyntaxError for a long or unfinished one."""
    buffer = LineBuffer(LINE_LIMIT - len(b"\n"))
    while True:
        try:
            data = await stream.receive(READ_SIZE)
        except anyio.EndOfStream:
            break
        try:
            lines = buffer.feed(data)
        except LineTooLong as exc:
            for line in exc.before.split(b"\n")[:-1]:
                yield line
            raise AdminSyntaxError(f"doveadm sent a line of more than {LINE_LIMIT} bytes") from exc
        for line in lines:
            yield line
    if buffer.rest:
        raise AdminSyntaxError("doveadm hung up in the middle of a line; that line was not carried out")
