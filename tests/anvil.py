"""A stand-in for Dovecot 2.4's anvil, on a real unix socket, in the event loop of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.unixservers import UnixServer

HELLO = b"VERSION\tanvil-client\t2\t0\n\n"
GREETING = b"VERSION\tanvil-server\t2\t0\n"


def row(name: bytes, host: bytes, hash32: int = 1, *, id: bytes = b"1", pid: int = 10) -> bytes:
    """Return a line of a listing whose only field is `user_dirkey`."""
    return b"%d\t%s\timap-login\t127.0.0.1\t%s\t%s\t%d@%s\n" % (pid, name, id, host, hash32, host)


class FakeAnvil(UnixServer):
    """An anvil with sessions. A kick ends its sessions and returns their number.

    A kick of a session whose id is in `stubborn` claims to end the session and does not. `answer` replaces
    all answers.
    """

    def __init__(self, *rows: bytes, answer: Callable[[bytes], bytes | None] | None = None) -> None:
        super().__init__()
        self.rows = list(rows)
        self.stubborn: set[bytes] = set()
        self.requests: list[bytes] = []
        self._answer = answer or self._usual

    def _usual(self, request: bytes) -> bytes:
        if request == b"CONNECT-DUMP":
            return b"user_dirkey\n" + b"".join(self.rows) + b"\n"
        command, *words = request.split(b"\t")
        column = 1 if command == b"KICK-USER" else 6
        ended = [line for line in self.rows if line[:-1].split(b"\t")[column] == words[-1]]
        self.rows = [line for line in self.rows if line not in ended or line.split(b"\t")[4] in self.stubborn]
        return b"%d\n" % len(ended)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(len(HELLO)) == HELLO
        writer.write(GREETING)
        while line := await reader.readline():
            self.requests.append(line.removesuffix(b"\n"))
            answer = self._answer(self.requests[-1])
            if answer is None:
                await reader.read()
                break
            writer.write(answer)
