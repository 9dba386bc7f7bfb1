"""Housekeeping: walks through all buckets, a few buckets in each turn of the loop.

One walk drops records that have long expired. While the table is full, a second walk drops records of users
with a single login. After a change of hosts, a third walk confirms the records of users whose hash now
selects another host (docs/ring.md, rule 49).

Users of a removed host are not dropped sooner. Their records say when they were assigned; without these
records, older records from a director that was unreachable would count again.
"""

from __future__ import annotations

from director.core.placement.assign import NO_LIMIT, Assigner
from director.core.placement.names import NameTable
from director.core.placement.users import BUCKETS
from director.core.protocol.counters import Counters
from director.core.protocol.effects import Effect, Level, LogEvent
from director.types import Now

SWEEP_SECONDS = 60
"""Seconds in which the walk for long expired records visits every bucket once."""
SWEEP_EVERY = 1.0
DROPPED = 200
"""Records dropped after which this walk visits no more buckets in the turn of the loop."""
RECORDS = 25_000
"""Records that the other walks look at in one turn of the loop: 1 to 3 ms with their names."""
DROP_EVERY = 10.0
"""Seconds between two walks through a full table."""
DROP_PAUSE = 0.02
"""Seconds between two turns of such a walk."""
ROOM = 10
"""A walk ends when one part in ROOM of the limit is free."""
LOG_EVERY = 60.0
"""Seconds between two log lines about users without records."""


class Housekeeping:
    def __init__(self, assigner: Assigner, names: NameTable, counters: Counters) -> None:
        self._assigner, self._users, self._names = assigner, assigner.users, names
        self._counters = counters
        self._bucket = self._due = 0
        """The next bucket, and how many buckets are to be visited now."""
        self._early_bucket = 0
        self._to_visit = 0
        """Buckets that the walk for records to drop early still has to visit."""
        self._digest = b""
        self._unconfirmed = 0
        """Buckets, at the end, that were not visited since the hosts changed."""
        self._sweep_at: float | None = None
        self._drop_at: float | None = None
        self._log_at = 0.0
        self._logged = 0

    def start(self, now: Now) -> None:
        self._sweep_at = self._drop_at = now.mono + SWEEP_EVERY

    def wait(self, until: float) -> None:
        """Drop no records before this monotonic time, if the walks have started."""
        if self._sweep_at is not None:
            self._sweep_at = max(self._sweep_at, until)

    def next_deadline(self) -> float | None:
        if self._sweep_at is None or self._drop_at is None:
            return None
        return min(self._sweep_at, self._drop_at) if self._to_visit else self._sweep_at

    @property
    def has_work(self) -> bool:
        """Whether work that is due is left for the next turn of the loop."""
        return self._due > 0 or self._unconfirmed > 0

    def is_behind(self, digest: bytes) -> bool:
        """Whether the tables that assignments depend on have changed since the last turn."""
        return digest != self._digest

    def turn(self, now: Now, digest: bytes) -> list[Effect]:
        """Do one turn's share.

        Args:
            digest: of the tables that assignments depend on.
        """
        effects: list[Effect] = []
        if digest != self._digest:
            self._digest, self._unconfirmed = digest, BUCKETS
        if self._unconfirmed:
            first, count = BUCKETS - self._unconfirmed, min(self._slice(), self._unconfirmed)
            self._users.confirm(first, first + count)
            self._unconfirmed -= count
        if self._sweep_at is not None and now.mono >= self._sweep_at:
            self._sweep_at = now.mono + SWEEP_EVERY
            self._due = -(-BUCKETS // SWEEP_SECONDS)
            effects = self._report(now)
        dropped = 0
        while self._due and dropped < DROPPED:
            dropped += self._sweep(self._bucket, int(now.unix))
            self._bucket = (self._bucket + 1) % BUCKETS
            self._due -= 1
        if self._drop_at is not None and now.mono >= self._drop_at:
            self._drop_early(now)
        return effects

    def _drop_early(self, now: Now) -> None:
        """Continue a walk that drops records early, or begin one if the table is full."""
        limit = self._assigner.limit
        if not self._to_visit and len(self._users) >= limit:
            self._to_visit = BUCKETS
        for _ in range(min(self._slice(), self._to_visit)):
            if dropped := self._users.shed(self._early_bucket, int(now.unix)):
                self._counters.dropped_early += dropped
                self._sweep_names(self._early_bucket)
            self._early_bucket = (self._early_bucket + 1) % BUCKETS
            self._to_visit -= 1
            if len(self._users) <= limit - limit // ROOM:
                self._to_visit = 0
                break
        self._drop_at = now.mono + (DROP_PAUSE if self._to_visit else DROP_EVERY)

    def _slice(self) -> int:
        """Return how many buckets have about RECORDS records."""
        return max(1, RECORDS * BUCKETS // max(1, len(self._users)))

    def _sweep(self, number: int, unix: int) -> int:
        """Drop the records of a bucket that have long expired. Returns how many were dropped."""
        dropped = self._users.sweep(number, unix)
        if dropped:
            self._sweep_names(number)
        return dropped

    def _sweep_names(self, number: int) -> None:
        self._names.sweep(number, self._users.bucket(number))

    def _report(self, now: Now) -> list[Effect]:
        """Log that users got no records, at most once a minute."""
        number = self._assigner.not_remembered - self._logged
        if not number or now.mono < self._log_at or self._assigner.limit == NO_LIMIT:
            return []
        self._log_at, self._logged = now.mono + LOG_EVERY, self._assigner.not_remembered
        fields: dict[str, object] = {
            "users": len(self._users),
            "limit": self._assigner.limit,
            "not_remembered": number,
            "note": "new users get the host that the hash selects, and no record; check"
            " which users log in, or raise users.max on every director",
        }
        return [LogEvent(Level.WARNING, "users_limit_reached", fields)]
