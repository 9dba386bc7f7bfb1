"""The authreply socket: reads lines as auth writes them, and returns the lines that a login process would
get."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, cast

from director.net.accept import Acceptor
from director.net.places import FIRST_WITHIN, Place, Places
from director.wire.authreply import GREETING, LINE_LIMIT, AuthreplyError, check_version
from director.wire.tabs import LineBuffer, LineTooLong


class AuthreplyOwner(Protocol):
    """Answers the lines and receives the problems of authreply clients."""

    def lines(self, client: AuthreplyClient, data: bytes) -> None:
        """Handle complete lines of a client: write the resulting lines to it, now or later."""

    def client_gone(self, client: AuthreplyClient) -> None: ...

    def authreply_refused(self, reason: str) -> None:
        """A client sent something that is no authreply line. Its connection is closed."""


class AuthreplySocket:
    """A listening socket. It is to an `AuthreplyClient` what a `Relay` is to a login process's `Client`."""

    name = "authreply"
    passlines = False
    """Only `OK` lines get a host, as in Dovecot 2.3's director."""

    def __init__(self, owner: AuthreplyOwner) -> None:
        self.owner = owner
        self.clients: set[AuthreplyClient] = set()

    async def serve(self, acceptor: Acceptor) -> None:
        """Accept until cancelled or stopped, then close all connections."""
        places = Places()
        try:
            await acceptor.serve_protocols(lambda: AuthreplyClient(self, places), make_room=places.make_room)
        finally:
            self.stop()

    def stop(self) -> None:
        """Close all connections after sending what was written to them."""
        for client in list(self.clients):
            client.end()


class AuthreplyClient(asyncio.Protocol):
    """A connection. A client that has shut down its sending side still gets all answers."""

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
        """The deadline for the first line."""
        self.waiting: set[int] = set()
        """The requests of this client that wait for an answer; kept by the owner."""
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
            self._loop.call_soon(self.end)  # after the answers of this turn of the loop

    def eof_received(self) -> bool:
        if self._buffer.rest:
            self.relay.owner.authreply_refused(
                "authreply client hung up in the middle of a line; that line was not answered"
            )
        self._ended = True
        self._end_if_answered()
        return True  # keep the connection until all is answered

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
        """Do nothing: no auth is connected behind this client."""

    def end(self) -> None:
        """Close the connection after sending what was written to it."""
        if self._transport is not None:
            self._transport.close()

    def _take(self, lines: bytes) -> None:
        lines = lines.replace(b"\r\n", b"\n")  # Dovecot 2.3's director accepts both line ends here
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
        """Close the connection if all is answered, at the end of this turn of the loop: more answers may
        follow in it."""
        if not self.waiting:
            self._loop.call_soon(self.end)
