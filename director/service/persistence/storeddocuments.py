"""The documents of the store, for the parts that wait for them: hosts, directors, applied configuration."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from director.core.filechanges import AppliedHost
from director.stored.tabledocuments import Documents

Until = Callable[[Callable[[], bool], float], Awaitable[bool]]
"""Waits until a condition holds, for so many seconds at most. Returns whether it holds."""


class StoredDocuments:
    def __init__(self, documents: Documents, until: Until) -> None:
        self._documents, self._until = documents, until

    @property
    def applied(self) -> list[AppliedHost] | None:
        """The hosts that this director applied last from its configuration; None: unknown."""
        return self._documents.applied

    @property
    def applied_here(self) -> bool:
        """Whether this director has applied its configuration since its start."""
        return self._documents.applied_here

    @property
    def operators_stored(self) -> bool:
        """Whether hosts and directors, the documents that operators change, are stored."""
        return self._documents.operators_stored

    @property
    def stored(self) -> bool:
        return self._documents.stored

    async def wait_read(self) -> None:
        """Wait until the documents have been read from the store."""
        await self._until(lambda: self._documents.were_read, math.inf)

    async def wait_operators_stored(self, seconds: float) -> bool:
        """Wait until hosts and directors are stored as they are now. Returns whether they are, in time."""
        hosts, members = self._documents.hosts, self._documents.members
        wanted = hosts.wanted, members.wanted
        return await self._until(lambda: hosts.written >= wanted[0] and members.written >= wanted[1], seconds)
