"""What became of kicks, told to the core: those that end in one turn of the loop with one event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from director.core.protocol.events import Event, Kicked, KicksEnded


class KickEnds:
    def __init__(self, handle: Callable[[Event], None]) -> None:
        """handle: is given `KicksEnded`, never from within `add`."""
        self._handle = handle
        self._ends: list[Kicked] = []

    def add(self, number: int, sessions: int, problem: str) -> None:
        """A kick has ended so many sessions, or found so many. problem: empty where it is done."""
        self._ends.append(Kicked(number, sessions, problem))
        if len(self._ends) == 1:
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        ends, self._ends = self._ends, []
        self._handle(KicksEnded(ends))
