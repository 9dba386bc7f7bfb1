"""The proxy-notify FIFO: names of users with live sessions, one to a line."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import anyio

from director.errors import ListenError
from director.net.eventlog import EventLog
from director.net.listen import Fifo

LINE_LIMIT = 1024
"""The longest valid line in bytes. A longer line is skipped and reading continues; Dovecot 2.3's director
stops reading permanently."""
LOOK_EVERY = 0.1
"""Seconds between two checks whether the FIFO is still the file at its path."""
DRAIN = 0.1
"""Seconds for which the rest of a replaced FIFO is read."""


class NotifyReader(asyncio.Protocol):
    """Reads the FIFO."""

    def __init__(
        self, names: Callable[[list[bytes]], None], skipped: Callable[[int], None], rest: bytes = b""
    ) -> None:
        """Begin to read.

        Args:
            names: called with the complete lines of one read, tab-escaped as they came.
            skipped: called for each line that is too long, with the number of its bytes so far.
            rest: the beginning of a line that a predecessor read.
        """
        self._names, self._skipped = names, skipped
        self.rest = rest
        """The beginning of a line."""
        self._skipping = False

    def forget_rest(self) -> None:
        """Drop the beginning of a line: the next bytes begin a line."""
        self.rest = b""
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
            elif name := line.removesuffix(b"\r"):  # as Dovecot 2.3's director; a CR in a name is escaped
                names.append(name)
        if self._skipping:
            rest = b""
        elif len(rest) > LINE_LIMIT:
            self._skipped(len(rest))
            rest, self._skipping = b"", True
        self.rest = rest
        if names:
            self._names(names)


async def read_fifo(fifo: Fifo, reader: NotifyReader, reopen: Callable[[], Fifo], log: EventLog) -> None:
    """Read until cancelled.

    If the file is removed or replaced, continue with the file that is at its path then.

    Login processes open the FIFO by its path, and stall if nothing reads it. The login processes that have
    the former FIFO open notice its end, and open the new one.

    Args:
        fifo: the open FIFO.
        reader: handles the bytes.
        reopen: opens the FIFO at the path, or makes it; raises ListenError.
        log: receives what goes wrong.
    """
    loop, place = asyncio.get_running_loop(), _Place(fifo, reopen, log)
    while True:
        try:
            pipe = os.fdopen(os.dup(fifo.fd), "rb", buffering=0)
        except OSError:  # no descriptor is free; writers wait in the FIFO
            await anyio.sleep(LOOK_EVERY)
            continue
        transport, _ = await loop.connect_read_pipe(lambda: reader, pipe)
        try:
            while not (place.has_another() or transport.is_closing()):  # noqa: ASYNC110 - a file has no event
                await anyio.sleep(LOOK_EVERY)
            await anyio.sleep(DRAIN)
        finally:
            transport.close()
        reader.forget_rest()


class _Place:
    """The path of the FIFO."""

    def __init__(self, fifo: Fifo, reopen: Callable[[], Fifo], log: EventLog) -> None:
        self._fifo, self._reopen, self._log = fifo, reopen, log
        self._problem = ""
        """Why the file at the path cannot be opened. Each reason is logged once."""

    def has_another(self) -> bool:
        """Open the FIFO at the path if it is another one. Returns whether it was."""
        if not self._fifo.is_lost():
            return False
        try:
            self._fifo.become(self._reopen())
        except ListenError as exc:
            if str(exc) != self._problem:
                self._problem = str(exc)
                note = (
                    "live sessions do not refresh their users' assignments; retrying; run `director doctor`"
                )
                self._log.error("notify_fifo_lost", reason=self._problem, note=note)
            return False
        self._problem = ""
        note = "another program removed or replaced it; reading the new FIFO"
        self._log.warning("notify_fifo_replaced", path=self._fifo.where, note=note)
        return True
