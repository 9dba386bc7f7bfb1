"""A connection whose two directions fail separately: what a client sent can be read even if nothing can be
sent to it.

A stream of the event loop ends in both directions when the client can no longer be written to, and drops what
the kernel still holds. That loses the commands of a client that hangs up without reading the answers.
"""

from __future__ import annotations

import socket
from typing import Self

import anyio
import anyio.lowlevel

from director.errors import PeerError


class ClientGone(PeerError):
    """Nothing can be sent to the client any more. Data that it sent before can still be read."""


class ClientSocket:
    """An accepted connection, unix or TCP."""

    def __init__(self, sock: socket.socket) -> None:
        """Keep a connected, non-blocking socket. It is closed at the end."""
        self.is_gone = False
        """Whether the client is known to be unreachable for sending."""
        self._sock = sock
        self._waits = True
        self._reading = self._writing = anyio.CancelScope()

    async def receive(self, most: int) -> bytes:
        """Return the next bytes, at most `most`; empty: there are no more, in whichever way the connection
        ended."""
        await anyio.lowlevel.checkpoint()
        while True:
            try:
                return self._sock.recv(most)
            except BlockingIOError:
                if not self._waits:
                    return b""
            except OSError:  # reset; all bytes that arrived before were read
                self.is_gone = True
                return b""
            with anyio.CancelScope() as self._reading:
                await anyio.wait_readable(self._sock)

    async def send(self, data: bytes) -> None:
        """Send all of `data`. Raises ClientGone."""
        await anyio.lowlevel.checkpoint()
        rest = memoryview(data)
        while rest:
            if self.is_gone:
                raise ClientGone("the client is unreachable")
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                with anyio.CancelScope() as self._writing:
                    await anyio.wait_writable(self._sock)
            except OSError:
                self.is_gone = True

    def wait_no_more(self) -> None:
        """From now on `receive` returns what has arrived, and then empty bytes."""
        self._waits = False
        self._reading.cancel()

    def give_up(self) -> None:
        """Read only what has arrived, as after `wait_no_more`, and send nothing more."""
        self.is_gone = True
        self._writing.cancel()
        self.wait_no_more()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
