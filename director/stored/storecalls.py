"""The calls and other effects of the persistence core.

A call is carried out on the state store, unless its docstring says otherwise. Its answer comes back as
`StoreAnswered` or `StoreFailed` with the number of the `Ask`. A journal in front of the buckets would add two
calls here.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from director.core.protocol.effects import LogEvent
from director.core.protocol.events import Event
from state.base import AuditEntry, Lease, Space, StoreError, Swap

Result = TypeVar("Result")


class Call(msgspec.Struct, frozen=True):
    """An effect that the driver answers, such as a read from the store."""


class Copy(NamedTuple):
    """A copy of a document, and where it comes from."""

    data: bytes
    place: str
    """Its place, for the log."""


class StoreFacts(NamedTuple):
    """The facts that a store tells of itself, as the answer to some calls."""

    run_id: str
    """As `StateStore.run_id`; empty in the answer to `OpenStore`."""
    schema: int
    held_by: tuple[str, ...]
    """Directors that know no newer schema."""
    set_aside: str
    """Where a damaged file was moved to; empty: there was none."""


class OpenStore(Call, frozen=True):
    """Connect to the store. Answer: `StoreFacts`."""


class CloseStore(Call, frozen=True):
    """Close the connections to the store."""


class ReadRunId(Call, frozen=True):
    """Read the store's run id. Answer: `StoreFacts`."""


class LoadBuckets(Call, frozen=True):
    """Read the next batch of all buckets of a space. Answer: a list of buckets; None: there are no more."""

    space: Space
    begins: bool
    """Whether this is the first batch."""


class ReadBuckets(Call, frozen=True):
    """Read buckets. Answer: a list of buckets, in the order of the numbers."""

    space: Space
    numbers: Sequence[int]


class ReadVersions(Call, frozen=True):
    """Read the versions of all buckets. Answer: the version of each existing bucket, by number."""

    space: Space


class SwapBuckets(Call, frozen=True):
    """Write buckets by compare-and-swap. Answer: a list of `Swapped` and `Lost`, one for each swap."""

    swaps: Sequence[Swap]


class ReadDocument(Call, frozen=True):
    """Read a document. Answer: a `Document`, or None."""

    name: str


class SwapDocument(Call, frozen=True):
    """Write a document by compare-and-swap. Answer: `Swapped` or `Lost`."""

    name: str
    version: bytes
    data: bytes


class ReadSecondCopy(Call, frozen=True):
    """Read the second copy of a document that the store keeps itself. Answer: a `Document`, or None."""

    name: str


class SetAside(Call, frozen=True):
    """Keep a damaged document elsewhere. Answer: its new name."""

    name: str
    data: bytes


class RenewLease(Call, frozen=True):
    """Renew the lease. Answer: whether the director held a lease until now."""

    lease: Lease
    ttl: float


class ReadLeases(Call, frozen=True):
    """Read the leases that have not expired. Answer: a list of leases."""


class ReleaseLease(Call, frozen=True):
    member: str


class AppendAudit(Call, frozen=True):
    entries: Sequence[AuditEntry]


class LoadSnapshot(Call, frozen=True):
    """Merge the snapshot into memory. Answer: whether there was anything in it."""

    reason: str
    """The reason, for the log."""


class FillFromSnapshot(Call, frozen=True):
    """Merge these buckets of the snapshot into memory."""

    space: Space
    numbers: Sequence[int]


class ReadSnapshotCopies(Call, frozen=True):
    """Read a document of the snapshot. Answer: a list of `Copy`, the best first."""

    name: str


class Tell(Call, frozen=True):
    """Hand an event to the director. As a call it is answered once the director has handled the event."""

    event: Event


class Pause(Call, frozen=True):
    """Let the loop do other work. It is answered in the next turn of the loop."""


class Note(Call, frozen=True):
    """Write to the log."""

    log: LogEvent


class Wait(NamedTuple):
    """Yielded by a procedure instead of a call, to wait. Answer: whether a signal has ended the wait."""

    until: float | None = None
    """Monotonic seconds; None: without end."""
    signals: tuple[Signal, ...] = ()


class Signal:
    """A signal that procedures wait for. It stays set until it is cleared."""

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        self.is_set = True

    def clear(self) -> None:
        self.is_set = False


Procedure = Generator[Call | Wait, Any, Result]
"""A sequence of calls and waits. It yields each, is sent the answer, and has the error of a failed call
raised in it."""


class Ask(msgspec.Struct, frozen=True):
    """Carry out a call, and answer it under this number."""

    number: int
    call: Call


class Drop(msgspec.Struct, frozen=True):
    """Cancel a call: its answer is no longer waited for."""

    number: int


class NoteForSnapshot(msgspec.Struct, frozen=True):
    """Write these buckets to the snapshot: they have changed."""

    space: Space
    numbers: Sequence[int]


class WriteSnapshot(msgspec.Struct, frozen=True):
    """Write the snapshot soon: an operator has changed documents."""


class Connected(msgspec.Struct, frozen=True):
    """The store is reachable: the parts that wait for something to be stored ask again."""


class Opened(msgspec.Struct, frozen=True):
    """`Open` has ended. `error`: the director must not start."""

    error: StoreError | None


class Stopped(msgspec.Struct, frozen=True):
    """`Stop` has ended: everything that could be written is written."""


StoreEffect = Ask | Drop | Tell | Note | NoteForSnapshot | WriteSnapshot | Connected | Opened | Stopped
