"""Accepts connections for all listeners, within limits, even if the system runs out of descriptors or memory.

If descriptors or memory run out, connections wait in the kernel's queue: the listener pauses and accepts
again a moment later. Login and userdb listeners pause a little earlier than the others, so that auth, the
store, the ring and operators still find descriptors. Operators' listeners may also use the one spare
descriptor that is kept.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol, cast

import anyio
import anyio.lowlevel
from anyio.abc import SocketStream, UNIXSocketStream

from director.net.descriptors import RESERVE, UNLIMITED, Descriptors
from director.net.places import Places, StreamPlace

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of accept(2) if descriptors or memory have run out."""
SHUT = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSOCK})
"""Errors of accept(2) if the socket no longer accepts connections."""
PAUSE = 0.1
"""Seconds until a paused listener accepts again."""
SILENT = 60
"""Seconds. A peer that was silent for so long is probed by the kernel for as long again."""
AT_ONCE = 32
"""The most connections accepted in one turn of the loop: about 1 ms."""
MOST_LEAVING = 8
"""Connections that were closed to make room and still have their descriptors. With so many, no more are
accepted."""
FEW_LEFT = "few descriptors are left"
ALL, ADDRESS = "all", "address"
"""The names of the two limits."""

StreamHandler = Callable[[SocketStream, str, StreamPlace], Awaitable[object]]
"""Serves a client: its stream, its name for the log, and its place, which the handler enters."""
SocketHandler = Callable[[], Awaitable[object]]
"""Serves a client."""


class Report(Protocol):
    """Receives the problems of listeners."""

    def accept_paused(self, listener: str, reason: str) -> None:
        """A listener accepts nothing for PAUSE seconds."""

    def connection_refused(self, listener: str, limit: str, peer: str) -> None:
        """A connection exceeds a limit, `all` or `address`: it was closed, or another connection was
        closed in its place."""

    def client_failed(self, listener: str, error: Exception) -> None:
        """The handler of a client raised an exception, and the connection was closed."""

    def is_fatal(self, error: Exception) -> bool:
        """Whether the exception of a handler has to end the program, because the handler is not its cause."""


class Limits:
    """The most connections of a listener: in all, and from one address."""

    def __init__(self, in_all: int, per_address: int = UNLIMITED) -> None:
        self.in_all, self.per_address = in_all, per_address

    def set(self, in_all: int, per_address: int) -> None:
        """Change the limits for new connections."""
        self.in_all, self.per_address = in_all, per_address


class Acceptor:
    """A listening socket. Call one of the three `serve_…` methods."""

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        descriptors: Descriptors,
        report: Report,
        limits: Limits | None = None,
        *,
        exempt: Callable[[str], bool] = lambda address: False,
        for_operators: bool = False,
    ) -> None:
        """Keep the socket; nothing is accepted yet.

        Args:
            name: the name of the listener.
            sock: non-blocking; closed at the end.
            descriptors: the descriptors of the process.
            report: receives the problems of listeners.
            limits: None: there are no limits, and RESERVE descriptors are left to others.
            exempt: returns whether connections from an address are not counted.
            for_operators: whether the listener may use the spare descriptor.
        """
        self.name = name
        self.connections = 0
        """The number of open connections."""
        self._sock, self._limits = sock, limits
        self._descriptors, self._report = descriptors, report
        self._exempt, self._for_operators = exempt, for_operators
        self._counted = 0
        self._by_address: dict[str, int] = {}
        self._owed: Callable[[], int] = lambda: 0
        self._make_room: Callable[[str], bool] | None = None
        self._leaving = 0
        """The number of connections that were closed to make room and still have their descriptors."""
        self._accepted_late = 0
        """The number of connections over a limit that wait until it is known which connection can be
        closed instead."""
        self._begin: Callable[[socket.socket, str, str], object] | None = None
        """Starts serving an accepted connection, given its address and peer; None: nothing is accepted
        now."""
        self._beginnings: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        """The timer that ends the pause; None: the listener does not pause."""

    @property
    def most(self) -> int:
        """The most connections at the same time."""
        return self._limits.in_all if self._limits is not None else UNLIMITED

    async def serve_protocols(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        owed: Callable[[], int] = lambda: 0,
        make_room: Callable[[str], bool] | None = None,
    ) -> None:
        """Serve each connection with a new protocol, until cancelled or stopped.

        Args:
            factory: makes the protocol.
            owed: returns how many more descriptors the open connections will need.
            make_room: closes a connection that can be spared, from the given address or from any (""). It
                returns False if there is none.
        """
        self._owed, self._make_room = owed, make_room
        loop = asyncio.get_running_loop()

        def begin(sock: socket.socket, host: str, peer: str) -> None:
            task = loop.create_task(self._attach_protocol(factory, sock))
            self._beginnings.add(task)
            task.add_done_callback(self._beginnings.discard)

        await self._serve(begin)

    async def serve_streams(self, serve: StreamHandler) -> None:
        """Serve each connection as a stream, until cancelled or stopped.

        Args:
            serve: serves a stream and closes it. If it raises an exception, this is reported and the
                connection closed.
        """
        places = Places()
        self._make_room = places.make_room

        async def run(sock: socket.socket, peer: str, place: StreamPlace) -> None:
            try:
                await self._serve_stream(serve, sock, peer, place)
            finally:
                places.remove(place)

        async with anyio.create_task_group() as tasks:

            def begin(sock: socket.socket, host: str, peer: str) -> None:
                place = StreamPlace(host)
                places.add(place)
                tasks.start_soon(run, sock, peer, place)

            await self._serve(begin)

    async def serve_sockets(
        self,
        serve: Callable[[socket.socket, str, str], SocketHandler],
        make_room: Callable[[str], bool],
    ) -> None:
        """Serve each connection as a non-blocking socket, until cancelled or stopped.

        Args:
            serve: called with the socket, the client's address (empty if it has none) and the peer. The
                function that it returns serves the client and closes the socket; if it raises an exception,
                this is reported and the connection closed.
            make_room: as for `serve_protocols`.
        """
        self._make_room = make_room
        async with anyio.create_task_group() as tasks:

            def begin(sock: socket.socket, host: str, peer: str) -> None:
                tasks.start_soon(self._serve_socket, serve(sock, host, peer), sock)

            await self._serve(begin)

    async def _serve(self, begin: Callable[[socket.socket, str, str], object]) -> None:
        self._begin = begin
        try:
            self._listen()
            await anyio.sleep_forever()
        finally:
            self.stop()

    def refuse(self) -> None:
        """Have the kernel refuse new connections, in all processes that have the socket open."""
        self._sock.shutdown(socket.SHUT_RDWR)

    async def finish_accepting(self) -> None:
        """Stop accepting, and wait until each accepted connection has its protocol."""
        self._deafen()
        while self._beginnings or self._accepted_late:
            await anyio.lowlevel.checkpoint()

    def stop(self) -> None:
        """Stop accepting. Open connections stay."""
        self._begin = None
        self._deafen()
        self._sock.close()

    def _listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._accept)

    def _deafen(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        elif self._sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())

    def _accept(self) -> None:
        """Accept connections that wait in the kernel, at most AT_ONCE."""
        for _ in range(AT_ONCE):
            if self._accepted_late or self._leaving >= MOST_LEAVING:
                return
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in SHUT:
                    self._deafen()
                    return
                if exc.errno not in EXHAUSTED:
                    continue  # an error of this connection, which is lost
                if self._for_operators and self._descriptors.free_spare():
                    continue
                self._rest(exc.strerror or str(exc))
                return
            number = sock.fileno()
            self._take(sock, address)
            if self._limits is None and self._descriptors.left_above(number) < self._kept():
                self._rest(FEW_LEFT)
                return

    def _kept(self) -> int:
        """Return how many descriptors this listener leaves to others and to its own connections."""
        return RESERVE + len(self._beginnings) + self._owed()

    def _rest(self, reason: str) -> None:
        """Accept nothing for PAUSE seconds."""
        self._report.accept_paused(self.name, reason)
        if self._pause is None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._pause = asyncio.get_running_loop().call_later(PAUSE, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._descriptors.restore_spare()
        if self._limits is None and self._descriptors.remaining() < self._kept():
            self._rest(FEW_LEFT)
        else:
            self._listen()

    def _take(self, sock: socket.socket, address: object) -> None:
        """Serve a connection, or close it if it exceeds a limit."""
        host, peer = (str(address[0]), peer_name(address)) if isinstance(address, tuple) else ("", "unix")
        counted = self._limits is not None and not (host and self._exempt(host))
        limit = self._limit_reached(host) if counted else ""
        if limit:
            room = self._make_room is not None and self._make_room(host if limit == ADDRESS else "")
            if not room and self._make_room is not None and self._beginnings:
                self._accepted_late += 1
                asyncio.get_running_loop().call_soon(self._take_late, sock, address)
                return
            self._report.connection_refused(self.name, limit, peer)
            if not room:
                sock.close()
                return
            self._leaving += 1
        self._admit(sock, host if counted else None, host, peer)

    def _admit(self, sock: socket.socket, counted: str | None, host: str, peer: str) -> None:
        """Count a connection and start to serve it.

        `counted` is the address; None: the connection does not count.
        """
        self.connections += 1
        if counted is not None:
            self._counted += 1
            self._by_address[counted] = self._by_address.get(counted, 0) + 1
        accepted = _Accepted(sock, self, counted)
        accepted.setblocking(False)
        assert self._begin is not None
        self._begin(accepted, host, peer)

    def _take_late(self, sock: socket.socket, address: object) -> None:
        """Retry a connection over a limit: earlier connections may have their protocols by now, and one of
        them can be closed."""
        self._accepted_late -= 1
        if self._begin is None:
            sock.close()
        else:
            self._take(sock, address)

    def _limit_reached(self, host: str) -> str:
        """Return the limit that another connection would exceed; empty: none."""
        assert self._limits is not None
        if host and self._by_address.get(host, 0) >= self._limits.per_address:
            return ADDRESS
        return ALL if self._counted >= self._limits.in_all else ""

    async def _attach_protocol(
        self, factory: Callable[[], asyncio.BaseProtocol], sock: socket.socket
    ) -> None:
        """Attach a protocol to a connection. If callbacks fail later, the loop reports it."""
        beginning = _Beginning(factory)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: beginning, sock)
        except OSError:
            sock.close()  # the client has hung up
        if beginning.error is not None:
            self._report.client_failed(self.name, beginning.error)

    async def _serve_stream(
        self, serve: StreamHandler, sock: socket.socket, peer: str, place: StreamPlace
    ) -> None:
        kind = UNIXSocketStream if sock.family == socket.AF_UNIX else SocketStream
        try:
            if kind is SocketStream:
                _notice_loss(sock)
            stream = await kind.from_socket(sock)
        except (ValueError, OSError):
            sock.close()  # the client has hung up
            return
        try:
            await serve(stream, peer, place)
        except Exception as exc:
            fatal = self._ends_program(exc)
            await anyio.aclose_forcefully(stream)
            if fatal:
                raise

    async def _serve_socket(self, handle: SocketHandler, sock: socket.socket) -> None:
        if sock.family != socket.AF_UNIX:
            with suppress(OSError):  # the client has hung up; what it sent can still be read
                _notice_loss(sock)
        try:
            await handle()
        except Exception as exc:
            fatal = self._ends_program(exc)
            sock.close()
            if fatal:
                raise

    def _ends_program(self, failure: Exception) -> bool:
        """Report a handler's exception, which ends only its own connection.

        Returns whether it has to end the program.
        """
        if self._report.is_fatal(failure):
            return True
        self._report.client_failed(self.name, failure)
        return False

    def given_back(self, counted: str | None) -> None:
        """Count a connection whose descriptor was closed.

        `counted` is its address; None: it was not counted.
        """
        self.connections -= 1
        self._leaving = max(0, self._leaving - 1)
        self._descriptors.restore_spare()
        if counted is None:
            return
        self._counted -= 1
        self._by_address[counted] -= 1
        if not self._by_address[counted]:
            del self._by_address[counted]


class _Accepted(socket.socket):
    """An accepted connection. It reports when its descriptor is closed, in whichever way."""

    __slots__ = ("_acceptor", "_counted")

    def __init__(self, sock: socket.socket, acceptor: Acceptor, counted: str | None) -> None:
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self._acceptor: Acceptor | None = acceptor
        self._counted = counted

    def _real_close(self, *args: Any) -> None:
        super()._real_close(*args)  # type: ignore[misc]
        self._given_back()

    def detach(self) -> int:
        """Return the descriptor. uvloop calls this after it has closed the descriptor itself."""
        descriptor = super().detach()
        self._given_back()
        return descriptor

    def _given_back(self) -> None:
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            acceptor.given_back(self._counted)


class _Beginning(asyncio.Protocol):
    """The protocol until the connection is made.

    If the real protocol fails then, the loop alone would leave the connection open.
    """

    def __init__(self, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        self.error: Exception | None = None
        self._factory = factory

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        try:
            made = self._factory()
            transport.set_protocol(made)
            made.connection_made(transport)
        except Exception as exc:
            self.error = exc
            cast(asyncio.Transport, transport).abort()


def _notice_loss(sock: socket.socket) -> None:
    """Have the kernel probe a silent peer, so that a peer that has vanished does not occupy a place."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENT // 6)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)


def peer_name(address: tuple[Any, ...]) -> str:
    """Return address and port as text."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
