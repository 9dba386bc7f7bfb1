"""The authreply socket: lines as auth writes them come in, and go back as a login process would get them."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, cast

from director.net.accept import Acceptor
from director.net.places import FIRST_WITHIN, Place, Places
from director.wire.authreply import GREETING, LINE_LIMIT, AuthreplyError, check_version
from director.wire.tabs import LineBuffer, LineTooLong


class AuthreplyOwner(Protocol):
    """Who deals with lines and is told of troubles."""

    def lines(self, client: AuthreplyClient, data: bytes) -> None:
        """Complete lines of this client: write to it what they become, now or later."""

    def client_gone(self, client: AuthreplyClient) -> None: ...

    def authreply_refused(self, reason: str) -> None:
        """A client sent what is no authreply, and is closed."""


class AuthreplySocket:
    """One listening socket; what a `Relay` is to a login process."""

    name = "authreply"
    passlines = False
    """Only `OK` lines get a host, as in the original."""

    def __init__(self, owner: AuthreplyOwner) -> None:
        self.owner = owner
        self.clients: set[AuthreplyClient] = set()

    async def serve(self, acceptor: Acceptor) -> None:
        """Accept until cancelled or stopped; then close all connections."""
        places = Places()
        try:
            await acceptor.serve_protocols(lambda: AuthreplyClient(self, places), make_room=places.make_room)
        finally:
            self.stop()

    def stop(self) -> None:
        """Close all connections after what was written to them."""
        for client in list(self.clients):
            client.end()


class AuthreplyClient(asyncio.Protocol):
    """One connection. A client that has shut down its sending side still gets every answer."""

    __slots__ = (
        "_buffer",
        "_deadline",
        "_ended",
        "_greeted",
        "_loop",
        "_place",
        "_places",
        "_transport",
        "relay",
        "waiting",
    )

    def __init__(self, relay: AuthreplySocket, places: Places) -> None:
        self.relay = relay
        self._loop, self._places = asyncio.get_running_loop(), places
        self._place = Place("", self._abort, time.monotonic())
        self._deadline: asyncio.TimerHandle | None = None
        """For the first line."""
        self.waiting: set[int] = set()
        """Requests of this client that wait for an answer; kept by the owner."""
        self._transport: asyncio.Transport | None = None
        self._buffer = LineBuffer(LINE_LIMIT - len(b"\n"))
        self._greeted = self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.relay.clients.add(self)
        self._places.add(self._place)
        self._deadline = self._loop.call_later(FIRST_WITHIN, self._abort)
        self._transport.write(GREETING)

    def data_received(self, data: bytes) -> None:
        try:
            try:
                lines = self._buffer.complete(data)
            except LineTooLong as exc:
                self._take(exc.before)
                raise AuthreplyError(f"authreply client sent a line of more than {LINE_LIMIT} bytes") from exc
            self._take(lines)
        except AuthreplyError as exc:
            self.relay.owner.authreply_refused(str(exc))
            assert self._transport is not None
            self._transport.pause_reading()
            self._ended = True
            self._loop.call_soon(self.end)  # behind the answers of this turn

    def eof_received(self) -> bool:
        if self._buffer.rest:
            self.relay.owner.authreply_refused(
                "authreply client hung up in the middle of a line; that line was not answered"
            )
        self._ended = True
        self._end_if_answered()
        return True  # the connection stays until all is answered

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._cancel_deadline()
        self._places.remove(self._place)
        self.relay.clients.discard(self)
        self.relay.owner.client_gone(self)

    def pause_writing(self) -> None:
        self._place.set_sending(time.monotonic())
        if self._transport is not None and not self._ended:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._place.set_taken()
        if self._transport is not None and not self._ended:
            self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)
            self._note_state()
            if self._ended:
                self._end_if_answered()

    def tell_auth(self, lines: bytes) -> None:
        """Behind this client is no auth that could be told."""

    def end(self) -> None:
        """Close the connection after what was written to it."""
        if self._transport is not None:
            self._transport.close()

    def _take(self, lines: bytes) -> None:
        lines = lines.replace(b"\r\n", b"\n")  # 2.3 takes either for the end of a line here
        if lines:
            self._place.set_busy()
        if lines and not self._greeted:
            first, _, lines = lines.partition(b"\n")
            check_version(first)
            self._greeted = True
            self._cancel_deadline()
        if lines:
            self.relay.owner.lines(self, lines)
        self._note_state()

    def _note_state(self) -> None:
        """Note whether the client waits for an answer."""
        if self.waiting:
            self._place.set_busy()
        else:
            self._place.set_idle(time.monotonic())

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_if_answered(self) -> None:
        """At the end of this turn of the loop: more of its answers may be on their way."""
        if not self.waiting:
            self._loop.call_soon(self.end)
