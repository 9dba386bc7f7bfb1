"""Connections to Dovecot 2.3's ipc socket."""

from __future__ import annotations

from director.net.kickline import KickConnection
from director.wire.ipc import REPLY_LIMIT, Done, Failed, Malformed, Row, read_reply


class IpcConnection(KickConnection):
    def __init__(self, path: str) -> None:
        super().__init__(path, REPLY_LIMIT)

    def _line(self, line: bytes) -> None:
        if not self._missing:
            raise Malformed("an answer without a request")
        match read_reply(line):
            case Row(line=row):
                if self._row is not None:
                    self._row(row)
            case Done(count=count):
                self._answered(count)
            case Failed(reason=reason):
                self._fail(f"refused: {reason}")
