"""The lease of this director in the shared store: whether others may have taken us for dead."""

from __future__ import annotations

import time

RENEWALS = 3
"""Times a lease is renewed before it would lapse."""


class OwnLease:
    """It has lapsed if the store says so with a renewal, or if none has succeeded for too long by our clock:
    then it may be that nobody has asked the store yet, as after a freeze."""

    def __init__(self, ttl: float) -> None:
        """ttl: seconds that a renewal is good for."""
        self.ttl = ttl
        self._begun = float("-inf")
        self._lapsed = True

    def renewed(self, begun: float, *, in_time: bool) -> None:
        """A renewal that began then (monotonic) was confirmed; in_time: there was a lease until then."""
        self._lapsed = self.has_lapsed or not in_time
        self._begun = begun

    def caught_up(self) -> None:
        """What others did while there was no lease has been read."""
        self._lapsed = False

    @property
    def has_lapsed(self) -> bool:
        return self._lapsed or not self.remaining

    @property
    def pause(self) -> float:
        """Seconds until it is to be renewed."""
        return max(0.0, self._begun + self.ttl / RENEWALS - time.monotonic())

    @property
    def remaining(self) -> float:
        """Seconds in which it does not lapse; 0 where it may have lapsed."""
        return max(0.0, self._begun + self.ttl - time.monotonic())
