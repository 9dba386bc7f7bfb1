"""The maps of the socketmap listener, which tell Postfix where to deliver a user's mail."""

from __future__ import annotations

from director.errors import TryAgain
from director.service.endpoints.lookups import Lookups
from director.wire.socketmap import NOT_FOUND, Request, found, never, next_hop, try_again

WILDCARD = b"*"
"""A key that Postfix looks up in a transport map and that is not a user."""


class Socketmap:
    """Answers requests to the map `lmtp`, or `lmtp@TAG` for the pool of a tag. The key is the user's name."""

    def __init__(self, lookups: Lookups, port: int) -> None:
        """port: the LMTP port of the backends."""
        self._lookups, self._port = lookups, port

    async def __call__(self, request: Request) -> bytes:
        protocol, _, tag = request.map.partition(b"@")
        if protocol != b"lmtp":
            wrong = request.map[:64].decode(errors="backslashreplace")
            return never(f"no map {wrong}; the maps are lmtp, and lmtp@TAG for the pool of a tag")
        if request.key in (b"", WILDCARD):
            return NOT_FOUND
        try:
            answer = await self._lookups.find(request.key, tag, "socketmap")
        except TryAgain as exc:
            return try_again(str(exc))
        return found(next_hop(answer.address, self._port))
