"""Everything that can happen to a director."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from director.core.messages import HostRow, RingMessage
from director.types import Address, LinkId, MemberId, RequestId, UserKey


class Started(msgspec.Struct, frozen=True):
    """The state store has been read as far as it could be; the ring may be dialled."""


class Lookup(msgspec.Struct, frozen=True):
    """A login that the table alone could not answer."""

    request: RequestId
    key: UserKey
    tag: bytes


class Dropped(msgspec.Struct, frozen=True):
    """Nobody waits for these requests any more: their connection is gone."""

    requests: Sequence[RequestId]


class Seen(msgspec.Struct, frozen=True):
    """Live sessions of these users (proxy-notify): keep what is known of them, in every tag."""

    names: Sequence[bytes]


class TableChanged(msgspec.Struct, frozen=True):
    """The hot path has put or refreshed users since the last turn of the loop."""


class LinkOpened(msgspec.Struct, frozen=True):
    """A TCP connection of the ring stands. dialled: the member dialled, None where the other end dialled."""

    link: LinkId
    nonce: bytes
    """Fresh random bytes for the greeting."""
    remote: Address
    """The other end's address, as TCP says."""
    dialled: MemberId | None = None


class DialFailed(msgspec.Struct, frozen=True):
    member: MemberId
    reason: str


class Received(msgspec.Struct, frozen=True):
    """One frame."""

    link: LinkId
    messages: Sequence[RingMessage]


class LinkClosed(msgspec.Struct, frozen=True):
    link: LinkId
    reason: str


class Congested(msgspec.Struct, frozen=True):
    """The other end reads more slowly than we write: hold back bulk (or, `clear`, go on)."""

    link: LinkId
    clear: bool = False


class HostChange(msgspec.Struct, frozen=True):
    """An operator's change of one host. What is None stays as it is."""

    operation: int
    address: Address
    add: bool = False
    """May add a host that is not there."""
    remove: bool = False
    hostname: str = ""
    tag: str | None = None
    weight: int | None = None
    up: bool | None = None


class StoredUsers(msgspec.Struct, frozen=True):
    """Records read from the state store."""

    records: bytes


class StoredHosts(msgspec.Struct, frozen=True):
    """Host rows read from the state store."""

    rows: Sequence[HostRow]


class Claimed(msgspec.Struct, frozen=True):
    """The store has settled who gets the user; `records` holds at least his."""

    key: UserKey
    records: bytes


class ClaimFailed(msgspec.Struct, frozen=True):
    key: UserKey


class Leases(msgspec.Struct, frozen=True):
    """Who lives by the shared store's own clock, read after the own lease was written; None: it does not
    say."""

    alive: frozenset[MemberId] | None


class Thawed(msgspec.Struct, frozen=True):
    """The loop stood still for `gap` seconds: the process was frozen."""

    gap: float


class TimerFired(msgspec.Struct, frozen=True):
    """`next_deadline()` has come."""


class Stopping(msgspec.Struct, frozen=True):
    """The director ends: say good-bye to the ring."""


Event = (
    Started
    | Lookup
    | Dropped
    | Seen
    | TableChanged
    | LinkOpened
    | DialFailed
    | Received
    | LinkClosed
    | Congested
    | HostChange
    | StoredUsers
    | StoredHosts
    | Claimed
    | ClaimFailed
    | Leases
    | Thawed
    | TimerFired
    | Stopping
)
