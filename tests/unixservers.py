"""A stand-in for a service of Dovecot, on a real unix socket, in the event loop of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self


class UnixServer:
    """Serves connections by `converse`, and closes them at the end."""

    def __init__(self) -> None:
        self.accepted = 0
        self.writers: set[asyncio.StreamWriter] = set()

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self.writers)

    def hang_up(self) -> None:
        """Close all connections."""
        for writer in self.writers:
            writer.close()

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[Self]:
        server = await asyncio.start_unix_server(self._serve, path)
        try:
            yield self
        finally:
            server.close()
            self.hang_up()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        raise NotImplementedError

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            await self.converse(reader, writer)
        self.writers.discard(writer)
        writer.close()
