"""Which buckets this director writes: each has one usual writer in the ring (docs/ring.md, rule 32)."""

from __future__ import annotations

from director.core.director import Director
from director.core.protocol.writers import Writers
from director.stored.pace import Clock
from director.types import MemberId


class UsualWriter:
    def __init__(self, director: Director, clock: Clock, *, shared: bool, deferred_kept: float) -> None:
        """Begin before the buckets are shared out.

        Args:
            director: knows the ring.
            clock: the time.
            shared: other directors write to this store too.
            deferred_kept: seconds for which a bucket that was left to its usual writer is remembered.
        """
        self.ring: tuple[MemberId, ...] = ()
        """The members among whom the buckets are shared out."""
        self.partial = False
        self._director, self._clock, self._shared = director, clock, shared
        self._deferred_kept = deferred_kept
        self._writers = Writers()
        self._deferred: dict[int, float] = {}
        """Buckets changed here that are another director's to write, and when: this director writes them if
        the other one turns out to be partitioned off."""

    def has_changed(self) -> bool:
        """Whether the ring is another one than when the buckets were shared out."""
        return self.ring != self._director.barrier.ring or self.partial != self._director.partial

    def take_ring(self) -> None:
        """Share the buckets out among those who are in the ring now."""
        self.ring, self.partial = self._director.barrier.ring, self._director.partial

    def is_ours(self, bucket: int) -> bool:
        """By rendezvous hashing over the members of the ring; in a partial ring each director writes all."""
        if not self._shared or self.partial or len(self.ring) < 2:
            return True
        return self._writers.of(bucket, self.ring) == self._director.me

    def defer(self, bucket: int) -> None:
        """A bucket has changed here that is another's to write."""
        self._deferred[bucket] = self._clock.mono

    def recently_deferred(self) -> list[int]:
        since = self._clock.mono - self._deferred_kept
        return [bucket for bucket, at in self._deferred.items() if at > since]

    def forget_deferred(self) -> None:
        self._deferred.clear()
