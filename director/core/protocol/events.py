"""The events: everything that can happen to a director."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from director.core.protocol.kicktypes import ProxiedSession
from director.core.protocol.messages import HostRow, MemberRow, RingMessage
from director.types import Address, LinkId, MemberId, RequestId, UserKey

STORE = "store"
"""The source of stored records, unless another is named."""


class Started(msgspec.Struct, frozen=True):
    """The store has been read as far as possible. The ring may be dialled."""


class Lookup(msgspec.Struct, frozen=True):
    """A login that the user table alone could not answer."""

    request: RequestId
    key: UserKey
    tag: bytes
    name: bytes
    """Of the user, without a master user's part; kept as of a login that is answered at once."""


class Dropped(msgspec.Struct, frozen=True):
    """The connections of these requests were closed: their answers are no longer needed."""

    requests: Sequence[RequestId]


class Seen(msgspec.Struct, frozen=True):
    """These users have live sessions (proxy-notify): their assignments are refreshed, in every pool."""

    names: Sequence[bytes]


class TableChanged(msgspec.Struct, frozen=True):
    """The hot path has assigned or refreshed users since the last turn of the loop."""


class LinkOpened(msgspec.Struct, frozen=True):
    """A TCP connection of the ring is open."""

    link: LinkId
    nonce: bytes
    """New random bytes for the greeting."""
    remote: Address
    """The other end's address, as TCP gives it."""
    dialled: MemberId | None = None
    leftwards: bool = False
    """As in `Dial`."""
    certificates: bytes = b""
    """SHA-256 of the dialler's certificate, then of the acceptor's; without TLS: empty."""


class DialFailed(msgspec.Struct, frozen=True):
    member: MemberId
    reason: str
    leftwards: bool = False


class Received(msgspec.Struct, frozen=True):
    """A frame has come over a link."""

    link: LinkId
    messages: Sequence[RingMessage]
    plain: bytes = b""
    """The bytes of the frame, if the frames of this link are not sealed yet: the proofs cover them."""


class LinkClosed(msgspec.Struct, frozen=True):
    link: LinkId
    reason: str


class Congested(msgspec.Struct, frozen=True):
    """The other end reads more slowly than this end writes: bulk data has to wait; or, with `clear`, can
    continue."""

    link: LinkId
    clear: bool = False


class HostChange(msgspec.Struct, frozen=True):
    """An operator changes a host. Attributes that are None stay as they are."""

    operation: int
    address: Address
    add: bool = False
    """Whether a new host may be added."""
    remove: bool = False
    hostname: str = ""
    tag: str | None = None
    retag: bool = False
    """Whether the tag of a present host may be changed. Users assigned under the old tag wait until they are
    moved."""
    weight: int | None = None
    up: bool | None = None
    only_if: HostRow | None = None
    """The row that the host must have when the change is carried out; None: any."""


class HostMove(msgspec.Struct, frozen=True):
    """A backend, by its name, has another address."""

    name: str
    before: Address
    after: Address


class HostsMoved(msgspec.Struct, frozen=True):
    """Backends have other addresses.

    All moves are made at once, because two backends may have exchanged addresses.
    """

    operation: int
    moves: Sequence[HostMove]
    only_if: Sequence[HostRow]
    """The rows of the old addresses. The moves are made only if the rows are still the same."""


class MemberChange(msgspec.Struct, frozen=True):
    """An operator adds a director to the ring, or removes one from it."""

    operation: int
    member: MemberId
    remove: bool = False
    name: str = ""
    """`name:port`, if the director is meant whatever address the name has."""


class MembersListed(msgspec.Struct, frozen=True):
    """The names of the configuration's directors have been resolved to other addresses."""

    members: Sequence[MemberId]
    names: Mapping[str, MemberId]
    """The director that each name, `name:port`, has now; also for names that operators have added."""


class IdentityChanged(msgspec.Struct, frozen=True):
    """The configuration was read again and has other secrets or backends.

    The fields are those of `Identity`.
    """

    secret: bytes
    second_secret: bytes
    backends: int = 0

    def __repr__(self) -> str:
        return "IdentityChanged(***)"

    __str__ = __repr__


class StoredMembers(msgspec.Struct, frozen=True):
    """The operators' changes of the list of directors were read from the store."""

    rows: Sequence[MemberRow]
    source: str = STORE
    met: frozenset[MemberId] = frozenset()
    """Directors that have been met, by this director or by another that shares the store."""


class UsersEvent(msgspec.Struct, frozen=True):
    """An operator's operation on users. `UsersDone` or `OperationFailed` follows.

    Each operation is declared where it is carried out, in `core/moves/jobs.py`.
    """

    operation: int


class InterruptFlush(msgspec.Struct, frozen=True):
    """An operator interrupts a flush: no more users are moved, and moves under way are finished."""

    operation: int


class Kicked(msgspec.Struct, frozen=True):
    """The result of one `Kick` or `CountSessions`. `problem` is empty if there was none."""

    kick: int
    sessions: int
    problem: str = ""


class KicksEnded(msgspec.Struct, frozen=True):
    """Kicks have ended in this turn of the loop."""

    ends: Sequence[Kicked]


class Persisted(msgspec.Struct, frozen=True):
    """The store has what `Persist` asked for."""

    number: int


class FlushEnded(msgspec.Struct, frozen=True):
    """A flush program has ended. `ok`: it says that nothing of the user is left on the old host."""

    number: int
    ok: bool


class SessionsListed(msgspec.Struct, frozen=True):
    """The sessions of the login processes of this machine were listed; empty too if they cannot be asked."""

    sessions: Sequence[ProxiedSession]
    late: bool = False
    """Whether no `ListSessions` asked for it: some users may have been connecting to a backend when the
    sessions there were ended, and may have sessions there now."""


class StoreOpened(msgspec.Struct, frozen=True):
    """The store answers and is about to be read: its records follow as `StoredUsers`."""


class BucketsRead(msgspec.Struct, frozen=True):
    """The store's records of these buckets have been handed over; None: of all, or the store stopped
    answering."""

    buckets: tuple[int, ...] | None


class StoredUsers(msgspec.Struct, frozen=True):
    """User records were read from the store, or from another source that is not the ring."""

    records: bytes
    source: str = STORE


class StoredHosts(msgspec.Struct, frozen=True):
    """Host rows were read from the store."""

    rows: Sequence[HostRow]
    applied: bool = False
    """Whether it is known which part of the configuration the rows have already: then they count as they
    are."""
    source: str = STORE


class Claimed(msgspec.Struct, frozen=True):
    """The shared store has answered a claim."""

    key: UserKey
    records: bytes
    """User records to merge before the login is answered; empty: `StoredUsers` has brought them already."""


class ClaimFailed(msgspec.Struct, frozen=True):
    key: UserKey


class Leases(msgspec.Struct, frozen=True):
    """The directors that hold a lease by the shared store's own clock, read after this director's lease was
    written; None: unknown."""

    holders: frozenset[MemberId] | None
    until: float = math.inf
    """Monotonic time until which this director's lease holds, so that no other continues without it. If the
    lease had expired before, memory has what others wrote meanwhile; 0: not yet."""


class ProcessStalled(msgspec.Struct, frozen=True):
    """The loop did not run for `gap` seconds: the process was stalled or suspended."""

    gap: float


class TimerFired(msgspec.Struct, frozen=True):
    """The time of `next_deadline()` has come."""


class Stopping(msgspec.Struct, frozen=True):
    """The director is to stop. It first has its neighbours link with each other. `Departed` follows."""


Order = HostChange | HostsMoved | MemberChange | UsersEvent | InterruptFlush
"""Everything that operators can ask for."""
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
    | MembersListed
    | IdentityChanged
    | StoredMembers
    | KicksEnded
    | Persisted
    | FlushEnded
    | SessionsListed
    | StoreOpened
    | BucketsRead
    | StoredUsers
    | StoredHosts
    | Claimed
    | ClaimFailed
    | Leases
    | ProcessStalled
    | TimerFired
    | Stopping
    | Order
)
