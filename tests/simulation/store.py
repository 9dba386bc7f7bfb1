"""The store of simulated directors: a state store in memory, with faults that tests control."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from director.core.placement.users import BUCKET_SHIFT, User, unpack
from director.core.protocol.messages import HostRow, MemberRow
from director.core.tables.hosts import decode_rows
from director.core.tables.members import decode_member_rows, decode_met
from director.stored.storecalls import (
    AppendAudit,
    Call,
    CloseStore,
    LoadBuckets,
    OpenStore,
    ReadBuckets,
    ReadDocument,
    ReadLeases,
    ReadRunId,
    ReadSecondCopy,
    ReadVersions,
    ReleaseLease,
    RenewLease,
    SetAside,
    StoreFacts,
    SwapBuckets,
    SwapDocument,
)
from director.types import MemberId, UserKey
from state.base import (
    SCHEMA,
    SPACES,
    SPLIT,
    Bucket,
    Document,
    Lease,
    Lost,
    Space,
    StoreUnavailable,
    Swap,
    Swapped,
    version_of,
)

URL = "simulated:"
EMPTY = b"\x90"
"""A document without rows."""
Content = tuple[dict[Space, dict[int, bytes]], dict[str, bytes], dict[str, tuple[Lease, float]]]


class Store:
    """The store of one director, or shared by all. It outlives them."""

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared
        self.up = True
        self.run_id = 1
        """Changes after a failover: the last writes may be lost."""
        self.buckets: dict[Space, dict[int, bytes]] = {space: {} for space in SPACES}
        self.documents: dict[str, bytes] = {}
        self.leases: dict[str, tuple[Lease, float]] = {}
        """The leases, with the time until which each holds."""
        self.audit: list[object] = []
        self.on_bucket: Callable[[bytes, bytes], None] = lambda before, after: None
        """Called with the old and the new content of a bucket of users."""
        self.on_document: Callable[[str, bytes, bytes], None] = lambda name, before, after: None

    # ---- content, for tests

    @property
    def users(self) -> dict[UserKey, User]:
        return {user.key: user for user in self._users()}

    @property
    def rows(self) -> dict[str, HostRow]:
        return _rows(self.documents.get("hosts", EMPTY))

    @property
    def members(self) -> dict[str, MemberRow]:
        return {row.member: row for row in decode_member_rows(self.documents.get("members", EMPTY))}

    @property
    def met(self) -> frozenset[MemberId]:
        return decode_met(self.documents.get("members", EMPTY))

    def user(self, key: UserKey) -> User | None:
        blob = self.buckets["users"].get(key >> BUCKET_SHIFT, b"")
        return next((user for user in unpack(blob) if user.key == key), None)

    def _users(self) -> Iterator[User]:
        for blob in self.buckets["users"].values():
            if blob != SPLIT:
                yield from unpack(blob)

    # ---- faults

    def copy(self) -> Content:
        """Return the present content, for a failover that loses all later writes."""
        buckets = {space: dict(held) for space, held in self.buckets.items()}
        return buckets, dict(self.documents), dict(self.leases)

    def restore(self, content: Content) -> None:
        """Replace the content by an earlier copy."""
        buckets, documents, leases = content
        self.buckets = {space: dict(held) for space, held in buckets.items()}
        self.documents, self.leases = dict(documents), dict(leases)
        self.run_id += 1

    def clear(self) -> None:
        self.restore(({space: {} for space in SPACES}, {}, {}))

    # ---- calls

    def carry_out(self, call: Call, now: float) -> Any:
        """Return the answer to a call. `now`: the store's clock. Raises StoreUnavailable."""
        if not self.up and not isinstance(call, CloseStore):
            raise StoreUnavailable(URL, type(call).__name__, reason="down")
        match call:
            case ReadBuckets(space, numbers):
                return [self._bucket(space, number) for number in numbers]
            case SwapBuckets(swaps):
                return [self.swap(swap) for swap in swaps]
            case ReadVersions(space):
                return {number: version_of(blob) for number, blob in self.buckets[space].items()}
            case LoadBuckets(space, begins):
                there = sorted(self.buckets[space]) if begins else []
                return [self._bucket(space, number) for number in there] or None
            case ReadDocument(name):
                return self._document(name)
            case SwapDocument(name, version, data):
                return self.swap_document(name, version, data)
            case RenewLease(lease, ttl):
                return self._renew(lease, ttl, now)
            case ReadLeases():
                return [lease for lease, until in self.leases.values() if until > now]
            case ReleaseLease(member):
                self.leases.pop(member, None)
            case AppendAudit(entries):
                self.audit += entries
            case OpenStore():
                return StoreFacts("", SCHEMA, (), "")
            case ReadRunId():
                return StoreFacts(str(self.run_id), SCHEMA, (), "")
            case SetAside(name, data):
                self.documents[f"{name}.damaged"] = data
                return f"{name}.damaged"
            case ReadSecondCopy() | CloseStore():
                return None
            case _:
                raise AssertionError(f"no store carries out {call}")
        return None

    def _bucket(self, space: Space, number: int) -> Bucket:
        blob = self.buckets[space].get(number, b"")
        return Bucket(space, number, version_of(blob), blob)

    def _document(self, name: str) -> Document | None:
        data = self.documents.get(name)
        return None if data is None else Document(version_of(data), data)

    def swap(self, swap: Swap) -> Swapped | Lost:
        """Compare and swap a bucket."""
        held = self.buckets[swap.space]
        stored = held.get(swap.number, b"")
        if version_of(stored) not in (swap.version, swap.becomes):
            return Lost(version_of(stored), stored)
        if swap.space == "users" and swap.blob != stored:
            self.on_bucket(stored, swap.blob)
        if swap.blob:
            held[swap.number] = swap.blob
        else:
            held.pop(swap.number, None)
        return Swapped(swap.becomes)

    def swap_document(self, name: str, version: bytes, data: bytes) -> Swapped | Lost:
        """Compare and swap a document."""
        stored = self.documents.get(name, b"")
        becomes = version_of(data)
        if version_of(stored) not in (version, becomes):
            return Lost(version_of(stored), stored)
        if data != stored:
            self.on_document(name, stored, data)
        self.documents[name] = data
        return Swapped(becomes)

    def _renew(self, lease: Lease, ttl: float, now: float) -> bool:
        before = self.leases.get(lease.member)
        self.leases[lease.member] = lease, now + ttl
        return before is not None and before[1] > now


@lru_cache(maxsize=100)
def _rows(data: bytes) -> dict[str, HostRow]:
    return {row.address: row for row in decode_rows(data)}
