"""Which look-ups for other programs are served, and by whom. Costs nothing to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from director.records import LookupAnswer


class Lookups(Protocol):
    """What is asked of the service; `director.service.endpoints.lookups.Lookups` is the real one."""

    async def find(self, user: bytes, tag: bytes, protocol: str) -> LookupAnswer:
        """The backend of a user. Raises TryAgain."""
        ...


class Offer(NamedTuple):
    lookups: Lookups
    http: bool
    nginx: bool
    ports: Mapping[str, int]
    """Of the backends, by nginx's names for protocols: imap, pop3, smtp."""
