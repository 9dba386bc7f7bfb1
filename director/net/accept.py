"""Accepts connections, on every listener alike: within limits, and whatever the system runs out of.

When descriptors or memory run out, connections wait in the kernel's queue: the listener pauses and accepts
again a moment later. Login and userdb listeners pause a little earlier than the others, so that auth, the
store, the ring and operators still find descriptors; operators' listeners may also use the one spare
descriptor that is kept.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol, cast

import anyio
import anyio.lowlevel
from anyio.abc import SocketStream, UNIXSocketStream

from director.net.places import Places, StreamPlace

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of accept(2) when something has run out."""
SHUT = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSOCK})
"""Errors of accept(2) when nobody can connect any more."""
PAUSE = 0.1
"""Seconds until a paused listener accepts again."""
SILENT = 60
"""Seconds without a word after which a peer is asked whether it is there, for as long again."""
AT_ONCE = 32
"""Connections accepted in one turn of the loop: about 1 ms."""
MOST_LEAVING = 8
"""Connections closed in favour of others, and not gone yet: with so many, no more are accepted."""
RESERVE = 16
"""Descriptors that login and userdb connections leave to the store, the ring and operators."""
FEW_LEFT = "few descriptors are left"
UNLIMITED = 1 << 30
ALL, ADDRESS = "all", "address"
"""Names of the two limits."""

StreamHandler = Callable[[SocketStream, str, StreamPlace], Awaitable[object]]
"""Serves a client: its stream, its name for the log, and its place, which the handler enters."""
SocketHandler = Callable[[], Awaitable[object]]
"""Serves one client."""


class Report(Protocol):
    """Is told what goes wrong at listeners."""

    def accept_paused(self, listener: str, reason: str) -> None:
        """Nothing is accepted for PAUSE seconds."""

    def connection_refused(self, listener: str, limit: str, peer: str) -> None:
        """A connection is over a limit, `all` or `address`: it is closed, or another one in its place."""

    def client_failed(self, listener: str, error: Exception) -> None:
        """A client's handler failed, and its connection was closed."""

    def is_fatal(self, error: Exception) -> bool:
        """Whether a handler met a failure that ends the program: it is not the handler's own."""


class Limits:
    """How many connections a listener has at a time, at most."""

    def __init__(self, in_all: int, per_address: int = UNLIMITED) -> None:
        self.in_all, self.per_address = in_all, per_address

    def set(self, in_all: int, per_address: int) -> None:
        """They hold for connections from now on."""
        self.in_all, self.per_address = in_all, per_address


class Room:
    """What the listeners of a process share: its descriptors, and the one that is kept in reserve."""

    def __init__(self, report: Report, descriptors: int | None = None) -> None:
        """descriptors: how many the process may have open; None: its soft limit."""
        self.report = report
        self.descriptors = soft_limit() if descriptors is None else descriptors
        self._spare, self._open = -1, True
        self.restore()

    def restore(self) -> None:
        """Keep a descriptor in reserve again, if one can be had."""
        if self._spare < 0 and self._open:
            self._spare = _probe()

    def use(self) -> bool:
        """Give up the reserve, so that one more connection can be accepted. False: it is given up already."""
        if self._spare < 0:
            return False
        os.close(self._spare)
        self._spare = -1
        return True

    def left_above(self, descriptor: int) -> int:
        """How many descriptors are left at most behind a new one: the kernel gives the lowest free number."""
        return self.descriptors - 1 - descriptor

    def remaining(self) -> int:
        """The same, found out by opening one."""
        probe = _probe()
        if probe < 0:
            return 0
        os.close(probe)
        return self.left_above(probe)

    def close(self) -> None:
        """Keep none any more."""
        self._open = False
        self.use()


class Acceptor:
    """One listening socket. Serve it by one of three ways."""

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        room: Room,
        limits: Limits | None = None,
        *,
        exempt: Callable[[str], bool] = lambda address: False,
        for_operators: bool = False,
    ) -> None:
        """
        Args:
            sock: non-blocking; closed at the end.
            limits: None: there are none, and RESERVE descriptors are left to others.
            exempt: tells addresses whose connections are not counted.
            for_operators: it may use the spare descriptor.
        """
        self.name = name
        self.connections = 0
        """Those that are open."""
        self._sock, self._room, self._limits = sock, room, limits
        self._exempt, self._for_operators = exempt, for_operators
        self._counted = 0
        self._by_address: dict[str, int] = {}
        self._owed: Callable[[], int] = lambda: 0
        self._make_room: Callable[[str], bool] | None = None
        self._leaving = 0
        """Connections that were closed in favour of others, until their descriptors are given back."""
        self._accepted_late = 0
        """A connection over a limit, until it is known which one can be spared."""
        self._begin: Callable[[socket.socket, str, str], object] | None = None
        """Serves an accepted connection of an address and a peer; None: nothing is accepted now."""
        self._beginnings: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        """Its end, while the listener pauses."""

    @property
    def most(self) -> int:
        """Connections it has at a time, at most."""
        return self._limits.in_all if self._limits is not None else UNLIMITED

    async def serve_protocols(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        owed: Callable[[], int] = lambda: 0,
        make_room: Callable[[str], bool] | None = None,
    ) -> None:
        """Give each connection to a protocol of its own, until cancelled or stopped.

        Args:
            owed: how many descriptors the open connections still need.
            make_room: closes a connection that can be spared, of an address or of any (""). False: there is
                none.
        """
        self._owed, self._make_room = owed, make_room
        loop = asyncio.get_running_loop()

        def begin(sock: socket.socket, host: str, peer: str) -> None:
            task = loop.create_task(self._attach_protocol(factory, sock))
            self._beginnings.add(task)
            task.add_done_callback(self._beginnings.discard)

        await self._serve(begin)

    async def serve_streams(self, serve: StreamHandler) -> None:
        """Give each connection to `serve` as a stream, until cancelled or stopped.

        `serve` closes the stream; where it fails, that is reported, and the connection is closed.
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
        """Give each connection to `serve` as a socket, non-blocking, until cancelled or stopped.

        What it returns is run, and closes the socket; where that fails, it is reported, and the connection is
        closed.

        Args:
            serve: called with the socket, its client's address, empty where it has none, and its peer.
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
        """Have the kernel refuse new connections from now on, whatever descriptors the listener has."""
        self._sock.shutdown(socket.SHUT_RDWR)

    async def settle(self) -> None:
        """Accept no more, and wait until each accepted connection has its protocol."""
        self._deafen()
        while self._beginnings or self._accepted_late:
            await anyio.lowlevel.checkpoint()

    def stop(self) -> None:
        """Accept no more. Open connections stay."""
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
        """Take what waits in the kernel, at most AT_ONCE connections."""
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
                    continue  # an error of the connection, which is gone
                if self._for_operators and self._room.use():
                    continue
                self._rest(exc.strerror or str(exc))
                return
            number = sock.fileno()
            self._take(sock, address)
            if self._limits is None and self._room.left_above(number) < self._kept():
                self._rest(FEW_LEFT)
                return

    def _kept(self) -> int:
        """Descriptors that this listener leaves to others and to its own connections."""
        return RESERVE + len(self._beginnings) + self._owed()

    def _rest(self, reason: str) -> None:
        """Accept nothing for PAUSE seconds."""
        self._room.report.accept_paused(self.name, reason)
        if self._pause is None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._pause = asyncio.get_running_loop().call_later(PAUSE, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._room.restore()
        if self._limits is None and self._room.remaining() < self._kept():
            self._rest(FEW_LEFT)
        else:
            self._listen()

    def _take(self, sock: socket.socket, address: object) -> None:
        """Serve a connection, or close it where it is over a limit."""
        host, peer = (str(address[0]), peer_name(address)) if isinstance(address, tuple) else ("", "unix")
        counted = self._limits is not None and not (host and self._exempt(host))
        limit = self._limit_reached(host) if counted else ""
        if limit:
            room = self._make_room is not None and self._make_room(host if limit == ADDRESS else "")
            if not room and self._make_room is not None and self._beginnings:
                self._accepted_late += 1
                asyncio.get_running_loop().call_soon(self._take_late, sock, address)
                return
            self._room.report.connection_refused(self.name, limit, peer)
            if not room:
                sock.close()
                return
            self._leaving += 1
        self._admit(sock, host if counted else None, host, peer)

    def _admit(self, sock: socket.socket, counted: str | None, host: str, peer: str) -> None:
        """counted: the address, if the connection counts."""
        self.connections += 1
        if counted is not None:
            self._counted += 1
            self._by_address[counted] = self._by_address.get(counted, 0) + 1
        accepted = _Accepted(sock, self, counted)
        accepted.setblocking(False)
        assert self._begin is not None
        self._begin(accepted, host, peer)

    def _take_late(self, sock: socket.socket, address: object) -> None:
        """Connections that were accepted before may be known now, and one of them be spared."""
        self._accepted_late -= 1
        if self._begin is None:
            sock.close()
        else:
            self._take(sock, address)

    def _limit_reached(self, host: str) -> str:
        """Which limit one more connection would be over; empty: none."""
        assert self._limits is not None
        if host and self._by_address.get(host, 0) >= self._limits.per_address:
            return ADDRESS
        return ALL if self._counted >= self._limits.in_all else ""

    async def _attach_protocol(
        self, factory: Callable[[], asyncio.BaseProtocol], sock: socket.socket
    ) -> None:
        """Have a transport take a connection over. Callbacks that fail later are reported by the loop."""
        beginning = _Beginning(factory)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: beginning, sock)
        except OSError:
            sock.close()  # the client is gone
        if beginning.error is not None:
            self._room.report.client_failed(self.name, beginning.error)

    async def _serve_stream(
        self, serve: StreamHandler, sock: socket.socket, peer: str, place: StreamPlace
    ) -> None:
        kind = UNIXSocketStream if sock.family == socket.AF_UNIX else SocketStream
        try:
            if kind is SocketStream:
                _notice_loss(sock)
            stream = await kind.from_socket(sock)
        except (ValueError, OSError):
            sock.close()  # the client is gone
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
            with suppress(OSError):  # the client is gone; what it has sent is there
                _notice_loss(sock)
        try:
            await handle()
        except Exception as exc:
            fatal = self._ends_program(exc)
            sock.close()
            if fatal:
                raise

    def _ends_program(self, failure: Exception) -> bool:
        """The boundary of a client's handler: its failure closes this connection and hurts no other."""
        if self._room.report.is_fatal(failure):
            return True
        self._room.report.client_failed(self.name, failure)
        return False

    def given_back(self, counted: str | None) -> None:
        """A connection has given its descriptor back. counted: its address, if it was counted."""
        self.connections -= 1
        self._leaving = max(0, self._leaving - 1)
        self._room.restore()
        if counted is None:
            return
        self._counted -= 1
        self._by_address[counted] -= 1
        if not self._by_address[counted]:
            del self._by_address[counted]


class _Accepted(socket.socket):
    """An accepted connection. Tells when its descriptor is given back, whichever way it is closed."""

    __slots__ = ("_acceptor", "_counted")

    def __init__(self, sock: socket.socket, acceptor: Acceptor, counted: str | None) -> None:
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self._acceptor: Acceptor | None = acceptor
        self._counted = counted

    def _real_close(self, *args: Any) -> None:
        super()._real_close(*args)  # type: ignore[misc]
        self._given_back()

    def detach(self) -> int:
        """uvloop calls it once it has closed the descriptor itself."""
        descriptor = super().detach()
        self._given_back()
        return descriptor

    def _given_back(self) -> None:
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            acceptor.given_back(self._counted)


class _Beginning(asyncio.Protocol):
    """Stands in until a connection is made: the loop would leave one open whose protocol fails at that."""

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
    """Have the kernel ask a silent peer whether it is there: one that has vanished keeps no place."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENT // 6)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)


def peer_name(address: tuple[Any, ...]) -> str:
    """How an address and a port are written."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def soft_limit() -> int:
    """How many descriptors this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


def _probe() -> int:
    """A descriptor of nothing; -1: there is none to be had."""
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
