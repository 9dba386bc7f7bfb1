"""Whether another program has changed the files of a SQLite store while it is open: by what `stat` says.

The files are never opened for it: a process that closes one of them loses SQLite's locks on it.
"""

from __future__ import annotations

import os
from pathlib import Path

CHECKPOINT_AT = 1000 * (4096 + 24)
"""Bytes of the log from which on SQLite copies it into the file after a write: 1000 pages."""
Seen = tuple[int, ...]
"""Device, number, size and time of the last change of a file; nothing where there is none."""


class Watch:
    """What the files were like when this process last used them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: dict[str, Seen] = {}

    def note(self) -> None:
        """They are as this process left them."""
        self._seen = self._identities()

    def note_written(self) -> None:
        """This process has written. That changes the log; the file itself only where the log is large enough
        to be copied into it. Else another program may have written to the file: `written` says so."""
        name, now = self._file.name, self._identities()
        before, log = self._seen.get(name, ()), now[f"{name}-wal"]
        if before and now[name][:3] == before[:3] and (not log or log[2] < CHECKPOINT_AT):
            now[name] = before
        self._seen = now

    def forget(self) -> None:
        """The files are not in use now."""
        self._seen = {}

    def changed(self) -> str:
        """What another program did to a file that cannot be right; empty: nothing."""
        now = self._identities()
        for name, before in self._seen.items():
            if not before or now[name] == before:
                continue
            if not now[name]:
                return f"{name} was removed"
            if now[name][:2] != before[:2]:
                return f"{name} was replaced"
            if now[name][2:3] != before[2:3]:
                return f"{name} had {before[2]} bytes, and has {now[name][2]}"
        return ""

    def written(self) -> str:
        """Which file another program has written to without changing its size; empty: none."""
        now = self._identities()
        return next((name for name, before in self._seen.items() if before and now[name] != before), "")

    def shrunk(self) -> str:
        """What happened to a file while this process wrote to it, which makes it grow; empty: nothing."""
        now = self._identities()
        for name, before in self._seen.items():
            if before and now[name][:2] != before[:2]:
                return f"{name} was removed or replaced"
            if before and now[name][2:3] < before[2:3]:
                return f"{name} had {before[2]} bytes, and has {now[name][2]}"
        return ""

    def _identities(self) -> dict[str, Seen]:
        name = self._file.name
        return {
            name: _stat(self._file),
            f"{name}-wal": _stat(self._file.with_name(f"{name}-wal")),
            # SQLite writes to it without its time or size saying so.
            f"{name}-shm": tuple(_stat(self._file.with_name(f"{name}-shm"))[:2]),
        }


def _stat(file: Path) -> Seen:
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
