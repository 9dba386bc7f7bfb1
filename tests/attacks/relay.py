"""A relay between a dialling director and an accepting one, for attacks on the ring's links.

It passes frames on as they arrive, and records them. A test may change, drop, repeat or add frames, in either
direction.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from enum import Enum
from typing import Any, TypeVar

from tests.certificates import Authority

PLAIN = 2
"""Frames of each direction that come before the keys exist: greeting and proof."""
TAG = 16
"""Bytes after each later frame."""

Result = TypeVar("Result")
Change = Callable[[int, bytes], list[bytes]]
"""Returns the frames to pass on instead of a frame, given its number on its connection and direction, from
0."""


class Way(Enum):
    RIGHT = "from the dialler to the acceptor"
    BACK = "from the acceptor to the dialler"


class Connection:
    """A connection of the dialler, and the relay's own connection to the acceptor."""

    def __init__(self, relay: Relay, dialler: socket.socket, acceptor: socket.socket) -> None:
        self._relay = relay
        self._to = {Way.RIGHT: acceptor, Way.BACK: dialler}
        self._lock = threading.Lock()
        self.frames: dict[Way, list[bytes]] = {Way.RIGHT: [], Way.BACK: []}
        """The frames as they arrived, with their headers and tags."""
        self.open, self.since = True, time.monotonic()
        self._threads = [
            threading.Thread(target=self._pass, args=(dialler, Way.RIGHT), daemon=True),
            threading.Thread(target=self._pass, args=(acceptor, Way.BACK), daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def inject(self, way: Way, data: bytes) -> None:
        """Send bytes between two frames."""
        with self._lock, suppress(OSError):
            self._to[way].sendall(data)

    def close(self) -> None:
        self.open = False
        for sock in self._to.values():
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _pass(self, source: socket.socket, way: Way) -> None:
        with suppress(OSError), source.makefile("rb") as stream:
            while header := stream.read(4):
                number = len(self.frames[way])
                size = int.from_bytes(header) + (TAG if number >= PLAIN else 0)
                frame = header + stream.read(size)
                self.frames[way].append(frame)
                change = self._relay.change.get(way)
                for passed in [frame] if change is None else change(number, frame):
                    self.inject(way, passed)
        self.close()


class Relay:
    """A relay that listens at a director's address on another port. Use it as a context manager."""

    def __init__(self, member: str) -> None:
        """Begin. `member`: the director that the peers of this relay want to reach."""
        self.member = member
        self.change: dict[Way, Change] = {}
        self.connections: list[Connection] = []
        address, _, port = member.rpartition(":")
        self._target = address, int(port)
        self._listener = socket.create_server((address, 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            connection.close()

    @property
    def link(self) -> Connection | None:
        """The connection that is open now."""
        return next((connection for connection in reversed(self.connections) if connection.open), None)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                dialler, (address, _) = self._listener.accept()
                try:
                    acceptor = socket.create_connection(self._target, timeout=5, source_address=(address, 0))
                except OSError:
                    dialler.close()
                    continue
                acceptor.settimeout(None)
                connection = Connection(self, dialler, acceptor)
                self.connections.append(connection)
                connection.start()


class TlsRelay:
    """A relay that ends the dialler's TLS, and uses its own TLS with the acceptor.

    Use it as a context manager.
    """

    def __init__(self, member: str, source: str, authority: Authority) -> None:
        """Begin. The relay has a certificate for each of both directors, of the ring's own CA.

        Args:
            member: the director that is dialled.
            source: the address of the dialling director.
            authority: the CA of the ring.
        """
        self._address, _, self._port = member.rpartition(":")
        self._source = source
        self._contexts = []
        for purpose, address in (
            (ssl.PROTOCOL_TLS_SERVER, self._address),
            (ssl.PROTOCOL_TLS_CLIENT, source),
        ):
            cert, key, ca = authority.pems(address, days=2)
            context = ssl.SSLContext(purpose)
            context.load_cert_chain(cert, key)
            context.load_verify_locations(ca)
            self._contexts.append(context)
        self.passed = 0
        """Bytes inside TLS."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        server = asyncio.start_server(self._relay, self._address, 0, ssl=self._contexts[0])
        self._server = self._run(server)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def _run(self, what: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there, back = await asyncio.open_connection(
                self._address, int(self._port), ssl=self._contexts[1], local_addr=(self._source, 0)
            )
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                self.passed += len(data)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __enter__(self) -> TlsRelay:
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
