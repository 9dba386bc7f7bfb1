"""The moves that this director leads, their stages and their jobs.

`moves.py` takes them from stage to stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from struct import Struct

import msgspec

from director.core.placement.users import RECORD, User
from director.core.protocol.messages import HostRow
from director.records import MoveCounts
from director.types import HostId, Stamp, UserKey

ROUND = 800
"""Most users of one round: every other director handles all of them in one turn of the loop."""
SUBJECT = Struct(">QI")


class Stage(Enum):
    STORING = "storing"
    KICKING = "killing"
    ROUND = "waiting-for-everyone"
    FLUSHING = "flushing"
    DELAY = "delay"
    OVER = "none"


TRANSITIONS: Mapping[Stage, frozenset[Stage]] = {
    Stage.STORING: frozenset({Stage.KICKING, Stage.STORING, Stage.OVER}),
    Stage.KICKING: frozenset({Stage.ROUND, Stage.STORING, Stage.OVER}),
    Stage.ROUND: frozenset({Stage.FLUSHING, Stage.DELAY, Stage.STORING, Stage.OVER}),
    Stage.FLUSHING: frozenset({Stage.DELAY, Stage.STORING, Stage.OVER}),
    Stage.DELAY: frozenset({Stage.STORING, Stage.OVER}),
    Stage.OVER: frozenset(),
}
"""A move that a login supersedes returns to STORING with a later stamp."""


class UserJob(msgspec.Struct, eq=False):
    """The reason why users are moved: one operation of an operator, or a login."""

    operation: int | None
    counts: MoveCounts = msgspec.field(default_factory=MoveCounts)
    under_way: set[UserKey] = msgspec.field(default_factory=set)
    unconfirmed: set[UserKey] = msgspec.field(default_factory=set)
    """Users under way whose moves not every director has confirmed yet."""
    complete: bool = True
    """Whether no more users will be added."""
    at_once: bool = False
    """Whether the kick delay is skipped, because no user will return to the old host."""
    early: bool = False
    """Whether the job ends when every director has confirmed, without the delay."""

    @property
    def over(self) -> bool:
        return self.complete and not (self.unconfirmed if self.early else self.under_way)


class LedMove(msgspec.Struct, kw_only=True, gc=False):
    """A move that this director leads."""

    key: UserKey
    target: HostId
    flags: int
    decided: Stamp
    job: UserJob
    began: float
    before: bytes
    """The user's packed record from before the move. A `User` would be another object for each garbage
    collection to visit."""
    old_row: HostRow | None
    """The row of the user's former host, as it was when the move began."""
    lost: bool = False
    """Whether the target was removed, or has come to another pool."""
    stage: Stage = Stage.STORING
    until: float = 0.0
    """Monotonic time at which the stage ends by itself, or the round is repeated."""
    number: int = 0
    """Number of the write or flush program that the move waits for."""

    @property
    def old(self) -> User:
        return User(*RECORD.unpack(self.before))


def subjects(moves: bytes) -> Iterable[tuple[UserKey, Stamp]]:
    """Iterate over the users of a round, each with the stamp of the move."""
    return ((UserKey(key), Stamp(decided)) for key, decided in SUBJECT.iter_unpack(moves))
