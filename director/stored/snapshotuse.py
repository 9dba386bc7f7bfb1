"""Use of the snapshot beside a shared store: when it is read.

All of it is read if the store is unreachable or empty at the start. Parts of it are read if something in
the store is damaged or missing. It is never read once memory has more.
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
            has_loaded: returns whether everything in the store has been read.
            exists: whether there is a snapshot.
        """
        self.exists = exists
        self._url, self._has_loaded = url, has_loaded
        self._was_loaded = False
        """Whether the snapshot, as far as it can be read, is in memory."""

    def load(self, reason: str) -> Procedure[bool]:
        """Merge the snapshot into memory. Returns whether there was anything in it."""
        if not self.exists:
            return False
        self._was_loaded = True
        found: bool = yield LoadSnapshot(reason)
        return found

    def fill(self, space: Space, numbers: Sequence[int]) -> Procedure[None]:
        """Fill damaged buckets of the store from the snapshot, at the start."""
        if self.exists and not (self._has_loaded() or self._was_loaded):
            yield FillFromSnapshot(space, numbers)

    def copies(self, name: str) -> Procedure[Sequence[Copy]]:
        """Return copies of a document that is damaged or missing in the store."""
        found = yield from own_copy(self._url, name)
        if self.exists and not self._was_loaded:
            found += yield ReadSnapshotCopies(name)
        return found
