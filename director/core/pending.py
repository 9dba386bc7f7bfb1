"""Logins that wait: for the ring, for a usable host, for the first exchange. Each has its own 30 seconds
(the original's timer made later ones wait up to 60, defect I-16)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from director.core.assign import Wait
from director.types import RequestId, UserKey

PENDING_TIMEOUT = 30.0
"""Seconds a login may wait before it gets a temporary failure."""


class Waiting(msgspec.Struct):
    request: RequestId
    key: UserKey
    tag: bytes
    since: float
    wait: Wait


class Pending:
    """In order of arrival. A wake looks at all of them again, in slices; those who come meanwhile are not
    held up."""

    def __init__(self) -> None:
        self._waiting: dict[RequestId, Waiting] = {}
        self._again: list[RequestId] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: RequestId, key: UserKey, tag: bytes, now: float, wait: Wait) -> None:
        self._waiting[request] = Waiting(request, key, tag, now, wait)

    def remove(self, request: RequestId) -> None:
        self._waiting.pop(request, None)

    def drop(self, requests: Iterable[RequestId]) -> None:
        for request in requests:
            self._waiting.pop(request, None)

    def wake(self) -> None:
        """Something has changed: everybody who waits is to be tried again."""
        self._again = list(self._waiting)
        self._next = 0

    @property
    def awake(self) -> bool:
        return self._next < len(self._again)

    def to_try(self, limit: int) -> list[Waiting]:
        """The next `limit` of those to be tried again."""
        part = self._again[self._next : self._next + limit]
        self._next += len(part)
        if not self.awake:
            self._again, self._next = [], 0
        return [self._waiting[r] for r in part if r in self._waiting]

    def of(self, key: UserKey) -> list[Waiting]:
        return [w for w in self._waiting.values() if w.key == key]

    def next_deadline(self) -> float | None:
        for waiting in self._waiting.values():
            return waiting.since + PENDING_TIMEOUT
        return None

    def overdue(self, now: float) -> Iterator[Waiting]:
        """Take out those whose time is over."""
        for waiting in list(self._waiting.values()):
            if waiting.since + PENDING_TIMEOUT > now:
                return
            del self._waiting[waiting.request]
            yield waiting
