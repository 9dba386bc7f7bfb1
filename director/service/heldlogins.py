"""The lines from auth that wait for an answer, and how many may wait.

Until the ring is in sync, a login of a new user waits for up to 30 s, and anyone can open logins. Their
number is limited here for each connection, and in total in `core.logins.pending`.
"""

from __future__ import annotations

from operator import itemgetter

import msgspec

from director.net.authreply import AuthreplyClient
from director.net.login import Client as LoginClient
from director.types import RequestId
from director.wire.auth import HeldRequest

CONNECTION_LIMIT = 10_000
"""Waiting logins of one connection, at most."""
BYTES_LIMIT = 64 << 20
"""Bytes of all waiting lines, at most. 100,000 lines with names of usual length take a fifth of it."""

SHARDS = 64
"""Number of tables that hold the requests. A single table would stop the loop too long when it grows."""

Client = LoginClient | AuthreplyClient
"""A client whose lines wait."""


class _WaitingLogin(msgspec.Struct, frozen=True, gc=False):
    """A waiting line and its client."""

    client: Client
    held_request: HeldRequest


class HeldLogins:
    """Waiting lines by request. `client.waiting` has the requests of each client."""

    def __init__(self) -> None:
        self._shards: list[dict[RequestId, _WaitingLogin]] = [{} for _ in range(SHARDS)]
        self.bytes = 0
        """Bytes of all waiting lines and their parsed parts."""

    def __len__(self) -> int:
        return sum(map(len, self._shards))

    def full(self, client: Client, held_request: HeldRequest) -> str:
        """Return why this line may not wait; empty if it may."""
        if len(client.waiting) >= CONNECTION_LIMIT:
            return f"{CONNECTION_LIMIT} logins of this connection wait already"
        if self.bytes + _size(held_request) > BYTES_LIMIT:
            return f"waiting logins take {BYTES_LIMIT >> 20} MB already"
        return ""

    def add(self, request: RequestId, client: Client, held_request: HeldRequest) -> None:
        self._shards[request % SHARDS][request] = _WaitingLogin(client, held_request)
        self.bytes += _size(held_request)
        client.waiting.add(request)

    def take(self, request: RequestId) -> tuple[Client, HeldRequest] | None:
        """Remove and return a request that is to be answered; None if its client has disconnected."""
        taken = self._shards[request % SHARDS].pop(request, None)
        if taken is None:
            return None
        taken.client.waiting.discard(request)
        self.bytes -= _size(taken.held_request)
        return taken.client, taken.held_request

    def drop(self, client: Client) -> list[RequestId]:
        """Remove all requests of a client that has disconnected. Returns them."""
        requests = [RequestId(number) for number in client.waiting]
        for request in requests:
            self.take(request)
        return requests

    def lines(self) -> dict[Client, list[bytes]]:
        """Return the lines of each client, the oldest first."""
        lines: dict[Client, list[bytes]] = {}
        requests = {request: waiting for shard in self._shards for request, waiting in shard.items()}
        for _, waiting in sorted(requests.items(), key=itemgetter(0)):
            lines.setdefault(waiting.client, []).append(waiting.held_request.line)
        return lines


def _size(held_request: HeldRequest) -> int:
    return len(held_request.line) + len(held_request.id) + len(held_request.tag) + len(held_request.name)
