"""The watch over the loop: a process that was suspended, or held up, finds out before it answers anybody."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

from director.core.placement.assign import Assigner
from director.core.placement.users import LATEST
from director.core.protocol.events import Event, Thawed

EVERY = 0.25
"""Seconds between two looks at the clock of the loop."""
FROZEN = 1.0
"""A gap of the loop, in seconds, after which the process counts as frozen (docs/ring.md, rule 28)."""


class LoopWatch:
    def __init__(self, assigner: Assigner, handle: Callable[[Event], None]) -> None:
        """assigner: whose clock it sets. handle: is given `Thawed`."""
        self._assigner, self._handle = assigner, handle
        self._beat = time.monotonic()
        """When the watch last looked at the clock."""
        self._lag = 0.0

    async def run(self) -> None:
        """Look now and then until cancelled."""
        self._beat = time.monotonic()
        while True:
            await anyio.sleep(EVERY)
            self.look()

    def look(self) -> None:
        """Measure how late the loop is, and tell the core where the process was frozen."""
        now = time.monotonic()
        gap, self._beat = now - self._beat - EVERY, now
        self._lag = max(self._lag, gap)
        if gap > FROZEN:
            self._handle(Thawed(gap))

    def be_in_time(self) -> None:
        """Tell the core how late it is, before it is asked for a host."""
        if time.monotonic() - self._beat > EVERY + FROZEN:
            self.look()  # thawed, and this came first: what is in memory must not be trusted yet
        unix = int(time.time())
        self._assigner.unix = unix if unix < LATEST else LATEST

    def take_lag(self) -> float:
        """The longest delay since this was asked last, in seconds."""
        lag, self._lag = self._lag, 0.0
        return lag
