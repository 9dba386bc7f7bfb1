"""Logins that wait: for the ring, for a usable host, for the first exchange.

Each login has its own 30 seconds. In Dovecot 2.3's director a login that came later could wait up to 60 s
(defect I-16).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from director.core.placement.assign import Wait
from director.core.protocol.events import Lookup
from director.types import RequestId, UserKey

PENDING_TIMEOUT = 30.0
"""Seconds that a login may wait before it fails temporarily."""
WAITING_LIMIT = 100_000
"""Logins that may wait at the same time. Each takes 600 bytes, and its line (`service.heldlogins`)."""


class WaitingLogin(msgspec.Struct, gc=False):
    request: RequestId
    key: UserKey
    tag: bytes
    name: bytes
    since: float
    wait: Wait
    tried: int = 0
    """The number of the last wake of all logins before this login arrived or was tried."""


SHARDS = 64
"""Number of dicts that hold the waiting logins by user. A single dict would make the turn of the loop in
which it grows too long."""


class Pending:
    """The waiting logins, in the order in which they came.

    Woken logins are tried again in slices, in the order in which they were woken. A second wake meanwhile
    does not change the order.
    """

    def __init__(self) -> None:
        self._waiting: dict[RequestId, WaitingLogin] = {}
        self._by_key: list[dict[UserKey, dict[RequestId, None]]] = [{} for _ in range(SHARDS)]
        self._again: dict[RequestId, None] = {}
        """Logins that were woken because something happened to their users."""
        self._wakes = self._walked = 0
        """How often all logins were woken, and the number of the wake at which the current walk began."""
        self._walk: deque[WaitingLogin] = deque()
        """The logins that the current walk has not tried yet. Some may have been answered meanwhile."""
        self._reasons: dict[Wait, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, login: Lookup, now: float, wait: Wait) -> None:
        request, key = login.request, login.key
        self._waiting[request] = WaitingLogin(request, key, login.tag, login.name, now, wait, self._wakes)
        self._shard(key).setdefault(key, {})[request] = None
        self._reasons[wait] = self._reasons.get(wait, 0) + 1

    def set_reason(self, waiting: WaitingLogin, wait: Wait) -> None:
        """Change the reason why a login waits."""
        self._reasons[waiting.wait] -= 1
        self._reasons[wait] = self._reasons.get(wait, 0) + 1
        waiting.wait = wait

    def reasons(self) -> dict[Wait, int]:
        """Return how many logins wait for each reason."""
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
        """Have every waiting login tried again: something has changed for all."""
        self._wakes += 1
        if not self._walk:
            self._begin()

    def wake_users(self, keys: Iterable[UserKey]) -> None:
        """Have the waiting logins of these users tried again."""
        for key in keys:
            self._again.update(dict.fromkeys(self._requests(key)))

    def calm(self, key: UserKey) -> None:
        """Take this user's logins out of those to be tried: they have just been tried."""
        for request in self._requests(key):
            self._again.pop(request, None)
            self._waiting[request].tried = self._wakes

    @property
    def full(self) -> bool:
        """Whether no further login may wait."""
        return len(self._waiting) >= WAITING_LIMIT

    @property
    def awake(self) -> bool:
        return bool(self._again or self._walk)

    def to_try(self, limit: int) -> list[WaitingLogin]:
        """Return the logins to be tried next.

        Logins of woken users come first, up to `limit`. Logins of a wake of all fill the rest, and have at
        least half of `limit` for themselves, so that neither kind keeps the other waiting.
        """
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
        """Return all logins of one user, the oldest first."""
        return [self._waiting[request] for request in self._requests(key)]

    def next_deadline(self) -> float | None:
        for waiting in self._waiting.values():
            return waiting.since + PENDING_TIMEOUT
        return None

    def first(self, limit: int) -> list[WaitingLogin]:
        """Return the oldest waiting logins, at most `limit`."""
        return list(islice(self._waiting.values(), limit))

    def overdue(self, now: float, limit: int) -> Iterator[WaitingLogin]:
        """Remove the logins whose time-out has passed, at most `limit`, and yield them."""
        for waiting in self.first(limit):
            if waiting.since + PENDING_TIMEOUT > now:
                return
            self.remove(waiting.request)
            yield waiting

    def _begin(self) -> None:
        self._walk.extend(self._waiting.values())
        self._walked = self._wakes

    def _shard(self, key: UserKey) -> dict[UserKey, dict[RequestId, None]]:
        return self._by_key[(key >> 32) % SHARDS]

    def _requests(self, key: UserKey) -> Iterable[RequestId]:
        return self._shard(key).get(key, ())
