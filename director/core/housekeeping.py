"""What walks all buckets, a few in each turn of the loop: dropping users who are gone.

Users of a removed host are not dropped sooner: their records say when they were placed, and without them an
older record could come back from somebody who was away.
"""

from __future__ import annotations

from director.core.names import NameTable
from director.core.users import BUCKETS, UserTable
from director.types import Now, UserKey

SWEEP_SECONDS = 60
"""In this time every bucket is looked through for users who are gone once."""
SWEEP_EVERY = 1.0
DROPPED = 200
"""Users after which no more buckets are looked through in one turn of the loop."""


class Housekeeping:
    def __init__(self, users: UserTable, names: NameTable) -> None:
        self._users, self._names = users, names
        self._bucket = self._due = 0
        """The next bucket, and how many are to be looked through now."""
        self._sweep_at: float | None = None

    def start(self, now: Now) -> None:
        self._sweep_at = now.mono + SWEEP_EVERY

    def wait(self, until: float) -> None:
        """Drop nobody before this monotonic time, once started."""
        if self._sweep_at is not None:
            self._sweep_at = max(self._sweep_at, until)

    def next_deadline(self) -> float | None:
        return self._sweep_at

    def turn(self, now: Now) -> None:
        """One turn's share."""
        if self._sweep_at is not None and now.mono >= self._sweep_at:
            self._sweep_at = now.mono + SWEEP_EVERY
            self._due = -(-BUCKETS // SWEEP_SECONDS)
        dropped = 0
        while self._due and dropped < DROPPED:
            dropped += self._sweep(self._bucket, int(now.unix))
            self._bucket = (self._bucket + 1) % BUCKETS
            self._due -= 1

    @property
    def has_work(self) -> bool:
        """Whether some of what is due is left for the next turn."""
        return self._due > 0

    def _sweep(self, number: int, unix: int) -> int:
        """How many users were dropped."""
        dropped = self._users.sweep(number, unix)
        if dropped:
            self._names.sweep(number, lambda key: self._users.get(UserKey(key)) is not None)
        return dropped
