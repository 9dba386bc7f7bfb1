"""The pace of writes to the store, and of attempts to reach it again."""

from __future__ import annotations

from collections.abc import Callable

from director.types import Now

FLUSH_AFTER = 0.2
"""Seconds from the first change until it is written."""
FLUSH_WITHIN = 1.0
"""Seconds from a change until the store has it, as long as a write takes less than half of that."""
REST_TIMES = 9
"""A write may take a tenth of the time: the pause after it is this many times as long …"""
REST_LEAST = 0.5
"""… or, if that would be too late, this part of its length."""
RETRY_FIRST, RETRY_LONGEST = 0.2, 2.0
"""First and longest pause, in seconds, between two attempts to reach the store."""
TURN_BYTES = 100_000
"""Bytes that are merged in one turn of the loop: about 4,500 users."""
PREPARED_BYTES = 50_000
"""Bytes that are prepared for writing in one turn of the loop: less than 5 ms without compiled code."""
BUCKET_BYTES = 200
"""Bytes that a bucket counts in addition to its content."""


class Clock:
    """The time of the event that is being handled."""

    def __init__(self) -> None:
        self.now = Now(0.0, 0.0)

    @property
    def mono(self) -> float:
        return self.now.mono


def rest_after(took: float) -> float:
    """Return the pause after a write, so that writes leave time for logins.

    A change that comes as a write begins waits for the end of the write, for this pause, and for the next
    write.

    Args:
        took: seconds of the write.

    Returns:
        Seconds.
    """
    in_time = FLUSH_WITHIN - 2 * took
    return max(FLUSH_AFTER, REST_LEAST * took, min(REST_TIMES * took, in_time))


class BackOff:
    """The back-off between attempts to reach the store: each pause is about twice as long as the one
    before."""

    def __init__(self, uniform: Callable[[float, float], float]) -> None:
        """Begin with the shortest pause.

        Args:
            uniform: returns a random number between two others.
        """
        self._uniform = uniform
        self._pause = RETRY_FIRST

    def succeeded(self) -> None:
        self._pause = RETRY_FIRST

    def pause(self) -> float:
        """Return the seconds until the next attempt, after a failed one."""
        seconds = self._pause * self._uniform(0.8, 1.2)
        self._pause = min(2 * self._pause, RETRY_LONGEST)
        return seconds


class Age:
    """How long changes have waited to be written.

    The oldest change counts until a pass has written everything.
    """

    def __init__(self) -> None:
        self._changed: float | None = None
        """Monotonic time of the oldest change that no pass has begun to write."""
        self._queued: float | None = None
        """Monotonic time of the oldest change that the last pass had to write."""

    def changed(self, now: float) -> None:
        if self._changed is None:
            self._changed = now

    @property
    def has_changed(self) -> bool:
        """Whether something has changed since the last pass began."""
        return self._changed is not None

    def collected(self) -> None:
        """Begin a pass: it writes everything that has changed so far."""
        if self._queued is None:
            self._queued = self._changed
        self._changed = None

    def written(self, *, everything: bool) -> None:
        """End a pass: everything that had changed when it began is written.

        Args:
            everything: whether it has written everything that it had to write.
        """
        if everything:
            self._queued = None

    def seconds(self, now: float) -> float:
        oldest = self._changed if self._queued is None else self._queued
        return 0.0 if oldest is None else now - oldest


class Portion:
    """Counts work, and tells when a turn of the loop has done its share."""

    def __init__(self) -> None:
        self._size = 0

    def is_full(self, size: int) -> bool:
        """Whether a pause is due after another bucket of this many bytes. If so, the count begins again."""
        self._size += BUCKET_BYTES + size
        if self._size < PREPARED_BYTES:
            return False
        self._size = 0
        return True
