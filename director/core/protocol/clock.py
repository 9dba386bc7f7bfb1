"""The clock of this machine: which times records can hold, and whether the clock has stepped.

Records hold Unix seconds in 32 bits, up to 2106-02-07 06:28:15 UTC. A later clock counts as that second. Then
assignments no longer expire, and of two decisions the lower host wins, but the director continues.
"""

from __future__ import annotations

from datetime import UTC, datetime

from director.core.placement.users import LATEST
from director.types import Now

STEP = 1.0
"""Seconds by which the clocks may diverge between two events. A clock that is adjusted slowly diverges
less."""
FIRST_SANE = 1_577_836_800
"""2020-01-01. A clock with an earlier time was never set."""
LAST_SANE = LATEST - 366 * 86_400
"""A year before the last second that records can hold."""


def within_records(unix: float) -> float:
    """Return the nearest time that records can hold."""
    return min(max(unix, 0.0), float(LATEST))


def doubt(unix: float) -> str:
    """Return what is wrong with a clock that gives this time; empty: nothing."""
    if FIRST_SANE <= unix < LAST_SANE:
        return ""
    time = datetime.fromtimestamp(max(0.0, min(unix, 2e11)), UTC).strftime("%Y-%m-%d %H:%M:%S")
    first, last = (datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d") for at in (FIRST_SANE, LATEST))
    return (
        f"the clock of this machine says {time} UTC; records hold times from {first} to {last}: set it (NTP)"
    )


def cannot_start(unix: float) -> bool:
    """Whether the time is too late for records, so that the director cannot start."""
    return unix >= LATEST


class ClockWatch:
    def __init__(self) -> None:
        self.stepped_at = float("-inf")
        """Monotonic time at which the clock last stepped."""
        self._apart: float | None = None

    def step(self, now: Now) -> float:
        """Return the seconds by which the clock has stepped since the last event; 0: it has not."""
        apart, before = now.unix - now.mono, self._apart
        self._apart = apart
        if before is None or abs(apart - before) < STEP:
            return 0.0
        self.stepped_at = now.mono
        return apart - before
