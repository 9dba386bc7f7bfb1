"""A connection whose two directions fail apart: what a client had sent can be read whatever becomes of it.

A stream of the event loop ends in both directions when the client cannot be written to any more, and loses
what the kernel still holds of it: a client that sends commands and hangs up without reading the answers.
"""

from __future__ import annotations

import socket
from typing import Self

import anyio
import anyio.lowlevel

from director.errors import PeerError


class ClientGone(PeerError):
    """Nothing reaches the client any more. What it had sent can still be read."""


class ClientSocket:
    """One accepted connection, unix or TCP."""

    def __init__(self, sock: socket.socket) -> None:
        """sock: connected, non-blocking; closed at the end."""
        self.is_gone = False
        """Whether nothing reaches the client any more, as far as it is known."""
        self._sock = sock
        self._waits = True
        self._reading = self._writing = anyio.CancelScope()

    async def receive(self, most: int) -> bytes:
        """The next bytes, at most `most`; nothing once there are no more, in whichever way it ended."""
        await anyio.lowlevel.checkpoint()
        while True:
            try:
                return self._sock.recv(most)
            except BlockingIOError:
                if not self._waits:
                    return b""
            except OSError:  # reset, after the last byte that had arrived
                self.is_gone = True
                return b""
            with anyio.CancelScope() as self._reading:
                await anyio.wait_readable(self._sock)

    async def send(self, data: bytes) -> None:
        """Send all of it. Raises ClientGone."""
        await anyio.lowlevel.checkpoint()
        rest = memoryview(data)
        while rest:
            if self.is_gone:
                raise ClientGone("nothing is sent to the client any more")
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                with anyio.CancelScope() as self._writing:
                    await anyio.wait_writable(self._sock)
            except OSError:
                self.is_gone = True

    def wait_no_more(self) -> None:
        """From now on `receive` gives what has arrived, and then the end."""
        self._waits = False
        self._reading.cancel()

    def give_up(self) -> None:
        """The same, and `send` sends nothing any more."""
        self.is_gone = True
        self._writing.cancel()
        self.wait_no_more()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
