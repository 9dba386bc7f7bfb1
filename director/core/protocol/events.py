"""Everything that can happen to a director."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from director.core.protocol.kicktypes import KickWhat, ProxiedSession
from director.core.protocol.messages import HostRow, MemberRow, RingMessage
from director.types import Address, LinkId, MemberId, RequestId, UserKey

STORE = "store"
"""Where stored things come from, unless it is said otherwise."""


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
    leftwards: bool = False
    """As in `Dial`."""
    certificates: bytes = b""
    """With TLS: SHA-256 of the dialler's certificate, then of the acceptor's."""


class DialFailed(msgspec.Struct, frozen=True):
    member: MemberId
    reason: str
    leftwards: bool = False


class Received(msgspec.Struct, frozen=True):
    """One frame."""

    link: LinkId
    messages: Sequence[RingMessage]
    plain: bytes = b""
    """The frame's bytes, where it came before the frames of this link are sealed: the proofs cover it."""


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
    retag: bool = False
    """May change the tag of a host that is there. Its users of the old tag wait until they are moved."""
    weight: int | None = None
    up: bool | None = None
    only_if: HostRow | None = None
    """Carried out only where the host is as here when its turn comes; None: in any case."""


class HostMove(msgspec.Struct, frozen=True):
    """The backend of a name has another address."""

    name: str
    before: Address
    after: Address


class HostsMoved(msgspec.Struct, frozen=True):
    """Backends have other addresses, all at once: two may have changed places."""

    operation: int
    moves: Sequence[HostMove]
    only_if: Sequence[HostRow]
    """The hosts at the addresses before, as they were: carried out only where they still are."""


class MemberChange(msgspec.Struct, frozen=True):
    """An operator adds a director to the ring, or removes one from it."""

    operation: int
    member: MemberId
    remove: bool = False
    name: str = ""
    """`name:port`, where it is meant whatever its address is by then."""


class MembersListed(msgspec.Struct, frozen=True):
    """The configuration's directors have other addresses now: their names resolve anew."""

    members: Sequence[MemberId]
    names: Mapping[str, MemberId]
    """Who each name, `name:port`, is now; of further directors too, that operators have added by name."""


class IdentityChanged(msgspec.Struct, frozen=True):
    """The configuration was read again: other secrets, or other backends. As in `Identity`."""

    secret: bytes
    second_secret: bytes
    backends: int = 0

    def __repr__(self) -> str:
        return "IdentityChanged(***)"

    __str__ = __repr__


class StoredMembers(msgspec.Struct, frozen=True):
    """What operators have changed in the list of directors, read from the state store."""

    rows: Sequence[MemberRow]
    source: str = STORE
    met: frozenset[MemberId] = frozenset()
    """Directors that have been met, by this director or another one that shares the store."""


class MoveUser(msgspec.Struct, frozen=True):
    """An operator moves a user to a host. `UsersDone` or `OperationFailed` follows, as for all of these."""

    operation: int
    key: UserKey
    """In the pool of the host's tag."""
    host: Address
    name: bytes = b""
    """For listings; empty: not known."""
    pin: bool = False
    """And he stays there for good."""
    early: bool = False
    """Say so when every director has confirmed, before the kick delay."""


class UnpinUser(msgspec.Struct, frozen=True):
    operation: int
    key: UserKey


class Flush(msgspec.Struct, frozen=True):
    """Move the users of a host (None: of all) to where the hash puts them."""

    operation: int
    host: Address | None = None
    tag: str | None = None
    """Only hosts with this tag."""
    max_parallel: int | None = None
    old_tag: bytes | None = None
    """The host had this tag before: its users are placed by it."""
    before: int = 0
    """With `old_tag`: only users decided before this stamp."""


class Forget(msgspec.Struct, frozen=True):
    """Forget the users of a host (None: of all), and end their sessions."""

    operation: int
    host: Address | None = None


class KickSessions(msgspec.Struct, frozen=True):
    """End sessions on all directors; nobody is moved."""

    operation: int
    what: KickWhat
    wait: bool = True
    """Where as many kicks as allowed are under way: wait, or be refused."""
    count_only: bool = False
    """End nothing, and say how many sessions would be ended."""


class Interrupt(msgspec.Struct, frozen=True):
    """A flush is to begin with no more users; those under way are finished."""

    operation: int


class Kicked(msgspec.Struct, frozen=True):
    """What became of one `Kick` or `CountSessions`. problem: empty where it is done."""

    kick: int
    sessions: int
    problem: str = ""


class KicksEnded(msgspec.Struct, frozen=True):
    """What became of the kicks that have ended in one turn of the loop."""

    ends: Sequence[Kicked]


class Persisted(msgspec.Struct, frozen=True):
    """What `Persist` asked for is in the store."""

    number: int


class FlushEnded(msgspec.Struct, frozen=True):
    """A flush program has ended. ok: it says that nothing of the user is left on the old host."""

    number: int
    ok: bool


class SessionsListed(msgspec.Struct, frozen=True):
    """What the login processes of this machine proxy; empty also where they cannot be asked."""

    sessions: Sequence[ProxiedSession]
    late: bool = False
    """Nobody asked: some of them may have been on their way to a backend when the sessions there were ended,
    and have arrived since."""


class StoreOpened(msgspec.Struct, frozen=True):
    """The store answers and is going to be read: what it knows of users follows, as `StoredUsers`."""


class BucketsRead(msgspec.Struct, frozen=True):
    """What the store knows of these buckets has been told; None: of all, or it stopped answering."""

    buckets: tuple[int, ...] | None


class StoredUsers(msgspec.Struct, frozen=True):
    """Records read from the state store, or from another source that is not the ring."""

    records: bytes
    source: str = STORE


class StoredHosts(msgspec.Struct, frozen=True):
    """Host rows read from the state store."""

    rows: Sequence[HostRow]
    applied: bool = False
    """Whether it is known what of the configuration is in them: then they count as they are."""
    source: str = STORE


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
    until: float = math.inf
    """Monotonic seconds until which no other director takes this one for dead. What others wrote while one
    might have is in memory; 0: not yet."""


class Thawed(msgspec.Struct, frozen=True):
    """The loop stood still for `gap` seconds: the process was frozen."""

    gap: float


class TimerFired(msgspec.Struct, frozen=True):
    """`next_deadline()` has come."""


class Stopping(msgspec.Struct, frozen=True):
    """The director is to end: it introduces its neighbours to each other first. `Left` follows."""


UsersEvent = MoveUser | UnpinUser | Flush | Forget | KickSessions
"""What operators do to users. `UsersDone` or `OperationFailed` follows."""
Order = HostChange | HostsMoved | MemberChange | UsersEvent | Interrupt
"""What operators do."""
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
    | Thawed
    | TimerFired
    | Stopping
    | Order
)
