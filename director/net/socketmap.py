"""Socketmap connections (unix or TCP): reads the requests of a Postfix process and writes the answers, in
order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import anyio
from anyio.abc import ByteStream

from director.net.eventlog import EventLog
from director.net.places import StreamPlace
from director.wire.socketmap import Netstrings, Request, SocketmapError, netstring, parse

Handler = Callable[[Request], Awaitable[bytes]]
"""Returns the reply to a request."""

READ_SIZE = 4096


async def serve_client(stream: ByteStream, handle: Handler, log: EventLog, place: StreamPlace) -> None:
    """Serve a client until it hangs up, sends an invalid request, or loses its place. Closes the stream.

    Any other exception of `handle` is a bug, and is raised.
    """
    async with stream:
        try:
            with place:
                async with aclosing(_requests(stream)) as requests:
                    async for request in requests:
                        if not place.begin():
                            return
                        await place.send(stream, netstring(await handle(request)))
                        place.end()
        except SocketmapError as exc:
            note = "the connection is closed; check whether the client is Postfix"
            log.error("socketmap_client_refused", reason=str(exc), note=note)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            log.debug("socketmap_client_disconnected")


async def _requests(stream: ByteStream) -> AsyncGenerator[Request, None]:
    """Yield the requests of a client until it sends no more. Raises SocketmapError."""
    netstrings = Netstrings()
    while True:
        try:
            data = await stream.receive(READ_SIZE)
        except anyio.EndOfStream:
            if netstrings.unfinished:
                raise SocketmapError("the client hung up in the middle of a request") from None
            return
        while contents := netstrings.feed(data):
            for content in contents:
                yield parse(content)
            data = b""
