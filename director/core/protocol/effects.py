"""The effects: everything that a director may ask for.

They are data only; `service.driver` carries them out in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

import msgspec

from director.core.placement.assign import Backend
from director.core.protocol.kicktypes import KickWhat
from director.core.protocol.linkkeys import Keys
from director.core.protocol.messages import HostRow, MemberRow, RingMessage
from director.errors import OperationError
from director.records import MoveCounts
from director.types import LinkId, MemberId, RequestId, UserKey


class Level(Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Send(msgspec.Struct, frozen=True):
    """Send one frame over a link."""

    link: LinkId
    messages: Sequence[RingMessage]


class Close(msgspec.Struct, frozen=True):
    """Close a link after everything that was sent. `LinkClosed` does not follow."""

    link: LinkId


class SetReading(msgspec.Struct, frozen=True):
    """Stop reading from a link, because too many of its messages wait to be handled; or continue."""

    link: LinkId
    on: bool


class Seal(msgspec.Struct, frozen=True):
    """Seal every frame that is sent over a link from now on.

    The other end's next frame still comes plain: its Proof.
    """

    link: LinkId
    keys: Keys


class Unseal(msgspec.Struct, frozen=True):
    """Open the frames that follow the other end's Proof, which has just come, with this key instead."""

    link: LinkId
    key: bytes

    def __repr__(self) -> str:
        return f"Unseal({self.link}, ***)"

    __str__ = __repr__


class Dial(msgspec.Struct, frozen=True):
    """Connect to a director. `LinkOpened` or `DialFailed` follows."""

    member: MemberId
    leftwards: bool = False
    """Whether the other end is asked to take this director for its right neighbour."""


class Answer(msgspec.Struct, frozen=True):
    """Answer a waiting login with a backend."""

    request: RequestId
    key: UserKey
    backend: Backend


class Refuse(msgspec.Struct, frozen=True):
    """Let a waiting login fail temporarily."""

    request: RequestId
    reason: str


class Claim(msgspec.Struct, frozen=True):
    """Claim a user through the shared store.

    The store's record is taken, unless `Director.binds` says that it no longer counts. Otherwise `record` is
    written, unless it is empty. `Claimed` or `ClaimFailed` follows.
    """

    key: UserKey
    record: bytes


class OperationDone(msgspec.Struct, frozen=True):
    """Report that every director has a change. `row` is what holds now."""

    operation: int
    row: HostRow | MemberRow


class UsersDone(msgspec.Struct, frozen=True):
    """Report the result of a move, flush, kick … on all directors together."""

    operation: int
    counts: MoveCounts


class OperationFailed(msgspec.Struct, frozen=True):
    """Raise `error` with the text `reason` where the operator's command waits."""

    operation: int
    error: type[OperationError]
    reason: str


class StoreHosts(msgspec.Struct, frozen=True):
    """Write the host table to the store: it has changed."""


class StoreMembers(msgspec.Struct, frozen=True):
    """Write the list of directors to the store: it was changed at run time."""


class Persist(msgspec.Struct, frozen=True):
    """Write these buckets of users now; None: all that were not written yet. `Persisted` follows."""

    number: int
    buckets: Sequence[int] | None


class Kick(msgspec.Struct, frozen=True):
    """End sessions of the login processes of this machine. `KicksEnded` follows."""

    kick: int
    what: KickWhat


class CountSessions(msgspec.Struct, frozen=True):
    """Count the sessions that a kick on this machine would end. `KicksEnded` follows."""

    kick: int
    what: KickWhat


class RunFlush(msgspec.Struct, frozen=True):
    """Run the flush program for a user who is being moved. `FlushEnded` follows."""

    number: int
    hash32: int
    old: HostRow | None
    new: HostRow | None


class StopFlush(msgspec.Struct, frozen=True):
    """End a flush program that is no longer waited for."""

    number: int


class FetchBuckets(msgspec.Struct, frozen=True):
    """Read these buckets of users from the store before all others, because logins wait for them.

    `BucketsRead` follows.
    """

    buckets: tuple[int, ...]


class ListSessions(msgspec.Struct, frozen=True):
    """Ask the login processes for their sessions. `SessionsListed` follows."""


class Departed(msgspec.Struct, frozen=True):
    """Report that the ring continues without this director: the process may end."""


class LogEvent(msgspec.Struct, frozen=True):
    level: Level
    event: str
    fields: Mapping[str, object]


Effect = (
    Send
    | Close
    | SetReading
    | Seal
    | Unseal
    | Dial
    | Answer
    | Refuse
    | Claim
    | OperationDone
    | OperationFailed
    | UsersDone
    | StoreHosts
    | StoreMembers
    | Persist
    | Kick
    | CountSessions
    | RunFlush
    | StopFlush
    | FetchBuckets
    | ListSessions
    | Departed
    | LogEvent
)
