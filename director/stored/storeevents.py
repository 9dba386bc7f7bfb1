"""The events of the persistence core: answers of the store, times, and requests of the director."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from director.core.filechanges import AppliedHost
from director.types import UserKey
from state.base import AuditEntry, StoreError


class Open(msgspec.Struct, frozen=True):
    """Open the store and read its documents, or read the snapshot. `Opened` follows."""


class TakeOver(msgspec.Struct, frozen=True):
    """Continue instead of `Open`: memory is as a predecessor in this process left it, except these fields."""

    tables: Mapping[str, bytes]
    audit: Sequence[AuditEntry]


class Run(msgspec.Struct, frozen=True):
    """Begin to write changes."""


class Abort(msgspec.Struct, frozen=True):
    """End all calls and procedures that are under way. They are not answered."""


class Stop(msgspec.Struct, frozen=True):
    """Write what is left and release the lease. `Stopped` follows."""


class StoreAnswered(msgspec.Struct, frozen=True):
    """A call was answered. The call's docstring says what the answer is."""

    number: int
    answer: Any


class StoreFailed(msgspec.Struct, frozen=True):
    """A call failed. Whether it was carried out is unknown."""

    number: int
    error: StoreError


class TimeReached(msgspec.Struct, frozen=True):
    """The time of `next_deadline` has come, or work is left."""


class BucketsChanged(msgspec.Struct, frozen=True):
    """Users may have changed in memory, or the ring has changed."""


class HostsChanged(msgspec.Struct, frozen=True):
    """The table of hosts has changed."""


class MembersChanged(msgspec.Struct, frozen=True):
    """The list of directors has changed."""


class HostsApplied(msgspec.Struct, frozen=True):
    """The host table has the configuration that this director has applied."""

    applied: list[AppliedHost]


class SecretsChanged(msgspec.Struct, frozen=True):
    """The director has other secrets: the next write tells the store."""


class PersistAsked(msgspec.Struct, frozen=True):
    """Write these buckets of users at once; None: all that have changed.

    `Persisted` follows, unless the store is unreachable.
    """

    number: int
    """Below 0: the buckets hold an operator's change, and names follow."""
    buckets: Sequence[int] | None


class ReadAsked(msgspec.Struct, frozen=True):
    """Read these buckets of users soon, because logins wait for them.

    `BucketsRead` follows. The store is being loaded.
    """

    buckets: Sequence[int]


class ClaimAsked(msgspec.Struct, frozen=True):
    """Claim a user through the store. `Claimed` or `ClaimFailed` follows."""

    key: UserKey
    record: bytes
    """The candidate; empty: there is none."""


class AuditAdded(msgspec.Struct, frozen=True):
    """Add an entry to the audit with the next write.

    If the store stays unreachable, the oldest entries are dropped.
    """

    entry: AuditEntry


class WriteSoon(msgspec.Struct, frozen=True):
    """Write the changes without a pause: an operator waits for them."""


class SnapshotDue(msgspec.Struct, frozen=True):
    """The snapshot is about to be written: `NoteForSnapshot` follows for everything that has changed."""


StoreEvent = (
    Open
    | TakeOver
    | Run
    | Abort
    | Stop
    | StoreAnswered
    | StoreFailed
    | TimeReached
    | BucketsChanged
    | HostsChanged
    | MembersChanged
    | HostsApplied
    | SecretsChanged
    | PersistAsked
    | ReadAsked
    | ClaimAsked
    | AuditAdded
    | WriteSoon
    | SnapshotDue
)
