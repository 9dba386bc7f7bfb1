"""Everything a director may want done. Data only; `service.driver` carries them out in list order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

import msgspec

from director.core.assign import Backend
from director.core.messages import HostRow, RingMessage
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


class Dial(msgspec.Struct, frozen=True):
    """Connect to a member; `LinkOpened` or `DialFailed` follows."""

    member: MemberId


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
    not count
    any more; then this record is put. `Claimed` or `ClaimFailed` follows."""

    key: UserKey
    record: bytes


class OperationDone(msgspec.Struct, frozen=True):
    """Every director has the change; `row` is what holds now."""

    operation: int
    row: HostRow


class OperationFailed(msgspec.Struct, frozen=True):
    """kind: `unknown`, `bad`, `refused` or `again`, as in the errors of the same name."""

    operation: int
    kind: str
    reason: str


class StoreHosts(msgspec.Struct, frozen=True):
    """The host table has changed: write it to the store."""


class Log(msgspec.Struct, frozen=True):
    level: Level
    event: str
    fields: Mapping[str, object]


Effect = Send | Close | Dial | Answer | Refuse | Claim | OperationDone | OperationFailed | StoreHosts | Log
