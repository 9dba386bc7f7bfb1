"""What happens to the persistence core: answers of the store, time, and what the director wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from director.core.filechanges import AppliedHost
from director.types import UserKey
from state.base import AuditEntry, StoreError


class Open(msgspec.Struct, frozen=True):
    """Open the store and read its documents; or take the snapshot. `Opened` follows."""


class TakeOver(msgspec.Struct, frozen=True):
    """Instead of `Open`: memory is as a predecessor in this process has left it, but for these."""

    tables: Mapping[str, bytes]
    audit: Sequence[AuditEntry]


class Run(msgspec.Struct, frozen=True):
    """Write behind from now on."""


class Interrupt(msgspec.Struct, frozen=True):
    """Whatever is under way ends here; no answer to it follows."""


class Stop(msgspec.Struct, frozen=True):
    """Write what is left and give up the lease. `Stopped` follows."""


class StoreAnswered(msgspec.Struct, frozen=True):
    """The answer to a call; its type is said by the call."""

    number: int
    answer: Any


class StoreFailed(msgspec.Struct, frozen=True):
    """A call failed: whether it was carried out is unknown."""

    number: int
    error: StoreError


class TimeReached(msgspec.Struct, frozen=True):
    """The time of `next_deadline` has come, or work is left over."""


class BucketsChanged(msgspec.Struct, frozen=True):
    """Users may have changed in memory, or the ring."""


class HostsChanged(msgspec.Struct, frozen=True):
    """The table of hosts has changed."""


class MembersChanged(msgspec.Struct, frozen=True):
    """The list of directors has changed."""


class HostsApplied(msgspec.Struct, frozen=True):
    """What this director has applied of its configuration is in the host table."""

    applied: list[AppliedHost]


class SecretsChanged(msgspec.Struct, frozen=True):
    """The director has other secrets: the store is to say so with the next write."""


class PersistAsked(msgspec.Struct, frozen=True):
    """Write these buckets of users (None: all that have changed) at once. `Persisted` follows, unless the
    store is unreachable."""

    number: int
    """Below 0: of a change of an operator, which names follow."""
    buckets: Sequence[int] | None


class ReadAsked(msgspec.Struct, frozen=True):
    """Logins wait for these buckets of users; `BucketsRead` follows. The store is being loaded."""

    buckets: Sequence[int]


class ClaimAsked(msgspec.Struct, frozen=True):
    """Claim a user through the store; `Claimed` or `ClaimFailed` follows."""

    key: UserKey
    record: bytes
    """The candidate; empty: there is none."""


class AuditAdded(msgspec.Struct, frozen=True):
    """Keep who did what: written with the next write, dropped (oldest first) if the store stays
    unreachable."""

    entry: AuditEntry


class WriteSoon(msgspec.Struct, frozen=True):
    """Somebody waits for what has changed: write it without a rest."""


class SnapshotDue(msgspec.Struct, frozen=True):
    """The snapshot is about to be written: `NoteForSnapshot` follows for all that has changed."""


StoreEvent = (
    Open
    | TakeOver
    | Run
    | Interrupt
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
