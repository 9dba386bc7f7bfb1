"""A stand-in for Dovecot 2.4's anvil, on a real unix socket, in the event loop of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

HELLO = b"VERSION\tanvil-client\t2\t0\n\n"
GREETING = b"VERSION\tanvil-server\t2\t0\n"


def row(name: bytes, host: bytes, hash32: int = 1, *, id: bytes = b"1", pid: int = 10) -> bytes:
    """Return a line of a listing whose only field is `user_dirkey`."""
    return b"%d\t%s\timap-login\t127.0.0.1\t%s\t%s\t%d@%s\n" % (pid, name, id, host, hash32, host)


class FakeAnvil:
    """An anvil with sessions. A kick ends its sessions and returns their number.

    A kick of a session whose id is in `stubborn` claims to end the session and does not. `answer` replaces
    all answers.
    """

    def __init__(self, *rows: bytes, answer: Callable[[bytes], bytes | None] | None = None) -> None:
        self.rows = list(rows)
        self.stubborn: set[bytes] = set()
        self.requests: list[bytes] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._answer = answer or self._usual

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self._writers)

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[FakeAnvil]:
        server = await asyncio.start_unix_server(self._serve, path)
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.close()

    def _usual(self, request: bytes) -> bytes:
        if request == b"CONNECT-DUMP":
            return b"user_dirkey\n" + b"".join(self.rows) + b"\n"
        command, *words = request.split(b"\t")
        column = 1 if command == b"KICK-USER" else 6
        ended = [line for line in self.rows if line[:-1].split(b"\t")[column] == words[-1]]
        self.rows = [line for line in self.rows if line not in ended or line.split(b"\t")[4] in self.stubborn]
        return b"%d\n" % len(ended)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            assert await reader.readexactly(len(HELLO)) == HELLO
            writer.write(GREETING)
            while line := await reader.readline():
                self.requests.append(line.removesuffix(b"\n"))
                answer = self._answer(self.requests[-1])
                if answer is None:
                    await reader.read()
                    break
                writer.write(answer)
        self._writers.discard(writer)
        writer.close()
