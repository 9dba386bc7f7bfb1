"""What became of each login, delivery and long session: one JSON line each, in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec

OK, REFUSED, BROKEN, TIMEOUT = "ok", "refused", "broken", "timeout"
IDLE = "idle"
"""Protocol of a login whose session is held."""
SESSION = "session"
"""Protocol of the whole life of such a session, written when it has ended."""
LARGEST = 50_000_000
"""Bytes of the file after which a new one is begun: a lab that runs for days must not fill its memory."""


class Event(msgspec.Struct, omit_defaults=True):
    """One of them. Times are Unix seconds."""

    began: float
    ended: float
    protocol: str
    """`imap`, `pop3`, `sieve`, `lmtp`, `idle` or `session`."""
    user: str
    result: str
    """`ok`; `refused`: the server said no; `broken`: the connection ended; `timeout`."""
    served: float = 0.0
    """When the server said that the user is in; 0 where it never did. A session that breaks later has it."""
    proxy: str = ""
    """Who greeted, where the greeting gives a name."""
    backend: str = ""
    """Who served, where the protocol tells."""
    text: str = ""
    """The server's answer, or what was waited for, where the result is not `ok`."""


class Journal:
    """The file `path`, line by line; the one before it is kept as `path`.1. A `with` block closes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab")

    def write(self, event: Event) -> None:
        self._file.write(msgspec.json.encode(event) + b"\n")
        self._file.flush()
        if self._file.tell() > LARGEST:
            self._file.close()
            self._path.rename(f"{self._path}.1")
            self._file = self._path.open("ab")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read(path: Path) -> Iterator[Event]:
    """Every event in the file; nothing where there is none yet. A last line that is half written is left."""
    if not path.exists():
        return
    decoder = msgspec.json.Decoder(Event)
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield decoder.decode(line)
