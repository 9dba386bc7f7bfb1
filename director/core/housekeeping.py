"""What walks all buckets, a few in each turn of the loop: dropping users who are gone, and those of
removed hosts."""

from __future__ import annotations

from collections import deque

import msgspec

from director.core.names import NameTable
from director.core.users import BUCKETS, UserTable
from director.types import HostId, Now, UserKey

SWEEP_SECONDS = 60
"""In this time every bucket is looked through for users who are gone once."""
SWEEP_EVERY = 1.0
MOMENT = 2
"""Seconds that clocks may differ by (`max_clock_skew`)."""
SLICE = 128
"""Buckets of one turn where all are walked."""


class _Removal(msgspec.Struct):
    """Dropping the users of a removed host."""

    host: HostId
    before: int
    bucket: int = 0


class Housekeeping:
    def __init__(self, users: UserTable, names: NameTable) -> None:
        self._users, self._names = users, names
        self._bucket = 0
        self._sweep_at: float | None = None
        self._removals: deque[_Removal] = deque()

    def start(self, now: Now) -> None:
        self._sweep_at = now.mono + SWEEP_EVERY

    def forget_host(self, host: HostId, removed_at: int, now: Now) -> None:
        """Drop the users of a host that was removed at this stamp, from the next turn on.

        Who was put there in the last moment is kept, and not answered from: his next choice must get a later
        stamp than that one, on whatever director, or the two would be merged by their hosts."""
        before = min(removed_at, int(now.unix)) - MOMENT
        self._removals.append(_Removal(host, max(0, before)))

    @property
    def has_work(self) -> bool:
        return bool(self._removals)

    def next_deadline(self) -> float | None:
        return self._sweep_at

    def turn(self, now: Now) -> None:
        """One turn's share."""
        if self._sweep_at is not None and now.mono >= self._sweep_at:
            self._sweep_at = now.mono + SWEEP_EVERY
            for _ in range(-(-BUCKETS // SWEEP_SECONDS)):
                self._sweep(self._bucket, int(now.unix))
                self._bucket = (self._bucket + 1) % BUCKETS
        if self._removals:
            job = self._removals[0]
            for number in range(job.bucket, job.bucket + SLICE):
                self._users.forget_host(number, job.host, job.before)
            job.bucket += SLICE
            if job.bucket >= BUCKETS:
                self._removals.popleft()

    def _sweep(self, number: int, unix: int) -> None:
        if self._users.sweep(number, unix):
            self._names.sweep(number, lambda key: self._users.get(UserKey(key)) is not None)
