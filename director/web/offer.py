"""Look-ups for other programs: those that are configured, and the service that answers. Imports fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from director.records import LookupAnswer


class Lookups(Protocol):
    """The service that answers, which is `director.service.endpoints.lookups.Lookups`."""

    async def find(self, user: bytes, tag: bytes, protocol: str) -> LookupAnswer:
        """The backend of a user.

        Raises:
            TryAgain: the user cannot be assigned now.
        """
        ...


class Offer(NamedTuple):
    lookups: Lookups
    http: bool
    nginx: bool
    ports: Mapping[str, int]
    """Ports of the backends, by nginx's names of protocols: imap, pop3, smtp."""
