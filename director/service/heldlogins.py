"""The lines from auth that wait for an answer, and how many may wait.

While the ring or the store settles, a login of a new user waits for up to 30 s, and anybody can open logins.
Their number is bounded per connection here, and in all in `core.logins.pending`.
"""

from __future__ import annotations

from operator import itemgetter

import msgspec

from director.net.authreply import AuthreplyClient
from director.net.login import Client as LoginClient
from director.types import RequestId
from director.wire.auth import HeldRequest

CONNECTION_LIMIT = 10_000
"""Logins of one connection that may wait."""
BYTES_LIMIT = 64 << 20
"""Bytes of all lines that wait: 100,000 usual ones take a fifth of it, long names may not take more."""

SHARDS = 64
"""Tables that they are in by request: of one alone, a turn of the loop in which it grows would be long."""

Client = LoginClient | AuthreplyClient
"""Whose lines are to be completed."""


class _WaitingLogin(msgspec.Struct, frozen=True, gc=False):
    """A line that waits, and its client."""

    client: Client
    held_request: HeldRequest


class HeldLogins:
    """By request; `client.waiting` has those of each client."""

    def __init__(self) -> None:
        self._shards: list[dict[RequestId, _WaitingLogin]] = [{} for _ in range(SHARDS)]
        self.bytes = 0
        """Of all lines and what was taken out of them."""

    def __len__(self) -> int:
        return sum(map(len, self._shards))

    def full(self, client: Client, held_request: HeldRequest) -> str:
        """Why this line may not wait; empty: it may."""
        if len(client.waiting) >= CONNECTION_LIMIT:
            return f"{CONNECTION_LIMIT} logins of this connection wait already"
        if self.bytes + _size(held_request) > BYTES_LIMIT:
            return f"logins that wait take {BYTES_LIMIT >> 20} MB already"
        return ""

    def add(self, request: RequestId, client: Client, held_request: HeldRequest) -> None:
        self._shards[request % SHARDS][request] = _WaitingLogin(client, held_request)
        self.bytes += _size(held_request)
        client.waiting.add(request)

    def take(self, request: RequestId) -> tuple[Client, HeldRequest] | None:
        """A request that is to be answered; None if its client has gone away meanwhile."""
        taken = self._shards[request % SHARDS].pop(request, None)
        if taken is None:
            return None
        taken.client.waiting.discard(request)
        self.bytes -= _size(taken.held_request)
        return taken.client, taken.held_request

    def drop(self, client: Client) -> list[RequestId]:
        """All of a client that has gone away; gives its requests."""
        requests = [RequestId(number) for number in client.waiting]
        for request in requests:
            self.take(request)
        return requests

    def lines(self) -> dict[Client, list[bytes]]:
        """The lines of each client, the oldest first."""
        lines: dict[Client, list[bytes]] = {}
        requests = {request: waiting for shard in self._shards for request, waiting in shard.items()}
        for _, waiting in sorted(requests.items(), key=itemgetter(0)):
            lines.setdefault(waiting.client, []).append(waiting.held_request.line)
        return lines


def _size(held_request: HeldRequest) -> int:
    return len(held_request.line) + len(held_request.id) + len(held_request.tag) + len(held_request.name)
