"""The start: the store is read bucket by bucket while logins are answered already (docs/state.md, "What a
start finds").

A user whose record is in memory is answered. The record of any other user may still be in the store: the
login waits until the user's bucket has been read, and the bucket is requested at once. Everything that
compares or walks through all users waits until all buckets have been read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from director.core.logins.pending import Pending
from director.core.placement.assign import Assigner
from director.core.placement.users import BUCKET_SHIFT, BUCKETS
from director.core.protocol.effects import Effect, FetchBuckets
from director.types import UserKey


class Startup:
    def __init__(self, assigner: Assigner, pending: Pending) -> None:
        self._assigner, self._pending = assigner, pending
        self._waiting: dict[int, list[UserKey]] = {}
        """Users whose logins wait, by bucket. Each of these buckets has been requested."""

    @property
    def under_way(self) -> bool:
        return self._assigner.unread > 0

    def begin(self) -> None:
        """Mark all buckets as not read: the store is about to be read."""
        self._assigner.await_store(range(BUCKETS))

    def want(self, keys: Iterable[UserKey]) -> list[Effect]:
        """Let these users wait for their buckets.

        Returns:
            The requests for buckets that were not requested before.
        """
        asked = []
        for key in keys:
            bucket = key >> BUCKET_SHIFT
            if bucket not in self._waiting:
                asked.append(bucket)
            self._waiting.setdefault(bucket, []).append(key)
        return [FetchBuckets(tuple(asked))] if asked else []

    def have_read(self, buckets: Sequence[int] | None) -> None:
        """Wake the users of these buckets: the records of the store are in memory.

        Args:
            buckets: the buckets that were read; None: all, or the store will not be read.
        """
        if buckets is None:
            buckets = range(BUCKETS)
        self._assigner.have_read(buckets)
        for bucket in self._waiting.keys() & set(buckets):
            self._pending.wake_users(self._waiting.pop(bucket))
