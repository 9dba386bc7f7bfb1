"""The lease of this director in the shared store, as far as its own clock tells."""

from __future__ import annotations

import time

RENEWALS = 3
"""Times a lease is renewed before it would lapse."""


class OwnLease:
    """Until when it has surely not lapsed. The store's word counts more: see `StateStore.renew`."""

    def __init__(self, ttl: float) -> None:
        """ttl: seconds that a renewal is good for."""
        self.ttl = ttl
        self._begun = float("-inf")

    def renewed(self, begun: float) -> None:
        """A renewal that began then (monotonic) was confirmed: the store counts from no earlier."""
        self._begun = begun

    @property
    def pause(self) -> float:
        """Seconds until it is to be renewed."""
        return max(0.0, self._begun + self.ttl / RENEWALS - time.monotonic())

    @property
    def remaining(self) -> float:
        """Seconds in which it does not lapse; 0 where it may have lapsed."""
        return max(0.0, self._begun + self.ttl - time.monotonic())
