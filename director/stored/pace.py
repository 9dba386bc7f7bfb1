"""How fast the store is written, and how soon it is tried again."""

from __future__ import annotations

from collections.abc import Callable

from director.types import Now

FLUSH_AFTER = 0.2
"""Seconds from the first change to its writing."""
FLUSH_WITHIN = 1.0
"""Seconds from a change to its end in the store, as long as a write takes less than half of it."""
REST_TIMES = 9
"""Writing may take a tenth of the time: it is followed by a pause this many times as long..."""
REST_LEAST = 0.5
"""...or, where that would be too late, by one of this part of its length."""
RETRY_FIRST, RETRY_LONGEST = 0.2, 2.0
"""Seconds between two attempts to reach the store."""
TURN_BYTES = 100_000
"""About what is merged in one turn of the loop: some 4,500 users."""
PREPARED_BYTES = 50_000
"""About what is made ready for writing in one turn of the loop: less than 5 ms without compiled code."""
BUCKET_BYTES = 200
"""What a bucket counts beside its content."""


class Clock:
    """The time of the event in hand."""

    def __init__(self) -> None:
        self.now = Now(0.0, 0.0)

    @property
    def mono(self) -> float:
        return self.now.mono


def rest_after(took: float) -> float:
    """Seconds of rest after a write that took so many, so that writing leaves time to logins.

    What changes as a write begins waits for its end, this rest, and the next write.
    """
    in_time = FLUSH_WITHIN - 2 * took
    return max(FLUSH_AFTER, REST_LEAST * took, min(REST_TIMES * took, in_time))


class BackOff:
    """Pauses between attempts to reach the store, each about twice as long as the one before."""

    def __init__(self, uniform: Callable[[float, float], float]) -> None:
        """uniform: draws a number between two others."""
        self._uniform = uniform
        self._pause = RETRY_FIRST

    def succeeded(self) -> None:
        self._pause = RETRY_FIRST

    def pause(self) -> float:
        """Seconds until the next attempt, after one that failed."""
        seconds = self._pause * self._uniform(0.8, 1.2)
        self._pause = min(2 * self._pause, RETRY_LONGEST)
        return seconds


class Age:
    """Since when something waits to be written. Its oldest part counts, until a pass has written all."""

    def __init__(self) -> None:
        self._changed: float | None = None
        """Of what no pass has begun to write."""
        self._queued: float | None = None
        """Of what the last pass was to write."""

    def changed(self, now: float) -> None:
        if self._changed is None:
            self._changed = now

    @property
    def has_changed(self) -> bool:
        """Whether something has changed since the last pass began."""
        return self._changed is not None

    def collected(self) -> None:
        """A pass begins: it writes all that has changed so far."""
        if self._queued is None:
            self._queued = self._changed
        self._changed = None

    def written(self, *, everything: bool) -> None:
        """The pass has ended. everything: nothing is left of what it was to write."""
        if everything:
            self._queued = None

    def seconds(self, now: float) -> float:
        oldest = self._changed if self._queued is None else self._queued
        return 0.0 if oldest is None else now - oldest


class Portion:
    """Counts work, and says when a turn of the loop has had its share."""

    def __init__(self) -> None:
        self._size = 0

    def is_full(self, size: int) -> bool:
        """Whether with another bucket of so many bytes it is time for a pause; then it begins anew."""
        self._size += BUCKET_BYTES + size
        if self._size < PREPARED_BYTES:
            return False
        self._size = 0
        return True
