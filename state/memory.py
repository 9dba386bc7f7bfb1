"""`memory:`, a store that ends with the process. Everything is forgotten at a restart, by choice."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from anyio.lowlevel import checkpoint

from state.base import (
    AUDIT_KEPT,
    EMPTY_VERSION,
    SPACES,
    AuditEntry,
    Bucket,
    Document,
    Health,
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
from state.lease import OwnLeases

BATCH = 256
"""Buckets a batch of `load_buckets`."""


class MemoryStore:
    """Dictionaries with the manners of a store: it gives way to other tasks, and refuses before `open`."""

    def __init__(self) -> None:
        self.url = "memory:"
        self.shared = False
        self.step: Step | None = None
        self.set_aside: Path | None = None
        self._identity = secrets.token_hex(8)
        self._buckets: dict[Space, dict[int, tuple[bytes, bytes]]] = {space: {} for space in SPACES}
        self._documents: dict[str, Document] = {}
        self._audit: list[AuditEntry] = []
        self._leases = OwnLeases()
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
        numbers = list(self._buckets[space])
        for start in range(0, len(numbers), BATCH):
            batch = await self.read_buckets(space, numbers[start : start + BATCH])
            yield [bucket for bucket in batch if bucket.blob]

    async def read_buckets(self, space: Space, numbers: Sequence[int]) -> list[Bucket]:
        check_space(space)
        check_numbers(numbers)
        await self._turn("read_buckets")
        held = self._buckets[space]
        return [Bucket(space, number, *held.get(number, (EMPTY_VERSION, b""))) for number in numbers]

    async def swap_buckets(self, swaps: Sequence[Swap]) -> list[Swapped | Lost]:
        check_swaps(swaps)
        await self._turn("swap_buckets")
        return [self._swap(swap) for swap in swaps]

    def _swap(self, swap: Swap) -> Swapped | Lost:
        held = self._buckets[swap.space]
        stored, blob = held.get(swap.number, (EMPTY_VERSION, b""))
        if stored not in (swap.version, swap.becomes):
            return Lost(stored, blob)
        if swap.blob:
            held[swap.number] = (swap.becomes, bytes(swap.blob))
        else:
            held.pop(swap.number, None)
        return Swapped(swap.becomes)

    async def versions(self, space: Space) -> dict[int, bytes]:
        check_space(space)
        await self._turn("versions")
        return {number: version for number, (version, _) in self._buckets[space].items()}

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

    async def documents(self) -> list[str]:
        await self._turn("documents")
        return sorted(self._documents)

    async def renew(self, lease: Lease, ttl: float) -> None:
        await self._turn("renew")
        self._leases.renew(lease, ttl)

    async def release(self, member: str) -> None:
        await self._turn("release")
        self._leases.release(member)

    async def members(self) -> list[Lease]:
        await self._turn("members")
        return self._leases.members()

    async def append_audit(self, entries: Sequence[AuditEntry]) -> None:
        await self._turn("append_audit")
        self._audit.extend(entries)
        del self._audit[:-AUDIT_KEPT]

    async def audit(self, limit: int, *, since: float = 0.0, target: str | None = None) -> list[AuditEntry]:
        await self._turn("audit")
        wanted = (e for e in reversed(self._audit) if e.at >= since and target in (None, e.target))
        return [entry for entry, _ in zip(wanted, range(limit), strict=False)]

    async def health(self) -> Health:
        await self._turn("health")
        return Health(server="memory", took=0.0)

    async def close(self) -> None:
        self._open = False

    async def _turn(self, operation: str) -> None:
        """Let other tasks run first, as every store does; after it nothing interrupts the method."""
        await checkpoint()
        if not self._open:
            raise StoreUnavailable(self.url, operation, reason="it is not open")
