"""Operators' changes that the directors have and the store does not hold yet. The answer to the operator, the
log and `status` report them until they are stored.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

import anyio

from director.core.protocol.ringtimings import STORE_WAIT
from director.records import UnstoredChange
from director.service.log import Log
from director.service.persistence.storeddocuments import StoredDocuments

MANY_WAIT = 5.0
"""Seconds to wait for the store after a change of many users."""
OF_A_USER = frozenset({"move", "pin", "unpin"})
"""Changes whose target is a user's name."""


class UserWaits:
    """Events that are set when buckets of users are stored, even after a long outage of the store."""

    def __init__(self, ask: Callable[[int, Sequence[int] | None], None]) -> None:
        """ask: writes buckets at once if the store is reachable. Then `stored` is called with the number."""
        self._ask = ask
        self._number = 0
        self._open: dict[int, tuple[Sequence[int] | None, anyio.Event]] = {}

    def add(self, buckets: Sequence[int] | None) -> anyio.Event:
        """Return an event that is set once these buckets (None: all changed) are stored as they are now."""
        self._number -= 1  # negative, because the core's own numbers are above 0
        event = anyio.Event()
        self._open[self._number] = buckets, event
        self._ask(self._number, buckets)
        return event

    def stored(self, number: int) -> None:
        found = self._open.pop(number, None)
        if found is not None:
            found[1].set()

    def ask_again(self) -> None:
        """Ask for all open waits again. Called when the store is reachable again."""
        for number, (buckets, _) in self._open.items():
            self._ask(number, buckets)


class Unstored:
    def __init__(
        self, documents: StoredDocuments, waits: UserWaits, log: Log, caught_up: Callable[[], Awaitable[None]]
    ) -> None:
        """caught_up: returns as soon as the store holds everything that memory held when the store was
        reached. A store without data gets the documents first, and earlier changes of users later."""
        self._documents, self._waits, self._log = documents, waits, log
        self._caught_up = caught_up
        self._changes: list[UnstoredChange] = []
        self._new = anyio.Event()
        self._followed: list[tuple[UnstoredChange, anyio.Event | None]] = []

    def changes(self) -> list[UnstoredChange]:
        """Return the unstored changes, the oldest first."""
        return list(self._changes)

    async def users_stored(self, what: str, target: str, buckets: Sequence[int] | None) -> bool:
        """Return whether these buckets of users are stored within a short time.

        If they are not, the change is listed as unstored until they are.

        Args:
            buckets: None: all changed buckets.
        """
        stored = self._waits.add(buckets)
        with anyio.move_on_after(MANY_WAIT if buckets is None else STORE_WAIT):
            await stored.wait()
        return stored.is_set() or self._follow(what, target, stored)

    async def documents_stored(self, what: str, target: str) -> bool:
        """Return the same as `users_stored`, for a change of hosts or directors."""
        with anyio.move_on_after(STORE_WAIT):
            await self._until_documents_are_stored()
            return True
        return self._follow(what, target, None)

    async def _until_documents_are_stored(self) -> None:
        await self._documents.wait_operators_stored(math.inf)
        await self._caught_up()

    def _follow(self, what: str, target: str, stored: anyio.Event | None) -> bool:
        change = UnstoredChange(what=what, target=target, since=int(time.time()))
        note = "all directors have the change; it is lost if all of them stop before the store is reachable"
        self._log.warning("change_not_stored", what=what, **_named(change), note=note)
        self._add(change, stored)
        return False

    def _add(self, change: UnstoredChange, stored: anyio.Event | None) -> None:
        self._changes.append(change)
        self._followed.append((change, stored))
        self._new.set()

    def take_over(self, changes: Iterable[UnstoredChange]) -> None:
        """List the changes that a predecessor in this process has left."""
        for change in changes:
            self._add(change, self._waits.add(None))

    async def run(self) -> None:
        """Log each change when it is stored, until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                while self._followed:
                    tasks.start_soon(self._until_stored, *self._followed.pop())
                await self._new.wait()
                self._new = anyio.Event()

    async def _until_stored(self, change: UnstoredChange, stored: anyio.Event | None) -> None:
        if stored is not None:
            await stored.wait()
        await self._until_documents_are_stored()
        self._changes.remove(change)
        took = max(0, int(time.time()) - change.since)
        self._log.info("change_stored", what=change.what, **_named(change), seconds=took)


def _named(change: UnstoredChange) -> dict[str, str]:
    """Return the target as a field of the log. A user's name goes into `user`, which the log may hide."""
    return {"user" if change.what in OF_A_USER else "target": change.target}
