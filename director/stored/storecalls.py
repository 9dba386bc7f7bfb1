"""What the persistence core asks of its surroundings: calls, which are answered, and other effects.

A call is carried out on the state store, unless it says otherwise. Its answer comes back as `StoreAnswered`
or `StoreFailed` with the number of the `Ask`. A journal in front of the buckets would add two calls here.
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
    """Something that is answered."""


class Copy(NamedTuple):
    """A further copy of a document."""

    data: bytes
    place: str
    """Where it is, for the log."""


class StoreFacts(NamedTuple):
    """What a store says of itself, with the answer to some calls."""

    run_id: str
    """As `StateStore.run_id`; empty with the answer to `OpenStore`."""
    schema: int
    held_by: tuple[str, ...]
    """Directors that know no newer schema."""
    set_aside: str
    """Where a damaged file was put; empty: there was none."""


class OpenStore(Call, frozen=True):
    """Connect with the store. Answer: `StoreFacts`."""


class CloseStore(Call, frozen=True):
    """Close its connections."""


class ReadRunId(Call, frozen=True):
    """Answer: `StoreFacts`."""


class LoadBuckets(Call, frozen=True):
    """The next batch of all buckets of a space. Answer: a list of buckets; None: that was all."""

    space: Space
    begins: bool
    """Whether it is the first batch."""


class ReadBuckets(Call, frozen=True):
    """Answer: a list of buckets, in the order of the numbers."""

    space: Space
    numbers: Sequence[int]


class ReadVersions(Call, frozen=True):
    """Answer: the version of each bucket that is there, by number."""

    space: Space


class SwapBuckets(Call, frozen=True):
    """Answer: a list of `Swapped` and `Lost`, one for each swap."""

    swaps: Sequence[Swap]


class ReadDocument(Call, frozen=True):
    """Answer: a `Document`, or None."""

    name: str


class SwapDocument(Call, frozen=True):
    """Answer: `Swapped` or `Lost`."""

    name: str
    version: bytes
    data: bytes


class ReadSecondCopy(Call, frozen=True):
    """The copy that the store keeps of a document itself. Answer: a `Document`, or None."""

    name: str


class SetAside(Call, frozen=True):
    """Keep the damaged form of a document. Answer: under which name."""

    name: str
    data: bytes


class RenewLease(Call, frozen=True):
    """Answer: whether the director had a lease until now."""

    lease: Lease
    ttl: float


class ReadLeases(Call, frozen=True):
    """Answer: a list of the leases that have not lapsed."""


class ReleaseLease(Call, frozen=True):
    member: str


class AppendAudit(Call, frozen=True):
    entries: Sequence[AuditEntry]


class LoadSnapshot(Call, frozen=True):
    """Merge the whole snapshot into memory. Answer: whether there was anything in it."""

    reason: str
    """For the log."""


class FillFromSnapshot(Call, frozen=True):
    """Merge what the snapshot holds of these buckets into memory."""

    space: Space
    numbers: Sequence[int]


class ReadSnapshotCopies(Call, frozen=True):
    """A document as the snapshot holds it. Answer: a list of `Copy`, the best first."""

    name: str


class Tell(Call, frozen=True):
    """Hand an event to the director. As a call it is answered once the director has taken the event in."""

    event: Event


class Pause(Call, frozen=True):
    """Let the loop do other work. It is answered in the next turn of the loop."""


class Note(Call, frozen=True):
    """Write to the log."""

    log: LogEvent


class Wait(NamedTuple):
    """What a procedure yields to wait, instead of a call. Answer: whether a signal has ended the wait."""

    until: float | None = None
    """Monotonic seconds; None: without end."""
    signals: tuple[Signal, ...] = ()


class Signal:
    """Something that procedures wait for. It stays set until it is cleared."""

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        self.is_set = True

    def clear(self) -> None:
        self.is_set = False


Procedure = Generator[Call | Wait, Any, Result]
"""A sequence of calls and waits: it yields each, is sent the answer, and has the error of a failed call
raised in it."""


class Ask(msgspec.Struct, frozen=True):
    """Carry out a call, and say what came of it under this number."""

    number: int
    call: Call


class Drop(msgspec.Struct, frozen=True):
    """Nobody waits for the answer to this call any more: cancel it."""

    number: int


class NoteForSnapshot(msgspec.Struct, frozen=True):
    """These buckets have changed: the snapshot is to be written."""

    space: Space
    numbers: Sequence[int]


class WriteSnapshot(msgspec.Struct, frozen=True):
    """Documents have changed, by an operator: the snapshot is to be written soon."""


class Connected(msgspec.Struct, frozen=True):
    """The store is up: whoever waits for something to be stored asks again."""


class Opened(msgspec.Struct, frozen=True):
    """`Open` has ended. error: the director must not start."""

    error: StoreError | None


class Stopped(msgspec.Struct, frozen=True):
    """`Stop` has ended: what could be written is."""


StoreEffect = Ask | Drop | Tell | Note | NoteForSnapshot | WriteSnapshot | Connected | Opened | Stopped
