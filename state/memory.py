"""`memory:`, a store that ends with the process. After a restart it is empty, by choice of the operator."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

from anyio.lowlevel import checkpoint

from state.audit import bounded, bounded_text, dropped_for, oldest_kept
from state.base import (
    AUDIT_KEPT,
    EMPTY_VERSION,
    SCHEMA,
    SPACES,
    SPLIT_VERSION,
    AuditEntry,
    Bucket,
    Document,
    Health,
    HeldLock,
    Layout,
    Lease,
    Lost,
    Space,
    Step,
    StoreUnavailable,
    Swap,
    Swapped,
    check_document,
    check_numbers,
    check_space,
    check_swaps,
    check_version,
    version_of,
)
from state.bucketnumbers import BUCKETS, below
from state.lease import OwnLeases, OwnLocks

BATCH = 256
"""The number of root buckets in a batch of `load_buckets`; the buckets below them are not counted."""


class MemoryStore:
    """A store made of dictionaries.

    Like other stores it yields to other tasks, and refuses calls before `open`.
    """

    def __init__(self) -> None:
        self.url = "memory:"
        self.shared = False
        self.step: Step | None = None
        self.set_aside: Path | None = None
        self.schema = SCHEMA
        self.held_by: tuple[str, ...] = ()
        self._identity = secrets.token_hex(8)
        self._buckets: dict[Space, dict[int, tuple[bytes, bytes]]] = {space: {} for space in SPACES}
        self._documents: dict[str, Document] = {}
        self._audit: list[AuditEntry] = []
        self._leases = OwnLeases()
        self._locks = OwnLocks()
        self._open = False

    async def layout(self) -> Layout:
        await checkpoint()
        return Layout(found=0, known=0, steps=(), size=None)

    async def open(self) -> None:
        await checkpoint()
        self._open = True

    async def run_id(self) -> str:
        await self._turn("run_id")
        return self._identity

    async def load_buckets(self, space: Space) -> AsyncIterator[list[Bucket]]:
        check_space(space)
        await self._turn("load_buckets")
        for first in range(0, BUCKETS, BATCH):
            await self._turn("load_buckets")
            buckets = self._buckets[space]
            if numbers := self._existing(space, range(first, first + BATCH)):
                yield [Bucket(space, number, *buckets[number]) for number in numbers]

    async def read_buckets(self, space: Space, numbers: Sequence[int]) -> list[Bucket]:
        check_space(space)
        check_numbers(numbers)
        await self._turn("read_buckets")
        buckets = self._buckets[space]
        return [Bucket(space, number, *buckets.get(number, (EMPTY_VERSION, b""))) for number in numbers]

    async def swap_buckets(self, swaps: Sequence[Swap]) -> list[Swapped | Lost]:
        check_swaps(swaps)
        await self._turn("swap_buckets")
        return [self._swap(swap) for swap in swaps]

    def _swap(self, swap: Swap) -> Swapped | Lost:
        buckets = self._buckets[swap.space]
        stored, blob = buckets.get(swap.number, (EMPTY_VERSION, b""))
        if stored not in (swap.version, swap.becomes):
            return Lost(stored, blob)
        if swap.blob:
            buckets[swap.number] = (swap.becomes, bytes(swap.blob))
        else:
            buckets.pop(swap.number, None)
        return Swapped(swap.becomes)

    async def versions(self, space: Space) -> dict[int, bytes]:
        check_space(space)
        await self._turn("versions")
        buckets = self._buckets[space]
        return {number: buckets[number][0] for number in self._existing(space, range(BUCKETS))}

    def _existing(self, space: Space, numbers: Iterable[int]) -> list[int]:
        """Return those of these buckets that exist, and all buckets below them."""
        buckets = self._buckets[space]
        found = level = [number for number in numbers if number in buckets]
        while level := [
            n
            for parent in level
            if buckets[parent][0] == SPLIT_VERSION
            for n in below(parent)
            if n in buckets
        ]:
            found += level
        return found

    async def read_document(self, name: str) -> Document | None:
        check_document(name)
        await self._turn("read_document")
        return self._documents.get(name)

    async def swap_document(self, name: str, version: bytes, data: bytes) -> Swapped | Lost:
        check_document(name)
        check_version(version)
        await self._turn("swap_document")
        stored = self._documents.get(name, Document(EMPTY_VERSION, b""))
        new = version_of(data)
        if stored.version not in (version, new):
            return Lost(stored.version, stored.data)
        if data:
            self._documents[name] = Document(new, bytes(data))
        else:
            self._documents.pop(name, None)
        return Swapped(new)

    async def second_copy(self, name: str) -> Document | None:
        check_document(name)
        return None  # only files and servers lose single documents

    async def documents(self) -> list[str]:
        await self._turn("documents")
        return sorted(self._documents)

    async def renew(self, lease: Lease, ttl: float) -> bool:
        await self._turn("renew")
        return self._leases.renew(lease, ttl)

    async def release(self, member: str) -> None:
        await self._turn("release")
        self._leases.release(member)

    async def members(self) -> list[Lease]:
        await self._turn("members")
        return self._leases.members()

    @asynccontextmanager
    async def hold(self, task: str) -> AsyncIterator[HeldLock | None]:
        await self._turn("hold")
        with self._locks.hold(task) as lock:
            yield lock

    async def append_audit(self, entries: Sequence[AuditEntry]) -> None:
        await self._turn("append_audit")
        since, kept = oldest_kept(), [*self._audit, *bounded(entries)][-AUDIT_KEPT:]
        old = islice(
            (number for number, entry in enumerate(kept) if entry.at < since), dropped_for(len(entries))
        )
        dropped = set(old)
        self._audit = [entry for number, entry in enumerate(kept) if number not in dropped]

    async def audit(self, limit: int, *, since: float = 0.0, target: str | None = None) -> list[AuditEntry]:
        await self._turn("audit")
        since = max(since, oldest_kept())
        target = None if target is None else bounded_text(target)
        wanted = (e for e in reversed(self._audit) if e.at >= since and target in (None, e.target))
        return [entry for entry, _ in zip(wanted, range(limit), strict=False)]

    async def health(self) -> Health:
        await self._turn("health")
        return Health(server="memory", took=0.0)

    async def read_passwords_again(self) -> list[str]:
        return []

    async def close(self) -> None:
        self._open = False

    async def _turn(self, operation: str) -> None:
        """Let other tasks run, as every store does. After this call nothing interrupts the method."""
        await checkpoint()
        if not self._open:
            raise StoreUnavailable(self.url, operation, reason="the store is not open")
