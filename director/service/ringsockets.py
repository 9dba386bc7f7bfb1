"""The TCP connections of the ring, dialled and accepted, plain or with TLS. The core keeps or ends them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from typing import cast

import anyio

from director.core.director import Director
from director.core.protocol.effects import Dial
from director.core.protocol.events import Congested, DialFailed, Event, LinkClosed, LinkOpened, Received
from director.core.protocol.linkkeys import Keys
from director.core.protocol.messages import Bye, RingMessage
from director.core.protocol.order import split_member
from director.core.ring.ring import UNPROVED
from director.errors import PeerError
from director.net.ringlink import RingLink, Secure
from director.net.tls import RingTls
from director.service.log import LimitedLog
from director.service.log import Log as Logger
from director.types import LinkId
from director.wire import ring_native

CONNECT_TIMEOUT = 2.0
"""Seconds that a dialled director may take to accept."""


class RingSockets:
    """Turns received bytes into events, and messages into bytes. It owns the sockets and decides nothing."""

    def __init__(
        self,
        director: Director,
        handle: Callable[[Event], None],
        log: Logger,
        tls: RingTls | None,
        stranger: Callable[[], None],
    ) -> None:
        """
        Args:
            tls: certificates for new links; None: links without TLS.
            stranger: called when an address connects that no ring member has.
        """
        self.links: dict[LinkId, RingLink] = {}
        self.messages_out: dict[str, int] = {}
        self.frames_forged = 0
        """Frames without a valid seal; each of them ended its link."""
        self._director, self._handle, self._stranger = director, handle, stranger
        self._log, self._limited = log, LimitedLog(log)
        self.tls = tls
        """The certificates that new links show and accept; None: links without TLS."""
        self._numbers = 0
        self._dialled: dict[LinkId, Dial] = {}
        self._securing: dict[RingLink, None] = {}
        """Connections in their TLS handshake, the oldest first."""
        self._stopped = False

    def set_tls(self, tls: RingTls) -> bool:
        """Use these certificates for new links; existing links are not changed. Returns whether they differ
        from the certificates before."""
        before, self.tls = self.tls, tls
        return before is None or before.content != tls.content

    def new_link(self) -> RingLink:
        """Return a link for an accepted connection."""
        return self._link(self.tls.accepting if self.tls else None)

    def _link(self, secure: Secure | None) -> RingLink:
        self._numbers += 1
        return RingLink(LinkId(self._numbers), self, secure)

    def link_securing(self, link: RingLink) -> None:
        if self._stopped:
            link.close()
            return
        self._securing[link] = None
        same = [o for o in self._securing if o.remote == link.remote and o.number not in self._dialled]
        for oldest in same[:-UNPROVED]:
            self.link_refused(
                oldest, f"{UNPROVED} newer connections from this address are in their TLS handshake"
            )

    def link_opened(self, link: RingLink) -> None:
        self._securing.pop(link, None)
        dial = self._dialled.pop(link.number, None)
        self.links[link.number] = link
        nonce = secrets.token_bytes(32)
        if dial is None:
            if not self._director.ring.knows(link.remote):
                self._stranger()
            opened = LinkOpened(link.number, nonce, link.remote, certificates=link.certificates)
        else:
            opened = LinkOpened(
                link.number, nonce, link.remote, dial.member, dial.leftwards, link.certificates
            )
        self._handle(opened)

    def link_refused(self, link: RingLink, reason: str) -> None:
        self._securing.pop(link, None)
        dial = self._dialled.pop(link.number, None)
        peer = dial.member if dial is not None else link.remote
        note = "there is no link with this peer; the directors retry; check ring.tls on both"
        self._limited.warning(time.monotonic(), "ring_tls_failed", peer, peer=peer, reason=reason, note=note)
        link.send(link.writer.encode([Bye(reason)]))
        link.close()
        if dial is not None:
            self._handle(DialFailed(dial.member, reason, dial.leftwards))

    def link_received(self, link: LinkId, messages: Sequence[object], plain: bytes) -> None:
        self._handle(Received(link, cast(Sequence[RingMessage], messages), plain))
        neighbour = self._director.ring.links.get(link)
        if neighbour is not None and neighbour.live and link in self.links:
            self.links[link].trust(ring_native.LIMIT)

    def link_unreadable(self, link: LinkId, problem: PeerError) -> None:
        closed = self.links.pop(link, None)
        if closed is None:
            return
        if isinstance(problem, ring_native.ForgedFrameError):
            self._forged(closed)
        closed.send(closed.writer.encode([Bye(str(problem))]))
        closed.close()
        self._handle(LinkClosed(link, str(problem)))

    def _forged(self, link: RingLink) -> None:
        """Count and log a frame that the other director has not sent."""
        self.frames_forged += 1
        neighbour = self._director.ring.links.get(link.number)
        peer = neighbour.name() if neighbour is not None else link.remote
        note = "the link is closed, and the directors connect again; check the network between them"
        self._limited.warning(time.monotonic(), "ring_frame_forged", peer, peer=peer, note=note)

    def link_congested(self, link: LinkId, clear: bool) -> None:
        self._handle(Congested(link, clear))

    def link_closed(self, link: LinkId, reason: str) -> None:
        if self.links.pop(link, None) is not None:
            self._handle(LinkClosed(link, reason))

    async def dial(self, dial: Dial) -> None:
        member = dial.member
        address, port = split_member(member)
        local = split_member(self._director.me)[0]
        link = self._link(self.tls.dialling if self.tls else None)
        self._dialled[link.number] = dial
        try:
            with anyio.fail_after(CONNECT_TIMEOUT):
                await asyncio.get_running_loop().create_connection(
                    lambda: link, address, port, local_addr=(local, 0)
                )
        except TimeoutError:
            reason = f"no answer within {CONNECT_TIMEOUT:.0f} s"
        except OSError as exc:
            reason = exc.strerror or str(exc)
        else:
            if link.number not in self._dialled or link.securing:
                return
            reason = "the peer closed the connection at once"
        self._dialled.pop(link.number, None)
        self._log.debug("ring_dial_failed", peer=member, reason=reason)
        self._handle(DialFailed(member, reason, dial.leftwards))

    def send(self, number: LinkId, messages: Sequence[RingMessage]) -> None:
        """Send messages to a link, in one frame."""
        link = self.links.get(number)
        if link is None:
            return
        for message in messages:
            kind = type(message).__name__
            self.messages_out[kind] = self.messages_out.get(kind, 0) + 1
        link.send(link.writer.encode(messages))

    def seal(self, number: LinkId, keys: Keys) -> None:
        """Protect a link by seals from here on."""
        link = self.links.get(number)
        if link is not None:
            link.seal(keys.sending, keys.receiving)

    def unseal(self, number: LinkId, key: bytes) -> None:
        """Accept only seals of another key from here on."""
        link = self.links.get(number)
        if link is not None:
            link.unseal(key)

    def read(self, number: LinkId, *, on: bool) -> None:
        """Read from a link (on), or leave received data in the kernel for now."""
        link = self.links.get(number)
        if link is not None:
            link.read(on=on)

    def close(self, number: LinkId) -> None:
        """Close a link after everything that was sent."""
        link = self.links.pop(number, None)
        if link is not None:
            link.close()

    def stop(self) -> None:
        """Close all links, also those in their handshake."""
        self._stopped = True
        for link in [*self.links.values(), *self._securing]:
            link.close()
