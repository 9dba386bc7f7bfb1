"""The usual writer of each bucket: the one director of the ring that writes it, and takes over what has
stopped in it (docs/ring.md, rules 26, 32)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from director.types import MemberId


class Writers:
    """Rendezvous hashing over the directors of a ring. The results are kept until the ring changes."""

    def __init__(self) -> None:
        self._ring: Sequence[MemberId] = ()
        self._writers: dict[int, MemberId] = {}

    def of(self, bucket: int, ring: Sequence[MemberId]) -> MemberId:
        """Return the usual writer of a bucket.

        Args:
            bucket: number of the bucket.
            ring: the directors of the ring, at least one.
        """
        if ring != self._ring:
            self._ring = ring
            self._writers.clear()
        writer = self._writers.get(bucket)
        if writer is None:
            writer = self._writers[bucket] = max(ring, key=lambda member: _weight(member, bucket))
        return writer


def _weight(member: MemberId, bucket: int) -> bytes:
    return hashlib.md5(f"{member} {bucket}".encode(), usedforsecurity=False).digest()
