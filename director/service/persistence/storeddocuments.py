"""The documents of the store, for those who wait for them: hosts, directors, what was applied."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from director.core.filechanges import AppliedHost
from director.stored.tabledocuments import Documents

Until = Callable[[Callable[[], bool], float], Awaitable[bool]]
"""Waits until something holds, for so many seconds at most; whether it does."""


class StoredDocuments:
    def __init__(self, documents: Documents, until: Until) -> None:
        self._documents, self._until = documents, until

    @property
    def applied(self) -> list[AppliedHost] | None:
        """What this director last applied of its configuration; None: it is not known."""
        return self._documents.applied

    @property
    def applied_here(self) -> bool:
        """Whether this director has applied its configuration since its start."""
        return self._documents.applied_here

    @property
    def operators_stored(self) -> bool:
        """Whether all that operators change is stored: hosts and directors."""
        return self._documents.operators_stored

    @property
    def stored(self) -> bool:
        return self._documents.stored

    async def wait_read(self) -> None:
        """Until the store has answered: hosts, directors and what was applied are known."""
        await self._until(lambda: self._documents.were_read, math.inf)

    async def wait_operators_stored(self, seconds: float) -> bool:
        """Whether hosts and directors, as they are now, are in the store within this time."""
        hosts, members = self._documents.hosts, self._documents.members
        wanted = hosts.wanted, members.wanted
        return await self._until(lambda: hosts.written >= wanted[0] and members.written >= wanted[1], seconds)
