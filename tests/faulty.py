"""A store between a caller and a real store. It does to calls what networks and crashes do."""

from __future__ import annotations

import enum
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from state.base import (
    AuditEntry,
    Bucket,
    Document,
    Health,
    HeldLock,
    Layout,
    Lease,
    Lost,
    Space,
    StateStore,
    StoreUnavailable,
    Swap,
    Swapped,
)

T = TypeVar("T")

OVERTAKEN = 20
"""Turns of the loop by which a call is delayed: enough for other calls to overtake it."""


class Fault(enum.Enum):
    NONE = "the call is passed on"
    DELAY = "others overtake the call, and its answer"
    BEFORE = "nothing happens, and the caller does not learn it"
    AFTER = "it happens, and the caller does not learn it"
    HALF = "every second part of it happens, and the caller does not learn it; as AFTER if it has no parts"
    REPEAT = "it happens twice; the second answer is the one that arrives"
    STUCK_BEFORE = "nothing happens, and no answer comes until the caller is cancelled"
    STUCK_AFTER = "it happens, and no answer comes until the caller is cancelled"


Choose = Callable[[str], Fault]
"""Returns the fault for a call of this operation. It is called for each call, in order."""


def by_chance(seed: int, *, spared: float = 0.4) -> Choose:
    """Return a choice of random faults that end by themselves.

    `spared`: the share of calls (0 to 1) without a fault.
    """
    chance = random.Random(seed)
    faults = [Fault.DELAY, Fault.BEFORE, Fault.AFTER, Fault.HALF, Fault.REPEAT]
    return lambda operation: Fault.NONE if chance.random() < spared else chance.choice(faults)


class FaultyStore:
    """`store` with faults. Opening and closing it opens and closes `store`."""

    def __init__(self, store: StateStore, choose: Choose) -> None:
        self.store = store
        self.choose = choose
        self.calls: list[str] = []
        """The operations that were called, in order."""
        self.stuck = anyio.Event()
        """Set while a call is stuck."""

    def __getattr__(self, name: str) -> Any:
        """Pass on everything that is not a call to the store."""
        return getattr(self.store, name)

    async def layout(self) -> Layout:
        return await self._call("layout", self.store.layout)

    async def open(self) -> None:
        return await self._call("open", self.store.open)

    async def run_id(self) -> str:
        return await self._call("run_id", self.store.run_id)

    async def load_buckets(self, space: Space) -> AsyncIterator[list[Bucket]]:
        fault = await self._begin("load_buckets")
        async for batch in self.store.load_buckets(space):
            yield batch
            if fault is Fault.HALF:
                break
        await self._end("load_buckets", fault)

    async def read_buckets(self, space: Space, numbers: Sequence[int]) -> list[Bucket]:
        return await self._call("read_buckets", lambda: self.store.read_buckets(space, numbers))

    async def swap_buckets(self, swaps: Sequence[Swap]) -> list[Swapped | Lost]:
        return await self._call(
            "swap_buckets",
            lambda: self.store.swap_buckets(swaps),
            lambda: self.store.swap_buckets(swaps[::2]),
        )

    async def versions(self, space: Space) -> dict[int, bytes]:
        return await self._call("versions", lambda: self.store.versions(space))

    async def read_document(self, name: str) -> Document | None:
        return await self._call("read_document", lambda: self.store.read_document(name))

    async def swap_document(self, name: str, version: bytes, data: bytes) -> Swapped | Lost:
        return await self._call("swap_document", lambda: self.store.swap_document(name, version, data))

    async def second_copy(self, name: str) -> Document | None:
        return await self._call("second_copy", lambda: self.store.second_copy(name))

    async def documents(self) -> list[str]:
        return await self._call("documents", self.store.documents)

    async def renew(self, lease: Lease, ttl: float) -> bool:
        return await self._call("renew", lambda: self.store.renew(lease, ttl))

    async def release(self, member: str) -> None:
        return await self._call("release", lambda: self.store.release(member))

    async def members(self) -> list[Lease]:
        return await self._call("members", self.store.members)

    @asynccontextmanager
    async def hold(self, task: str) -> AsyncIterator[HeldLock | None]:
        fault = await self._begin("hold")
        async with self.store.hold(task) as held:
            await self._end("hold", fault)
            yield held

    async def append_audit(self, entries: Sequence[AuditEntry]) -> None:
        return await self._call(
            "append_audit",
            lambda: self.store.append_audit(entries),
            lambda: self.store.append_audit(entries[::2]),
        )

    async def audit(self, limit: int, *, since: float = 0.0, target: str | None = None) -> list[AuditEntry]:
        return await self._call("audit", lambda: self.store.audit(limit, since=since, target=target))

    async def health(self) -> Health:
        return await self._call("health", self.store.health)

    async def read_passwords_again(self) -> list[str]:
        return await self.store.read_passwords_again()

    async def close(self) -> None:
        await self.store.close()

    async def _call(
        self,
        operation: str,
        work: Callable[[], Awaitable[T]],
        half: Callable[[], Awaitable[object]] | None = None,
    ) -> T:
        fault = await self._begin(operation)
        if fault is Fault.HALF and half is not None:
            await half()
            raise self._unavailable(operation)
        result = await work()
        if fault is Fault.REPEAT:
            result = await work()
        await self._end(operation, fault)
        return result

    async def _begin(self, operation: str) -> Fault:
        self.calls.append(operation)
        fault = self.choose(operation)
        if fault is Fault.STUCK_BEFORE:
            await self._hang()
        if fault is Fault.DELAY:
            await _let_others_overtake()
        if fault is Fault.BEFORE:
            await checkpoint()
            raise self._unavailable(operation)
        return fault

    async def _end(self, operation: str, fault: Fault) -> None:
        if fault is Fault.STUCK_AFTER:
            await self._hang()
        if fault is Fault.DELAY:
            await _let_others_overtake()
        if fault in (Fault.AFTER, Fault.HALF):
            raise self._unavailable(operation)

    async def _hang(self) -> None:
        self.stuck.set()
        await anyio.sleep_forever()

    def _unavailable(self, operation: str) -> StoreUnavailable:
        return StoreUnavailable(self.url, operation, reason="a test wants it so")


async def _let_others_overtake() -> None:
    for _ in range(OVERTAKEN):
        await checkpoint()
