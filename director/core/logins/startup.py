"""The store being read, bucket by bucket, while logins are answered already (docs/state.md, "What a start
finds").

Whoever is in memory is answered. A user who is not may be in the store: his login waits until his bucket has
been read, which is asked for at once. What compares or walks through all users waits until all has been read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from director.core.logins.pending import Pending
from director.core.placement.assign import Assigner
from director.core.placement.users import BUCKET_SHIFT, BUCKETS
from director.core.protocol.effects import Effect, ReadBuckets
from director.types import UserKey


class Startup:
    def __init__(self, assigner: Assigner, pending: Pending) -> None:
        self._assigner, self._pending = assigner, pending
        self._waiting: dict[int, list[UserKey]] = {}
        """Users whose logins wait, by bucket; each bucket has been asked for."""

    @property
    def under_way(self) -> bool:
        return self._assigner.unread > 0

    def begin(self) -> None:
        """The store is going to be read: nothing of it is in memory yet."""
        self._assigner.await_store(range(BUCKETS))

    def want(self, keys: Iterable[UserKey]) -> list[Effect]:
        """Logins of these users wait for their buckets."""
        asked = []
        for key in keys:
            bucket = key >> BUCKET_SHIFT
            if bucket not in self._waiting:
                asked.append(bucket)
            self._waiting.setdefault(bucket, []).append(key)
        return [ReadBuckets(tuple(asked))] if asked else []

    def have_read(self, buckets: Sequence[int] | None) -> None:
        """What the store knows of these buckets (None: of all, or it will not say) is in memory."""
        if buckets is None:
            buckets = range(BUCKETS)
        self._assigner.have_read(buckets)
        for bucket in self._waiting.keys() & set(buckets):
            self._pending.wake_users(self._waiting.pop(bucket))
