"""Detects changes that other programs make to the files of an open SQLite store, by what `stat` says.

The files are never opened for this: a process that closes one of them loses SQLite's locks on it.
"""

from __future__ import annotations

import os
from pathlib import Path

CHECKPOINT_AT = 1000 * (4096 + 24)
"""Bytes of the log. A larger log is copied into the file after a write: 1000 pages."""
Seen = tuple[int, ...]
"""Device, inode number, size and time of the last change of a file; empty: the file does not exist."""


class Watch:
    """The state of the files when this process last used them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: dict[str, Seen] = {}

    def note(self) -> None:
        """Record the present state as the state in which this process left the files."""
        self._seen = self._identities()

    def note_written(self) -> None:
        """Record the state after a write of this process.

        A write changes the log. It changes the file itself only if the log is large enough to be copied into
        it. If the file changed although the log is smaller, another program may have written to the file: its
        old state is kept, so that `written` reports it.
        """
        name, now = self._file.name, self._identities()
        before, log = self._seen.get(name, ()), now[f"{name}-wal"]
        if before and now[name][:3] == before[:3] and (not log or log[2] < CHECKPOINT_AT):
            now[name] = before
        self._seen = now

    def forget(self) -> None:
        """Forget the state: the files are no longer in use."""
        self._seen = {}

    def changed(self) -> str:
        """Return a change of a file by another program that cannot be right; empty: there was none."""
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
        """Return the name of a file that another program has written to without changing its size; empty:
        none."""
        now = self._identities()
        return next((name for name, before in self._seen.items() if before and now[name] != before), "")

    def shrunk(self) -> str:
        """Return how a file shrank or was removed while this process wrote to it, which only makes it
        grow; empty: no."""
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
            # SQLite's own writes to it may not change its time or size.
            f"{name}-shm": tuple(_stat(self._file.with_name(f"{name}-shm"))[:2]),
        }


def _stat(file: Path) -> Seen:
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
