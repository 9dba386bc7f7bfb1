"""Writers that swap as fast as they can. Their data stays in memory until the store has it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import anyio

from state.base import EMPTY_VERSION, StateStore, StoreError, Swap, Swapped
from state.bucketnumbers import BUCKETS
from tests.contract.conftest import until

NUMBERS = tuple(range(5, BUCKETS, 97))
"""The numbers of the written buckets: one or two of each hash tag."""
AT_ONCE = 8
"""The number of buckets in a call."""


class Writer:
    """Adds items (0 to 255) to buckets, whose blobs are the sorted items."""

    def __init__(self, store: StateStore, seed: int) -> None:
        self.store = store
        self.known: dict[int, set[int]] = {number: set() for number in NUMBERS}
        self.failures: list[StoreError] = []
        self.stored = 0
        """The number of calls after which everything was stored."""
        self._versions = dict.fromkeys(NUMBERS, EMPTY_VERSION)
        self._chance = random.Random(seed)

    async def run(self) -> None:
        """Write until cancelled.

        After a failure compare all versions, as after any time in which the store was unreachable.
        """
        while True:
            chosen = self._chance.sample(NUMBERS, AT_ONCE)
            for number in chosen:
                self.known[number].add(self._chance.randrange(256))
            try:
                await self.write(chosen)
                self.stored += 1
            except StoreError as exc:
                self.failures.append(exc)
                await anyio.sleep(0.05)

    async def write(self, numbers: Iterable[int]) -> None:
        """Merge and swap until these buckets are stored. Raises StoreError."""
        waiting = list(numbers)
        while waiting:
            swaps = [Swap("users", n, self._versions[n], bytes(sorted(self.known[n]))) for n in waiting]
            outcomes = await self.store.swap_buckets(swaps)
            waiting = []
            for swap, outcome in zip(swaps, outcomes, strict=True):
                self._versions[swap.number] = outcome.version
                if not isinstance(outcome, Swapped):
                    self.known[swap.number] |= set(outcome.blob)
                    waiting.append(swap.number)


@asynccontextmanager
async def writing(stores: Iterable[StateStore]) -> AsyncIterator[list[Writer]]:
    """Run a writer at each of these stores until the end of the block. A call that was begun is completed."""
    writers = [Writer(store, seed) for seed, store in enumerate(stores)]
    async with anyio.create_task_group() as tasks:
        for writer in writers:
            tasks.start_soon(writer.run)
        yield writers
        tasks.cancel_scope.cancel()


async def wait_for_writes(writers: Sequence[Writer]) -> None:
    """Wait until each writer has written some more."""
    written = [writer.stored for writer in writers]

    async def go_on() -> bool:
        return all(writer.stored > then + 5 for writer, then in zip(writers, written, strict=True))

    await until(go_on)


async def stored(store: StateStore) -> dict[int, set[int]]:
    """Return the items that the store holds."""
    buckets = await store.read_buckets("users", NUMBERS)
    return {bucket.number: set(bucket.blob) for bucket in buckets}


def together(writers: Iterable[Writer]) -> dict[int, set[int]]:
    """Return the items of all writers."""
    writers = list(writers)
    return {number: set().union(*(writer.known[number] for writer in writers)) for number in NUMBERS}
