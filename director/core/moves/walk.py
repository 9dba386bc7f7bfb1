"""Walks through a table that may change meanwhile, some entries in each turn of the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key")


class Walk(Generic[Key]):
    """A walk through all keys that a mapping has when the walk begins, except keys that were
    deleted before their turn comes."""

    def __init__(self, table: Mapping[Key, object]) -> None:
        self._table = table
        self._keys: Sequence[Key] = ()
        self._at = 0
        self._once_more = False

    @property
    def under_way(self) -> bool:
        return self._at < len(self._keys) or self._once_more

    def begin(self) -> None:
        """Walk through all keys; if a walk is under way, do so once more after it."""
        if self._at < len(self._keys):
            self._once_more = True
        else:
            self._start()

    def some(self, most: int) -> list[Key]:
        """Return the next keys, at most `most`, all of one walk."""
        if self._at >= len(self._keys) and self._once_more:
            self._start()
        keys = [key for key in self._keys[self._at : self._at + most] if key in self._table]
        self._at += most
        if self._at >= len(self._keys):
            self._keys, self._at = (), 0
        return keys

    def _start(self) -> None:
        self._keys, self._at, self._once_more = list(self._table), 0, False
