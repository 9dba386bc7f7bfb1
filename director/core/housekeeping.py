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


class Housekeeping:
    def __init__(self, users: UserTable, names: NameTable) -> None:
        self._users, self._names = users, names
        self._bucket = 0
        self._sweep_at: float | None = None

    def start(self, now: Now) -> None:
        self._sweep_at = now.mono + SWEEP_EVERY

    def next_deadline(self) -> float | None:
        return self._sweep_at

    def turn(self, now: Now) -> None:
        """One turn's share."""
        if self._sweep_at is not None and now.mono >= self._sweep_at:
            self._sweep_at = now.mono + SWEEP_EVERY
            for _ in range(-(-BUCKETS // SWEEP_SECONDS)):
                self._sweep(self._bucket, int(now.unix))
                self._bucket = (self._bucket + 1) % BUCKETS

    def _sweep(self, number: int, unix: int) -> None:
        if self._users.sweep(number, unix):
            self._names.sweep(number, lambda key: self._users.get(UserKey(key)) is not None)
