"""Who waits for buckets of users to be stored: moves, which begin with a record in the store."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class _Question(msgspec.Struct):
    count: int
    """How many had been asked, this one included."""
    buckets: set[int]
    """Those that are not stored yet."""


class Questions:
    """The open ones. A bucket that was made ready for writing before one was asked does not answer it."""

    def __init__(self) -> None:
        self.count = 0
        """How many have been asked; whoever makes a bucket ready keeps it for `stored`."""
        self._open: dict[int, _Question] = {}

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, number: int, buckets: Iterable[int]) -> None:
        """Question `number`: are these buckets, as they are now, in the store?"""
        self.count += 1
        self._open[number] = _Question(self.count, set(buckets))

    def stored(self, bucket: int, count: int) -> None:
        """A bucket is in the store as it was when `count` questions had been asked."""
        for question in self._open.values():
            if question.count <= count:
                question.buckets.discard(bucket)

    def take_answered(self) -> list[int]:
        """The questions whose answer is yes; each is given once."""
        answered = [number for number, question in self._open.items() if not question.buckets]
        for number in answered:
            del self._open[number]
        return answered

    def drop(self) -> None:
        """The store is away: whoever asked waits only so long."""
        self._open.clear()
