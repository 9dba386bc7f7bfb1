"""Watches the event loop: after a stall or suspension the core is told before it answers a login."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

from director.core.interruptions import STALLED
from director.core.placement.assign import Assigner
from director.core.placement.users import LATEST
from director.core.protocol.events import Event, ProcessStalled

EVERY = 0.25
"""Seconds between two checks of the clock."""


class LoopWatch:
    def __init__(self, assigner: Assigner, handle: Callable[[Event], None]) -> None:
        """
        Args:
            assigner: its clock is set here.
            handle: called with `ProcessStalled`.
        """
        self._assigner, self._handle = assigner, handle
        self._beat = time.monotonic()
        """Monotonic seconds of the last check."""
        self._lag = 0.0

    async def run(self) -> None:
        """Check the clock every `EVERY` seconds until cancelled."""
        self._beat = time.monotonic()
        while True:
            await anyio.sleep(EVERY)
            self.check()

    def check(self) -> None:
        """Measure the delay of the loop, and tell the core if the process was stalled."""
        now = time.monotonic()
        gap, self._beat = now - self._beat - EVERY, now
        self._lag = max(self._lag, gap)
        if gap > STALLED:
            self._handle(ProcessStalled(gap))

    def be_in_time(self) -> None:
        """Check for a stall and set the assigner's clock. Called before a host is assigned."""
        if time.monotonic() - self._beat > EVERY + STALLED:
            self.check()  # a login came first after the stall: the assignments in memory may be outdated
        unix = int(time.time())
        self._assigner.unix = unix if unix < LATEST else LATEST

    def take_lag(self) -> float:
        """Return the longest delay in seconds since the last call."""
        lag, self._lag = self._lag, 0.0
        return lag
