"""A stand-in for Dovecot 2.3's ipc service, on a real unix socket, in the event loop of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio

from tests.unixservers import UnixServer

HEADER = b":username\tuser_dirkey\tservice\tsrc-ip\tdest-ip\tdest-port\n"


def session(name: bytes, host: bytes, hash32: int = 1) -> bytes:
    """Return a row of a listing."""
    return b":%s\t%d@%s\timap\t127.0.0.1\t%s\t143\n" % (name, hash32, host, host)


class FakeIpc(UnixServer):
    """Records every request (without `proxy *`) and answers with `answer`; None: it never answers.

    `held` is an event to wait for before each answer.
    """

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        super().__init__()
        self.answer = answer
        self.requests: list[bytes] = []
        self.held: anyio.Event | None = None

    def say(self, data: bytes) -> None:
        """Send unexpected data on all connections."""
        for writer in self.writers:
            writer.write(data)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.requests.append(line.removeprefix(b"proxy\t*\t").removesuffix(b"\n"))
            if self.held is not None:
                await self.held.wait()
            answer = self.answer(self.requests[-1])
            if answer is None:
                await reader.read()
                break
            writer.write(answer)
