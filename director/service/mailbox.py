"""Events on their way to the core. The mailbox is built before all parts and given to each of them.

The driver, which is built last, reads it. Until then events wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from director.core.protocol.events import Event
from director.types import RequestId


class Reader(Protocol):
    """What a mailbox wakes."""

    def read(self) -> None:
        """Events have come."""

    def end_turn(self) -> None:
        """Announce what the hot path has put into the user table, then write the answers that rest on it."""


class Mailbox:
    """Takes events from all parts, in order, and has one reader."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        """What has come and is not dealt with, the oldest first."""
        self.failure: BaseException | None = None
        """The last one of the core, or of what carries out its effects."""
        self._loop = asyncio.get_running_loop()
        self._reader: Reader | None = None
        self._turn_planned = False
        self._requests = 0

    def read_by(self, reader: Reader) -> None:
        """Have this reader woken from now on."""
        self._reader = reader

    def handle(self, event: Event) -> None:
        """Have the core deal with an event. That has happened when this returns, unless the core is busy: the
        event that an effect causes comes behind those that wait."""
        self.events.append(event)
        if self._reader is not None:
            try:
                self._reader.read()
            except BaseException as exc:
                self.failure = exc
                raise

    def new_request(self) -> RequestId:
        """A number for a `Lookup`, which its answer comes with."""
        self._requests += 1
        return RequestId(self._requests)

    def end_turn_soon(self) -> None:
        """Have the turn of the loop ended as `Reader.end_turn` says, behind all that is read in it."""
        if not self._turn_planned:
            self._turn_planned = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._turn_planned = False
        if self._reader is not None:
            self._reader.end_turn()
