"""What is said of one source once a minute at most, however often it happens."""

from __future__ import annotations

from director.types import Now

LOGGED_EVERY = 60.0
"""Seconds from one line of the log about a source to the next."""


class LogLimit:
    def __init__(self) -> None:
        self._logged: dict[str, tuple[float, int]] = {}
        """By source: when the log named it, and how many were left out since."""

    def left_out(self, source: str, number: int, now: Now) -> int | None:
        """How many the log has left out so far, if it is time for a line; None: `number` is left out too."""
        at, left_out = self._logged.get(source, (float("-inf"), 0))
        if now.mono < at + LOGGED_EVERY:
            self._logged[source] = at, left_out + number
            return None
        self._logged[source] = now.mono, 0
        return left_out
