"""Events on their way to the core. The mailbox is built before all other parts, which get it as an argument.

The driver, which is built last, reads it. Until then events wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from director.core.protocol.events import Event
from director.types import RequestId


class Reader(Protocol):
    """Handles the events of a mailbox, which wakes it when there are any."""

    def read(self) -> None:
        """Handle the waiting events."""

    def end_turn(self) -> None:
        """Announce the records that the hot path has put into the table, then write their answers."""


class Mailbox:
    """Takes events from all parts, keeps their order, and has one reader."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        """Waiting events, the oldest first."""
        self.failure: BaseException | None = None
        """The last exception of the core, or of the parts that carry out its effects."""
        self._loop = asyncio.get_running_loop()
        self._reader: Reader | None = None
        self._turn_planned = False
        self._requests = 0

    def read_by(self, reader: Reader) -> None:
        """Wake this reader from now on."""
        self._reader = reader

    def handle(self, event: Event) -> None:
        """Hand an event to the core, which has handled it when this call returns.

        While the core is busy, an effect has caused the event: then it is handled after all waiting events.
        """
        self.events.append(event)
        if self._reader is not None:
            try:
                self._reader.read()
            except BaseException as exc:
                self.failure = exc
                raise

    def new_request(self) -> RequestId:
        """Return a new number for a `Lookup`. Its answer carries the number."""
        self._requests += 1
        return RequestId(self._requests)

    def end_turn_soon(self) -> None:
        """End this turn of the loop with `Reader.end_turn`, after everything that is read in the turn."""
        if not self._turn_planned:
            self._turn_planned = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._turn_planned = False
        if self._reader is not None:
            self._reader.end_turn()
