"""Everything a director may want done. Data only; `service.driver` carries them out in list order."""

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
    """One frame to one link."""

    link: LinkId
    messages: Sequence[RingMessage]


class Close(msgspec.Struct, frozen=True):
    """End a link after what was sent; `LinkClosed` does not follow."""

    link: LinkId


class SetReading(msgspec.Struct, frozen=True):
    """Read no more from a link for now, because much of what came is not dealt with yet; or go on."""

    link: LinkId
    on: bool


class Seal(msgspec.Struct, frozen=True):
    """From here on every frame sent over a link is sealed. One more comes plain: the other end's proof."""

    link: LinkId
    keys: Keys


class Unseal(msgspec.Struct, frozen=True):
    """The frames behind the other end's proof, which has just come, have the seal of this key instead."""

    link: LinkId
    key: bytes

    def __repr__(self) -> str:
        return f"Unseal({self.link}, ***)"

    __str__ = __repr__


class Dial(msgspec.Struct, frozen=True):
    """Connect to a member; `LinkOpened` or `DialFailed` follows."""

    member: MemberId
    leftwards: bool = False
    """To ask him to take us for his right neighbour."""


class Answer(msgspec.Struct, frozen=True):
    """The waiting login goes to `backend`."""

    request: RequestId
    key: UserKey
    backend: Backend


class Refuse(msgspec.Struct, frozen=True):
    """The waiting login gets a temporary failure."""

    request: RequestId
    reason: str


class Claim(msgspec.Struct, frozen=True):
    """Ask the shared store to settle a user: what is there is taken, unless `Director.binds` says it does
    not count any more; then this record is put, unless it is empty. `Claimed` or `ClaimFailed` follows."""

    key: UserKey
    record: bytes


class OperationDone(msgspec.Struct, frozen=True):
    """Every director has the change; `row` is what holds now."""

    operation: int
    row: HostRow | MemberRow


class UsersDone(msgspec.Struct, frozen=True):
    """What a move, flush, kick … came to, on all directors together."""

    operation: int
    counts: MoveCounts


class OperationFailed(msgspec.Struct, frozen=True):
    """`error` is raised where the operator's command waits, with `reason` for its text."""

    operation: int
    error: type[OperationError]
    reason: str


class StoreHosts(msgspec.Struct, frozen=True):
    """The host table has changed: write it to the store."""


class StoreMembers(msgspec.Struct, frozen=True):
    """The list of directors was changed at run time: write it to the store."""


class Persist(msgspec.Struct, frozen=True):
    """Write these buckets of users now (None: whatever is not written yet). `Persisted` follows."""

    number: int
    buckets: Sequence[int] | None


class Kick(msgspec.Struct, frozen=True):
    """End sessions that login processes of this machine proxy. `KicksEnded` follows."""

    kick: int
    what: KickWhat


class CountSessions(msgspec.Struct, frozen=True):
    """Count the sessions that a kick of this machine would end. `KicksEnded` follows."""

    kick: int
    what: KickWhat


class RunFlush(msgspec.Struct, frozen=True):
    """Run the flush program for a user who is being moved. `FlushEnded` follows."""

    number: int
    hash32: int
    old: HostRow | None
    new: HostRow | None


class StopFlush(msgspec.Struct, frozen=True):
    """End that program: nobody waits for it any more."""

    number: int


class ReadBuckets(msgspec.Struct, frozen=True):
    """Read these buckets of users from the store before all others: logins wait for them. `BucketsRead`
    follows."""

    buckets: tuple[int, ...]


class ListSessions(msgspec.Struct, frozen=True):
    """Ask the login processes what they proxy. `SessionsListed` follows."""


class Departed(msgspec.Struct, frozen=True):
    """The ring goes on without us: the process may end."""


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
    | ReadBuckets
    | ListSessions
    | Departed
    | LogEvent
)
