"""A TCP link with another director: bytes to frames and back.

Which directors may link is decided in director/core.
"""

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
"""Bytes that may wait for a neighbour that does not read. If there are more, the link is closed."""
HIGH_WATER = 1024 * 1024
"""Bytes. While more are waiting, bulk data is held back."""
TURN = 128 * 1024
"""Bytes handled in one turn of the loop. More come at once when a joining director sends megabytes (uvloop
reads 256 kB, and libuv up to 32 times in a row), and no other task would run meanwhile."""
MESSAGES = 1000
"""Messages handled in one turn of the loop; a frame itself counts like `FRAME` messages."""
FRAME = 3
LINGER = 2.0
"""Seconds for which a closed link stays half open, so that the other end can read why it was closed."""
TLS_TIMEOUT = 2.0
"""Seconds from the TCP connection to the end of the TLS handshake."""

Secure = Callable[[Address], TlsSession]
"""Begins TLS with the director at an address."""


class LinkOwner(Protocol):
    """Receives the events of links."""

    def link_securing(self, link: RingLink) -> None:
        """The TLS handshake begins. The link will be opened or refused, unless the owner closes it before."""

    def link_opened(self, link: RingLink) -> None:
        """The link is connected; with TLS, both certificates are valid."""

    def link_refused(self, link: RingLink, reason: str) -> None:
        """TLS failed before the link was opened. The owner may tell the peer why, and closes the link."""

    def link_received(self, link: LinkId, messages: Sequence[object], plain: bytes) -> None:
        """A frame was received. `plain`: the bytes of a frame that is not sealed."""

    def link_congested(self, link: LinkId, clear: bool) -> None: ...

    def link_unreadable(self, link: LinkId, problem: PeerError) -> None:
        """The received bytes are no frame, or not one of the other end.

        Nothing more is read; the owner says good-bye and closes the link.
        """

    def link_closed(self, link: LinkId, reason: str) -> None: ...


class RingLink(asyncio.Protocol):
    """The socket of one link. The owner is told of its end, except after `close`."""

    def __init__(self, number: LinkId, owner: LinkOwner, secure: Secure | None = None) -> None:
        """Begin a link. `secure`: begins TLS; None: the link has no TLS."""
        self.number, self._owner = number, owner
        self.writer = FrameWriter()
        """Makes the frames that are sent."""
        self._frames = FrameReader()
        self.remote = Address("")
        self.bytes_in = self.bytes_out = self.peak = self.last_read = self.last_write = 0
        """Bytes as transferred, including TLS."""
        self._transport: asyncio.Transport | None = None
        self._secure = secure
        self._tls: TlsSession | None = None
        self._trusted = False
        self._reading = True
        self._rest = b""
        """Received bytes that are not handled yet."""
        self._more = False
        """Whether there may be received frames that are not handled yet."""
        self._planned = False
        """Whether the next turn of the loop handles them."""
        self._handshake: asyncio.TimerHandle | None = None
        """The time-out of the handshake; None: no handshake is in progress."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        if peer is None:  # lost before it was set up
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
        """Handle a part of the received bytes, and the rest in the next turns.

        More is read only after that.
        """
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
        """Continue to read, or leave received bytes in the socket for now.

        Up to `TURN` more bytes may be handled before it stops.
        """
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
        """Whether the TLS handshake is in progress: the link will be opened or refused."""
        return self._handshake is not None

    @property
    def certificates(self) -> bytes:
        """With TLS: SHA-256 of the dialling director's certificate, then of the accepting director's;
        without: empty."""
        return b"" if self._tls is None else self._tls.certificates

    @property
    def buffered(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport else 0

    def seal(self, sending: bytes, receiving: bytes) -> None:
        """Seal all frames sent from now on, and require seals in all frames received after the next one."""
        self.writer.seal(sending)
        self._frames.unseal(receiving)

    def unseal(self, receiving: bytes) -> None:
        """Require the seals of this key in all frames received after the other end's proof."""
        self._frames.change_key(receiving)

    def trust(self, limit: int) -> None:
        """Note that the other end has proved its identity.

        Frames up to `limit` bytes are accepted, and frames that were received together are passed on
        together.
        """
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
            self._end(f"the peer does not read: {waiting} bytes wait")

    def close(self) -> None:
        """Send what is queued, then close.

        The connection stays half open for LINGER seconds: unread bytes would reset the connection, and what
        was sent might be lost.
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
        """Return the decrypted data. Opens the link when the handshake is done."""
        try:
            data = tls.receive(data)
        except PeerError as exc:
            self._write(tls.outgoing())  # the alert that tells the other end why
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
        """End the link because of a failure: it is reported as refused if it was never opened, else as
        closed."""
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
