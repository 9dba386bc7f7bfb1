"""The proxy-notify FIFO: names of users with live sessions, one a line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LINE_LIMIT = 1024
"""Longest line that counts, in bytes; a longer one is skipped, and reading goes on (the original stopped for good)."""


class NotifyReader(asyncio.Protocol):
    """Reads the FIFO. `names` gets the complete lines of one read, tab-escaped as they came; `skipped` is called for
    each line that was too long."""

    def __init__(self, names: Callable[[list[bytes]], None], skipped: Callable[[int], None]) -> None:
        self._names, self._skipped = names, skipped
        self._rest = b""
        self._skipping = False

    def data_received(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        if self._skipping and lines:
            del lines[0]
            self._skipping = False
        for line in lines:
            if len(line) > LINE_LIMIT:
                self._skipped(len(line))
        self._rest = b"" if self._skipping else rest
        if len(rest) > LINE_LIMIT:
            self._skipped(len(rest))
            self._rest, self._skipping = b"", True
        names = [line for line in lines if 0 < len(line) <= LINE_LIMIT]
        if names:
            self._names(names)
