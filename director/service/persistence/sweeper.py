"""Deletes expired assignments from buckets that no director writes.

One director at a time does it: the holder of the lock `sweep`. It walks through all buckets again and again,
a few at a time. It writes by compare-and-swap, and only buckets from which it deletes something. A bucket
that another director has written meanwhile is left for the next walk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import anyio
import anyio.lowlevel

from director.core.director import Director
from director.service.log import Log
from director.stored.bucketreader import BucketReader
from director.stored.sweep import Swept, sweep_names, sweep_users
from state.base import SPACES, Bucket, Space, StateStore, StoreError, Swap, Swapped

TASK = "sweep"
SWEPT_NOTE = "so many expired assignments, and names without one, were deleted from the store"
WALK_SECONDS = 600.0
"""Seconds that a walk through all buckets takes."""
ASK_SECONDS = 60.0
"""Seconds between two attempts to get the lock."""
SLICE = 16
"""Buckets read at a time."""
PAUSE_FACTOR = 19
"""After each slice follows a pause of this many times its duration: sweeping takes 5 % of the time."""


class Sweeper:
    def __init__(
        self,
        store: StateStore,
        director: Director,
        reader: BucketReader,
        may: Callable[[], bool],
        log: Log,
    ) -> None:
        """may: returns whether the store is reachable and has been read."""
        self.holds = False
        """Whether this director sweeps now."""
        self.swept: dict[str, int] = {space: 0 for space in SPACES}
        """Number of deleted records by space."""
        self.walks = 0
        """Number of finished walks."""
        self._store, self._director, self._reader = store, director, reader
        self._may, self._log = may, log
        self._due: dict[int, tuple[bytes, int | None]] = {}
        """Examined buckets of users: version, and the Unix seconds when a record may expire (None: never)."""

    async def run(self) -> None:
        """Sweep whenever no other director does, until cancelled."""
        while True:
            if self._may():
                try:
                    await self._sweep()
                except StoreError as exc:  # the parts that write to the store report its failure
                    note = "expired assignments stay in the store; a director retries within two minutes"
                    self._log.warning("sweep_failed", store=self._store.url, reason=str(exc), note=note)
                finally:
                    self.holds = False
            await anyio.sleep(ASK_SECONDS)

    async def _sweep(self) -> None:
        async with self._store.hold(TASK) as lock:
            self.holds = lock is not None
            while self.holds and self._may():
                await self.walk(WALK_SECONDS)

    async def walk(self, seconds: float) -> None:
        """Walk through all buckets once, spread over `seconds`. Raises StoreError."""
        begun = time.monotonic()
        before = dict(self.swept)
        for part, space in enumerate(SPACES):
            numbers = await self._worth_a_look(space)
            parts = [numbers[at : at + SLICE] for at in range(0, len(numbers), SLICE)]
            for done, some in enumerate(parts, start=1):
                began = time.monotonic()
                await self._sweep_some(space, some)
                now = time.monotonic()
                until = begun + seconds * (part + done / len(parts)) / len(SPACES)
                await anyio.sleep(max(until - now, PAUSE_FACTOR * (now - began)))
            await anyio.sleep(max(0.0, begun + seconds * (part + 1) / len(SPACES) - time.monotonic()))
        self.walks += 1
        deleted = {space: self.swept[space] - before[space] for space in SPACES}
        if any(deleted.values()):
            took = round(time.monotonic() - begun, 1)
            self._log.info("store_swept", store=self._store.url, **deleted, seconds=took, note=SWEPT_NOTE)

    async def _worth_a_look(self, space: Space) -> list[int]:
        """Return the buckets that may hold an expired record, by their versions and `_due`."""
        versions = await self._store.versions(space)
        if space == "users" and not self._director.clock_is_sure(time.monotonic()):
            return []
        if space == "names":
            return sorted(versions) if self._knows_everybody() else []
        unix = int(time.time())
        self._due = {number: due for number, due in self._due.items() if due[0] == versions.get(number)}
        idle = {number for number, (_, due) in self._due.items() if due is None or due > unix}
        return sorted(versions.keys() - idle)

    async def _sweep_some(self, space: Space, numbers: Sequence[int]) -> None:
        buckets = await self._store.read_buckets(space, numbers)
        swaps: list[tuple[Swap, int]] = []
        for bucket in buckets:
            swept = self._without_the_gone(bucket)
            if swept.dropped:
                swaps.append((Swap(space, bucket.number, bucket.version, swept.blob), swept.dropped))
            elif space == "users":
                self._due[bucket.number] = (bucket.version, swept.due)
            await anyio.lowlevel.checkpoint()
        if swaps:
            await self._write(space, swaps)

    def _without_the_gone(self, bucket: Bucket) -> Swept:
        if bucket.space == "users":
            if not self._director.clock_is_sure(time.monotonic()):
                return Swept(bucket.blob, 0, 0)
            return sweep_users(bucket.blob, int(time.time()), self._director.users.expire)
        return sweep_names(bucket.blob, lambda key: self._director.users.get(key) is not None)

    async def _write(self, space: Space, swaps: Iterable[tuple[Swap, int]]) -> None:
        known = self._reader.versions[space]
        swaps = list(swaps)
        results = await self._store.swap_buckets([swap for swap, _ in swaps])
        for (swap, dropped), result in zip(swaps, results, strict=True):
            if isinstance(result, Swapped):
                self.swept[space] += dropped
                if known.get(swap.number) == swap.version:  # the new version holds nothing unread
                    known[swap.number] = result.version

    def _knows_everybody(self) -> bool:
        """Return whether every user that this director does not have in memory is unassigned."""
        director = self._director
        return not (director.loading or director.unverified or director.partial)
