"""One TCP link with another director: bytes to frames and back. Who may link, and why, is for the core."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from director.errors import PeerError
from director.net.tls import NoTls, TlsSession, looks_like_tls, unexpected
from director.types import Address, LinkId
from director.wire.ring_native import FrameError, FrameReader, FrameWriter

QUEUE_LIMIT = 64 * 1024 * 1024
"""Bytes that may wait for a neighbour who does not read; beyond that the link is closed."""
HIGH_WATER = 1024 * 1024
"""Bytes waiting above which bulk is held back."""
TURN = 128 * 1024
"""Bytes looked at in one turn of the loop. More comes at once (uvloop reads 256 kB, and libuv as often as 32
times) when a joiner sends its megabytes, and nobody else would be served meanwhile."""
MESSAGES = 1000
"""Messages dealt with in one turn of the loop; a frame itself counts like `FRAME` of them."""
FRAME = 3
LINGER = 2.0
"""Seconds a closed link stays half open, so that the other end can read why it was closed."""
TLS_TIMEOUT = 2.0
"""Seconds from the TCP connection to the end of the TLS handshake."""

Secure = Callable[[Address], TlsSession]
"""Begins TLS with the director at an address."""


class LinkOwner(Protocol):
    """Who is told what happens to links."""

    def link_securing(self, link: RingLink) -> None:
        """Its TLS handshake begins; it will be opened or refused, unless the owner closes it before."""

    def link_opened(self, link: RingLink) -> None:
        """It stands; with TLS, both certificates are good."""

    def link_refused(self, link: RingLink, reason: str) -> None:
        """TLS failed before the link was opened. The owner may say why, and closes."""

    def link_received(self, link: LinkId, messages: Sequence[object], plain: bytes) -> None:
        """A frame. plain: its bytes, where it is not sealed."""

    def link_congested(self, link: LinkId, clear: bool) -> None: ...

    def link_unreadable(self, link: LinkId, problem: PeerError) -> None:
        """What came is no frame, or not the other end's. Nothing more is read; the owner says good-bye and
        closes."""

    def link_closed(self, link: LinkId, reason: str) -> None: ...


class RingLink(asyncio.Protocol):
    """The socket of one link. `close` ends it without telling the owner; all else that ends it is told."""

    def __init__(self, number: LinkId, owner: LinkOwner, secure: Secure | None = None) -> None:
        """secure: None: without TLS."""
        self.number, self._owner = number, owner
        self.writer = FrameWriter()
        """Makes the frames that are sent."""
        self._frames = FrameReader()
        self.remote = Address("")
        self.bytes_in = self.bytes_out = self.peak = self.last_read = self.last_write = 0
        """Bytes are those on the line."""
        self._transport: asyncio.Transport | None = None
        self._secure = secure
        self._tls: TlsSession | None = None
        self._trusted = False
        self._reading = True
        self._rest = b""
        """Bytes that have come and are not looked at yet."""
        self._more = False
        """There may be frames that have come and are not looked at yet."""
        self._planned = False
        """They are in the next turn of the loop."""
        self._handshake: asyncio.TimerHandle | None = None
        """Its time-out, as long as it goes on."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        if peer is None:  # gone before it could be greeted
            cast(asyncio.Transport, transport).abort()
            return
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self.remote = Address(peer[0])
        if self._secure is None:
            self._owner.link_opened(self)
            return
        self._tls = self._secure(self.remote)
        self._handshake = asyncio.get_running_loop().call_later(
            TLS_TIMEOUT, self._fail, f"no TLS handshake with {self.remote} within {TLS_TIMEOUT:.0f} s"
        )
        self._decrypted(self._tls, b"")
        self._owner.link_securing(self)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        first = self.bytes_in == 0
        self.bytes_in += len(data)
        self.last_read = int(time.time())
        if len(data) <= TURN:
            self._take(data, first=first)
            if self._more and self._transport is not None:
                self._transport.pause_reading()
                self._go_on(self._transport)
        else:
            self._transport.pause_reading()
            self._rest = data
            self._take_rest(self._transport, first=first)

    def _take_rest(self, transport: asyncio.Transport, *, first: bool = False) -> None:
        """Look at some of it, and at the rest in the next turns; only then more is read."""
        self._planned = False
        data = b""
        if not self._more:
            data, self._rest = self._rest[:TURN], self._rest[TURN:]
        self._take(data, first=first)
        self._go_on(transport)

    def _go_on(self, transport: asyncio.Transport) -> None:
        if transport.is_closing() or (self._transport is not None and not self._reading) or self._planned:
            return
        if self._transport is not None and (self._rest or self._more):
            self._planned = True
            asyncio.get_running_loop().call_soon(self._take_rest, transport)
        else:
            transport.resume_reading()

    def read(self, *, on: bool) -> None:
        """Read on, or leave what comes in the socket for now. Up to `TURN` bytes more may be given."""
        if self._transport is None or self._transport.is_closing():
            return
        self._reading = on
        if on:
            self._go_on(self._transport)
        else:
            self._transport.pause_reading()

    def _take(self, data: bytes, *, first: bool) -> None:
        if self._transport is None:
            return
        if self._tls is not None:
            data, first = self._decrypted(self._tls, data), False
            if self._transport is None:
                return
        received: list[object] = []
        problem: PeerError | None = None
        room, self._more = MESSAGES, False
        try:
            for messages in self._frames.feed(data):
                if self._trusted:
                    received.extend(messages)
                else:
                    self._owner.link_received(self.number, messages, self._frames.plain)
                    if self._transport is None:
                        return
                room -= FRAME + len(messages)
                if room <= 0:
                    self._more = True
                    break
        except FrameError as exc:
            tls = first and looks_like_tls(data)
            problem = PeerError(unexpected(self.remote)) if tls else exc
        if received:
            self._owner.link_received(self.number, received, self._frames.plain)
        if problem is not None and self._transport is not None:
            self._owner.link_unreadable(self.number, problem)

    def pause_writing(self) -> None:
        if not self.securing:
            self._owner.link_congested(self.number, False)

    def resume_writing(self) -> None:
        if not self.securing:
            self._owner.link_congested(self.number, True)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._transport = None
            reason = str(exc) if exc else "connection closed"
            self._fail(f"{reason} in the TLS handshake" if self.securing else reason)

    @property
    def securing(self) -> bool:
        """Whether the TLS handshake goes on: the link will be opened, or refused."""
        return self._handshake is not None

    @property
    def certificates(self) -> bytes:
        """With TLS: SHA-256 of the dialler's certificate, then of the acceptor's; without: empty."""
        return b"" if self._tls is None else self._tls.certificates

    @property
    def buffered(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport else 0

    def seal(self, sending: bytes, receiving: bytes) -> None:
        """Protect what is sent from here on, and demand the same of what comes behind one more frame."""
        self.writer.seal(sending)
        self._frames.unseal(receiving)

    def unseal(self, receiving: bytes) -> None:
        """Demand the seals of this key of what comes behind the other end's proof."""
        self._frames.change_key(receiving)

    def trust(self, limit: int) -> None:
        """The other end has proved who it is: frames up to `limit` bytes are accepted, and those that came
        together are given together."""
        self._frames.limit = limit
        self._trusted = True

    def send(self, frame: bytes) -> None:
        if self._transport is None:
            return
        if self._tls is None:
            self._write(frame)
        elif self._tls.established:
            self._write(self._tls.encrypt(frame))
        waiting = self.buffered
        self.peak = max(self.peak, waiting)
        if waiting > QUEUE_LIMIT:
            self._end(f"{waiting} bytes wait for it to read")

    def close(self) -> None:
        """Send what is queued, then close.

        Not at once: bytes that are not read yet would reset the connection, and what was sent might be lost.
        """
        self._handshake_over()
        if self._transport is not None:
            if self._tls is not None:
                self._tls.close()
                self._write(self._tls.outgoing())
            transport, self._transport = self._transport, None
            if not transport.is_closing():
                transport.write_eof()
            asyncio.get_running_loop().call_later(LINGER, transport.abort)

    def _decrypted(self, tls: TlsSession, data: bytes) -> bytes:
        """What the other end says inside TLS. Opens the link when the handshake is done."""
        try:
            data = tls.receive(data)
        except PeerError as exc:
            self._write(tls.outgoing())  # the alert that tells the other end
            if isinstance(exc, NoTls):
                self._tls = None
            self._fail(str(exc))
            return b""
        self._write(tls.outgoing())
        if self.securing and tls.established:
            self._handshake_over()
            self._owner.link_opened(self)
        return data

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None:
            self.bytes_out += len(data)
            self.last_write = int(time.time())
            self._transport.write(data)

    def _fail(self, reason: str) -> None:
        """It ends by itself: as a link that never was, or as one that stood."""
        if self.securing:
            self._handshake_over()
            self._owner.link_refused(self, reason)
        elif self._transport is not None:
            self._end(reason)
        else:
            self._owner.link_closed(self.number, reason)

    def _handshake_over(self) -> None:
        if self._handshake is not None:
            self._handshake.cancel()
            self._handshake = None

    def _end(self, reason: str) -> None:
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.abort()
            self._owner.link_closed(self.number, reason)
