"""Dovecot 2.3's ipc socket as a kick channel."""

from __future__ import annotations

from director.core.kicktypes import KickWhat
from director.net.kickline import Connections, KickConnection
from director.wire.ipc import (
    LIST,
    REPLY_LIMIT,
    Done,
    Failed,
    Malformed,
    Row,
    Rows,
    kick_requests,
    read_reply,
)
from director.wire.sessions import Listing


class IpcConnection(KickConnection):
    def __init__(self, path: str) -> None:
        super().__init__(path, REPLY_LIMIT)

    def _line(self, line: bytes) -> None:
        if not self._missing:
            raise Malformed("nothing was asked")
        match read_reply(line):
            case Row(line=row):
                if self._row is not None:
                    self._row(row)
            case Done(count=count):
                self._answered(count)
            case Failed(reason=reason):
                self._fail(f"refused: {reason}")


class Ipc:
    """The sessions of all login processes of a Dovecot 2.3. All raise KickError; none has a time-out."""

    name = "ipc"
    counts = False
    """It tells the count of one login process only."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._connections = Connections(path, IpcConnection)

    async def kick(self, what: KickWhat) -> int:
        """End these sessions; how many one of the login processes ended."""
        if not (requests := kick_requests(what)):
            return 0
        async with self._connections.connection() as connection:
            return await connection.ask(requests)

    async def read(self, listing: Listing) -> None:
        """Hand the sessions to `listing`."""
        async with self._connections.connection() as connection:
            await connection.ask([LIST], Rows(listing).add)

    def close(self) -> None:
        """Close what nobody uses."""
        self._connections.close()
