"""The proxy-notify FIFO: names of users with live sessions, one a line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LINE_LIMIT = 1024
"""Longest line that counts, in bytes. A longer one is skipped and reading goes on; the original stops for
good."""


class NotifyReader(asyncio.Protocol):
    """Reads the FIFO.

    names: gets the complete lines of one read, tab-escaped as they came. skipped: is called for each line
    that is too long, with the bytes of it that had come by then.
    """

    def __init__(
        self, names: Callable[[list[bytes]], None], skipped: Callable[[int], None], rest: bytes = b""
    ) -> None:
        """rest: the beginning of a line that came to a predecessor."""
        self._names, self._skipped = names, skipped
        self.rest = rest
        """The beginning of a line."""
        self._skipping = False

    def data_received(self, data: bytes) -> None:
        *lines, rest = (self.rest + data).split(b"\n")
        if self._skipping and lines:
            del lines[0]
            self._skipping = False
        names = []
        for line in lines:
            if len(line) > LINE_LIMIT:
                self._skipped(len(line))
            elif line:
                names.append(line)
        if self._skipping:
            rest = b""
        elif len(rest) > LINE_LIMIT:
            self._skipped(len(rest))
            rest, self._skipping = b"", True
        self.rest = rest
        if names:
            self._names(names)
