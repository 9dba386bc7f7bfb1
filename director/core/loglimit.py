"""A limit on log lines about one source: one a minute, however often something happens."""

from __future__ import annotations

from director.types import Now

LOGGED_EVERY = 60.0
"""Seconds between two log lines about a source."""


class LogLimit:
    def __init__(self) -> None:
        self._logged: dict[str, tuple[float, int]] = {}
        """For each source, when it was last logged, and how many were left out since."""

    def left_out(self, source: str, number: int, now: Now) -> int | None:
        """Count events about a source, and tell whether to log a line about them now.

        Args:
            source: what it is about.
            number: how often it has happened.

        Returns:
            How many were left out since the last line, if a line is due now; None: `number` is left out too.
        """
        at, left_out = self._logged.get(source, (float("-inf"), 0))
        if now.mono < at + LOGGED_EVERY:
            self._logged[source] = at, left_out + number
            return None
        self._logged[source] = now.mono, 0
        return left_out
