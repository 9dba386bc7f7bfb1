"""Logins that wait: for the ring, for a usable host, for the first exchange. Each has its own 30 seconds
(the original's timer made later ones wait up to 60, defect I-16)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from director.core.placement.assign import Wait
from director.types import RequestId, UserKey

PENDING_TIMEOUT = 30.0
"""Seconds a login may wait before it gets a temporary failure."""
WAITING_LIMIT = 100_000
"""Logins that may wait, in all; 600 bytes each, and their lines (`service.heldlogins`)."""


class WaitingLogin(msgspec.Struct, gc=False):
    request: RequestId
    key: UserKey
    tag: bytes
    since: float
    wait: Wait
    tried: int = 0
    """The last wake of everybody that it was tried for, or that came before it."""


SHARES = 64
"""Tables that those who wait are in by user: of one alone, a turn of the loop in which it grows would be
long."""


class Pending:
    """In order of arrival. Those who are woken are looked at again in slices, in the order in which they
    were woken: a wake that comes meanwhile puts nobody back."""

    def __init__(self) -> None:
        self._waiting: dict[RequestId, WaitingLogin] = {}
        self._by_key: list[dict[UserKey, dict[RequestId, None]]] = [{} for _ in range(SHARES)]
        self._again: dict[RequestId, None] = {}
        """Those who were woken by what happened to their users."""
        self._wakes = self._walked = 0
        """How often everybody was woken, and for which of these wakes `_walk` was begun."""
        self._walk: deque[WaitingLogin] = deque()
        """Of everybody that was woken, those who are not tried yet; some have gone since."""
        self._reasons: dict[Wait, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: RequestId, key: UserKey, tag: bytes, now: float, wait: Wait) -> None:
        self._waiting[request] = WaitingLogin(request, key, tag, now, wait, self._wakes)
        self._shard(key).setdefault(key, {})[request] = None
        self._reasons[wait] = self._reasons.get(wait, 0) + 1

    def goes_on(self, waiting: WaitingLogin, wait: Wait) -> None:
        """A login goes on waiting, now for another reason."""
        self._reasons[waiting.wait] -= 1
        self._reasons[wait] = self._reasons.get(wait, 0) + 1
        waiting.wait = wait

    def reasons(self) -> dict[Wait, int]:
        """How many logins wait, by what they wait for."""
        return {wait: count for wait, count in self._reasons.items() if count}

    def remove(self, request: RequestId) -> None:
        waiting = self._waiting.pop(request, None)
        self._again.pop(request, None)
        if waiting is not None:
            self._reasons[waiting.wait] -= 1
            shard = self._shard(waiting.key)
            requests = shard[waiting.key]
            del requests[request]
            if not requests:
                del shard[waiting.key]

    def drop(self, requests: Iterable[RequestId]) -> None:
        for request in requests:
            self.remove(request)

    def wake(self) -> None:
        """Something has changed: everybody who waits is to be tried again."""
        self._wakes += 1
        if not self._walk:
            self._begin()

    def wake_users(self, keys: Iterable[UserKey]) -> None:
        """Something has changed for these users."""
        for key in keys:
            self._again.update(dict.fromkeys(self._requests(key)))

    def calm(self, key: UserKey) -> None:
        """This user's logins have just been tried."""
        for request in self._requests(key):
            self._again.pop(request, None)
            self._waiting[request].tried = self._wakes

    @property
    def full(self) -> bool:
        """Whether no more may wait."""
        return len(self._waiting) >= WAITING_LIMIT

    @property
    def awake(self) -> bool:
        return bool(self._again or self._walk)

    def to_try(self, limit: int) -> list[WaitingLogin]:
        """The next of those to be tried again: of those whose users something happened to `limit`, and of
        everybody the rest of it, but half at least."""
        part = [self._waiting[request] for request in islice(self._again, limit)]
        for login in part:
            del self._again[login.request]
            login.tried = self._wakes
        for _ in range(min(max(limit - len(part), limit // 2), len(self._walk))):
            login = self._walk.popleft()
            if (
                login.tried < self._wakes
                and login.request in self._waiting
                and login.request not in self._again
            ):
                login.tried = self._wakes
                part.append(login)
        if not self._walk and self._walked < self._wakes:
            self._begin()
        return part

    def of(self, key: UserKey) -> list[WaitingLogin]:
        """All logins of one user, the oldest first."""
        return [self._waiting[request] for request in self._requests(key)]

    def next_deadline(self) -> float | None:
        for waiting in self._waiting.values():
            return waiting.since + PENDING_TIMEOUT
        return None

    def first(self, limit: int) -> list[WaitingLogin]:
        """The oldest of those that wait."""
        return list(islice(self._waiting.values(), limit))

    def overdue(self, now: float, limit: int) -> Iterator[WaitingLogin]:
        """Take out those whose time is over, `limit` at most."""
        for waiting in self.first(limit):
            if waiting.since + PENDING_TIMEOUT > now:
                return
            self.remove(waiting.request)
            yield waiting

    def _begin(self) -> None:
        self._walk.extend(self._waiting.values())
        self._walked = self._wakes

    def _shard(self, key: UserKey) -> dict[UserKey, dict[RequestId, None]]:
        return self._by_key[(key >> 32) % SHARES]

    def _requests(self, key: UserKey) -> Iterable[RequestId]:
        return self._shard(key).get(key, ())
