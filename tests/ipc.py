"""A stand-in for Dovecot 2.3's ipc service, on a real unix socket, in the event loop of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio

HEADER = b":username\tuser_dirkey\tservice\tsrc-ip\tdest-ip\tdest-port\n"


def session(name: bytes, host: bytes, hash32: int = 1) -> bytes:
    """Return a row of a listing."""
    return b":%s\t%d@%s\timap\t127.0.0.1\t%s\t143\n" % (name, hash32, host, host)


class FakeIpc:
    """Records every request (without `proxy *`) and answers with `answer`; None: it never answers.

    `held` is an event to wait for before each answer. `hang_up` closes all connections.
    """

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.accepted = 0
        self.held: anyio.Event | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self._writers)

    def say(self, data: bytes) -> None:
        """Send unexpected data on all connections."""
        for writer in self._writers:
            writer.write(data)

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[FakeIpc]:
        server = await asyncio.start_unix_server(self._serve, path)
        try:
            yield self
        finally:
            server.close()
            self.hang_up()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        with suppress(OSError):
            while line := await reader.readline():
                self.requests.append(line.removeprefix(b"proxy\t*\t").removesuffix(b"\n"))
                if self.held is not None:
                    await self.held.wait()
                answer = self.answer(self.requests[-1])
                if answer is None:
                    await reader.read()
                    break
                writer.write(answer)
        self._writers.discard(writer)
        writer.close()
