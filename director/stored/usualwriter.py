"""The usual writer: which buckets this director writes.

Each bucket has one usual writer in the ring (docs/ring.md, rule 32).
"""

from __future__ import annotations

from director.core.director import Director
from director.core.protocol.writers import Writers
from director.stored.pace import Clock
from director.types import MemberId


class UsualWriter:
    def __init__(self, director: Director, clock: Clock, *, shared: bool, deferred_kept: float) -> None:
        """Begin before buckets are assigned to writers.

        Args:
            director: knows the ring.
            shared: whether other directors write to this store too.
            deferred_kept: seconds for which a bucket left to its usual writer is remembered.
        """
        self.ring: tuple[MemberId, ...] = ()
        """The directors among which the buckets were divided."""
        self.partial = False
        self._director, self._clock, self._shared = director, clock, shared
        self._deferred_kept = deferred_kept
        self._writers = Writers()
        self._deferred: dict[int, float] = {}
        """Buckets that have changed here but that another director writes, with the monotonic time. This
        director writes them if the other turns out to be partitioned off."""

    def has_changed(self) -> bool:
        """Whether the ring has changed since the buckets were divided."""
        return self.ring != self._director.barrier.ring or self.partial != self._director.partial

    def take_ring(self) -> None:
        """Divide the buckets among the directors of the present ring."""
        self.ring, self.partial = self._director.barrier.ring, self._director.partial

    def is_ours(self, bucket: int) -> bool:
        """Whether this director writes a bucket, by rendezvous hashing over the directors of the ring.

        In an incomplete ring each director writes all buckets.
        """
        if not self._shared or self.partial or len(self.ring) < 2:
            return True
        return self._writers.of(bucket, self.ring) == self._director.me

    def defer(self, bucket: int) -> None:
        """Note that a bucket has changed that another director writes."""
        self._deferred[bucket] = self._clock.mono

    def recently_deferred(self) -> list[int]:
        since = self._clock.mono - self._deferred_kept
        return [bucket for bucket, at in self._deferred.items() if at > since]

    def forget_deferred(self) -> None:
        self._deferred.clear()
