"""Which buckets this director writes: each has one usual writer in the ring (ring-rules 30)."""

from __future__ import annotations

import time

from director.core.director import Director
from director.core.protocol.writers import Writers
from director.types import MemberId


class Share:
    def __init__(self, director: Director, *, shared: bool, left_kept: float) -> None:
        """shared: others write to this store too. left_kept: seconds for which a bucket left to its usual
        writer is remembered."""
        self.ring: tuple[MemberId, ...] = ()
        """The members among whom the buckets are shared out."""
        self.partial = False
        self._director, self._shared, self._left_kept = director, shared, left_kept
        self._writers = Writers()
        self._left: dict[int, float] = {}
        """Buckets changed here and left to their usual writer, and when: ours if he turns out cut off."""

    def has_changed(self) -> bool:
        """Whether the ring is another one than when the buckets were shared out."""
        return self.ring != self._director.barrier.ring or self.partial != self._director.partial

    def take_ring(self) -> None:
        """Share the buckets out among those who are in the ring now."""
        self.ring, self.partial = self._director.barrier.ring, self._director.partial

    def is_ours(self, bucket: int) -> bool:
        """By rendezvous hashing over the members of the ring; in a partial one everybody is his own."""
        if not self._shared or self.partial or len(self.ring) < 2:
            return True
        return self._writers.of(bucket, self.ring) == self._director.me

    def leave(self, bucket: int) -> None:
        """A bucket has changed here that is another's to write."""
        self._left[bucket] = time.monotonic()

    def lately_left(self) -> list[int]:
        since = time.monotonic() - self._left_kept
        return [bucket for bucket, at in self._left.items() if at > since]

    def forget_left(self) -> None:
        self._left.clear()
