"""Results of kicks for the core. Kicks that end in one turn of the loop are reported in one event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from director.core.protocol.events import Event, Kicked, KicksEnded


class KickEnds:
    def __init__(self, handle: Callable[[Event], None]) -> None:
        """handle: is called with `KicksEnded`, never from within `add`."""
        self._handle = handle
        self._ends: list[Kicked] = []

    def add(self, number: int, sessions: int, problem: str) -> None:
        """Report the end of a kick to the core, together with the other kicks of this turn of the loop.

        Args:
            sessions: number of sessions that the kick ended, or counted.
            problem: empty if the kick succeeded.
        """
        self._ends.append(Kicked(number, sessions, problem))
        if len(self._ends) == 1:
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        ends, self._ends = self._ends, []
        self._handle(KicksEnded(ends))
