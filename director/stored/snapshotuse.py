"""When the snapshot beside a shared store is believed: as a whole where the store cannot be read at the
start or is empty, in parts where something in the store is damaged or missing. Never once memory holds more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from director.stored.damage import own_copy
from director.stored.storecalls import (
    Copy,
    FillFromSnapshot,
    LoadSnapshot,
    Procedure,
    ReadSnapshotCopies,
)
from state.base import Space


class SnapshotUse:
    def __init__(self, url: str, has_loaded: Callable[[], bool], *, exists: bool) -> None:
        """Begin before anything is read.

        Args:
            url: of the store.
            has_loaded: whether all that the store held has been read.
            exists: whether there is a snapshot.
        """
        self.exists = exists
        self._url, self._has_loaded = url, has_loaded
        self._was_loaded = False
        """Whether what it held, if it could be read, is in memory."""

    def load(self, reason: str) -> Procedure[bool]:
        """Merge all of it. Whether there was anything."""
        if not self.exists:
            return False
        self._was_loaded = True
        found: bool = yield LoadSnapshot(reason)
        return found

    def fill(self, space: Space, numbers: Sequence[int]) -> Procedure[None]:
        """Buckets of the store are damaged: at the start, the snapshot may know what was in them."""
        if self.exists and not (self._has_loaded() or self._was_loaded):
            yield FillFromSnapshot(space, numbers)

    def copies(self, name: str) -> Procedure[Sequence[Copy]]:
        """Where a document may be whole that is damaged or missing in the store."""
        found = yield from own_copy(self._url, name)
        if self.exists and not self._was_loaded:
            found += yield ReadSnapshotCopies(name)
        return found
