"""The results of logins, deliveries and long sessions: one JSON line each, in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec

OK, REFUSED, BROKEN, TIMEOUT = "ok", "refused", "broken", "timeout"
IDLE = "idle"
"""Protocol of a login whose session the client holds open."""
SESSION = "session"
"""Protocol of such a session from login to end; the event is written at its end."""
LARGEST = 50_000_000
"""Bytes after which a new file is started, so that a lab that runs for days does not fill its memory."""


class Event(msgspec.Struct, omit_defaults=True):
    """The result of one login, delivery or session. Times are Unix seconds."""

    began: float
    ended: float
    protocol: str
    """`imap`, `pop3`, `sieve`, `lmtp`, `idle` or `session`."""
    user: str
    result: str
    """`ok`; `refused`: the server answered with an error; `broken`: the connection ended; `timeout`."""
    served: float = 0.0
    """When the server accepted the login; 0 if it did not. Sessions that break later have this time, too."""
    proxy: str = ""
    """The proxy, if its greeting contains its name."""
    backend: str = ""
    """The backend, if the protocol reveals its name."""
    text: str = ""
    """If the result is not `ok`: the server's answer, or the answer that was expected."""


class Journal:
    """Writes events to the file `path`, and keeps the previous file as `path`.1. A `with` block closes it."""

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
    """Every event in the file; none if the file does not exist yet. An incomplete last line is skipped."""
    if not path.exists():
        return
    decoder = msgspec.json.Decoder(Event)
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield decoder.decode(line)
