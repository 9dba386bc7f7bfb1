"""Questions whether buckets of users are stored.

Moves ask them, because a move begins with a record in the store.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class _Question(msgspec.Struct):
    count: int
    """How many had been asked, including this one."""
    buckets: set[int]
    """Buckets that are not stored yet."""


class Questions:
    """The questions whether buckets are stored that are not answered yet.

    A bucket that was prepared for writing before a question was asked does not answer it.
    """

    def __init__(self) -> None:
        self.count = 0
        """How many questions were asked. It is noted when a bucket is prepared, for `stored`."""
        self._open: dict[int, _Question] = {}

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, number: int, buckets: Iterable[int]) -> None:
        """Ask whether these buckets, as they are now, are stored.

        Args:
            number: of the question.
            buckets: their numbers.
        """
        self.count += 1
        self._open[number] = _Question(self.count, set(buckets))

    def stored(self, bucket: int, count: int) -> None:
        """Note that a bucket is stored as it was when `count` questions had been asked."""
        for question in self._open.values():
            if question.count <= count:
                question.buckets.discard(bucket)

    def take_answered(self) -> list[int]:
        """Return the questions that were answered since the last call."""
        answered = [number for number, question in self._open.items() if not question.buckets]
        for number in answered:
            del self._open[number]
        return answered

    def drop(self) -> None:
        """Drop all questions: the store is unreachable. Each asking part has a time-out."""
        self._open.clear()
