"""Logins that wait: for the ring, for a usable host, for the first exchange. Each has its own 30 seconds
(the original's timer made later ones wait up to 60, defect I-16)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from director.core.assign import Wait
from director.types import RequestId, UserKey

PENDING_TIMEOUT = 30.0
"""Seconds a login may wait before it gets a temporary failure."""
WAITING_LIMIT = 100_000
"""Logins that may wait, in all; 600 bytes each, and their lines (`service.heldlogins`)."""


class Waiting(msgspec.Struct, gc=False):
    request: RequestId
    key: UserKey
    tag: bytes
    since: float
    wait: Wait


class Pending:
    """In order of arrival. Those who are woken are looked at again in slices, in the order in which they
    were woken:
    a wake that comes meanwhile puts nobody back."""

    def __init__(self) -> None:
        self._waiting: dict[RequestId, Waiting] = {}
        self._by_key: dict[UserKey, dict[RequestId, None]] = {}
        self._again: dict[RequestId, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: RequestId, key: UserKey, tag: bytes, now: float, wait: Wait) -> None:
        self._waiting[request] = Waiting(request, key, tag, now, wait)
        self._by_key.setdefault(key, {})[request] = None

    def remove(self, request: RequestId) -> None:
        waiting = self._waiting.pop(request, None)
        self._again.pop(request, None)
        if waiting is not None:
            requests = self._by_key[waiting.key]
            del requests[request]
            if not requests:
                del self._by_key[waiting.key]

    def drop(self, requests: Iterable[RequestId]) -> None:
        for request in requests:
            self.remove(request)

    def wake(self) -> None:
        """Something has changed: everybody who waits is to be tried again."""
        self._again.update(dict.fromkeys(self._waiting))

    def wake_users(self, keys: Iterable[UserKey]) -> None:
        """Something has changed for these users."""
        for key in keys:
            self._again.update(self._by_key.get(key, {}))

    def calm(self, key: UserKey) -> None:
        """This user's logins have just been tried."""
        for request in self._by_key.get(key, {}):
            self._again.pop(request, None)

    @property
    def full(self) -> bool:
        """Whether no more may wait."""
        return len(self._waiting) >= WAITING_LIMIT

    @property
    def awake(self) -> bool:
        return bool(self._again)

    def to_try(self, limit: int) -> list[Waiting]:
        """The next `limit` of those to be tried again."""
        part = list(islice(self._again, limit))
        for request in part:
            del self._again[request]
        return [self._waiting[request] for request in part]

    def of(self, key: UserKey) -> list[Waiting]:
        """All logins of one user, the oldest first."""
        return [self._waiting[request] for request in self._by_key.get(key, {})]

    def next_deadline(self) -> float | None:
        for waiting in self._waiting.values():
            return waiting.since + PENDING_TIMEOUT
        return None

    def first(self, limit: int) -> list[Waiting]:
        """The oldest of those that wait."""
        return list(islice(self._waiting.values(), limit))

    def overdue(self, now: float, limit: int) -> Iterator[Waiting]:
        """Take out those whose time is over, `limit` at most."""
        for waiting in self.first(limit):
            if waiting.since + PENDING_TIMEOUT > now:
                return
            self.remove(waiting.request)
            yield waiting
