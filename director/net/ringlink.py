"""One TCP link with another director: bytes to frames and back. Who may link, and why, is for the core."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Protocol, cast

from director.types import Address, LinkId

QUEUE_LIMIT = 64 * 1024 * 1024
"""Bytes that may wait for a neighbour who does not read; beyond that the link is closed."""
HIGH_WATER = 1024 * 1024
"""Bytes waiting above which bulk is held back."""
LINGER = 2.0
"""Seconds a closed link stays half open, so that the other end can read why it was closed."""


class Frames(Protocol):
    """Cuts a stream into frames (`wire.ring_native.FrameReader`)."""

    limit: int

    def feed(self, data: bytes) -> Iterable[Sequence[object]]: ...


class LinkOwner(Protocol):
    """Who is told what happens to links."""

    def link_opened(self, link: RingLink) -> None: ...

    def link_received(self, link: LinkId, messages: Sequence[object]) -> None: ...

    def link_congested(self, link: LinkId, clear: bool) -> None: ...

    def link_unreadable(self, link: LinkId, reason: str) -> None:
        """What came is no frame. Nothing more is read; the owner says good-bye and closes."""

    def link_closed(self, link: LinkId, reason: str) -> None: ...


class RingLink(asyncio.Protocol):
    """The socket of one link. `close` ends it without telling the owner; all else that ends it is told."""

    def __init__(self, number: LinkId, owner: LinkOwner, frames: Frames, unreadable: type[Exception]) -> None:
        self.number, self._owner, self._frames, self._unreadable = number, owner, frames, unreadable
        self.remote = Address("")
        self.bytes_in = self.bytes_out = self.peak = self.last_read = self.last_write = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        if peer is None:  # gone before it could be greeted
            cast(asyncio.Transport, transport).abort()
            return
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self.remote = Address(peer[0])
        self._owner.link_opened(self)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        self.bytes_in += len(data)
        self.last_read = int(time.time())
        try:
            for messages in self._frames.feed(data):
                self._owner.link_received(self.number, messages)
                if self._transport is None:
                    return
        except self._unreadable as exc:
            self._owner.link_unreadable(self.number, str(exc))

    def pause_writing(self) -> None:
        self._owner.link_congested(self.number, False)

    def resume_writing(self) -> None:
        self._owner.link_congested(self.number, True)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._transport = None
            self._owner.link_closed(self.number, str(exc) if exc else "connection closed")

    @property
    def buffered(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport else 0

    def trust(self, limit: int) -> None:
        """The other end has proved who it is: frames up to `limit` bytes are accepted."""
        self._frames.limit = limit

    def send(self, frame: bytes) -> None:
        if self._transport is None:
            return
        self.bytes_out += len(frame)
        self.last_write = int(time.time())
        self._transport.write(frame)
        waiting = self.buffered
        self.peak = max(self.peak, waiting)
        if waiting > QUEUE_LIMIT:
            self._end(f"{waiting} bytes wait for it to read")

    def close(self) -> None:
        """Send what is queued, then close.

        Not at once: bytes that are not read yet would reset the connection, and what was sent might be lost.
        """
        if self._transport is not None:
            transport, self._transport = self._transport, None
            if not transport.is_closing():
                transport.write_eof()
            asyncio.get_running_loop().call_later(LINGER, transport.abort)

    def _end(self, reason: str) -> None:
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.abort()
            self._owner.link_closed(self.number, reason)
