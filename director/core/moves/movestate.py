"""What is known of the moves under way: their stages, the jobs they are of, tokens that are held.

The machine that takes them from stage to stage: `moves.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from struct import Struct

import msgspec

from director.core.moves.kicks import KickRun
from director.core.placement.users import RECORD, User
from director.core.protocol.messages import HostRow, MoveRound
from director.records import MoveCounts
from director.types import HostId, MemberId, Stamp, UserKey

ROUND = 800
"""Most users of one round: the others deal with all of them in one turn of the loop."""
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
"""Whatever is overtaken by a plain choice goes back to STORING with a later stamp."""


class UserJob(msgspec.Struct, eq=False):
    """Why users are moved: one operation of an operator, or one login."""

    operation: int | None
    counts: MoveCounts = msgspec.field(default_factory=MoveCounts)
    under_way: set[UserKey] = msgspec.field(default_factory=set)
    unconfirmed: set[UserKey] = msgspec.field(default_factory=set)
    """Of those, the ones that not every member has confirmed yet."""
    complete: bool = True
    """Nobody is to be added any more."""
    at_once: bool = False
    """Without the kick delay: nobody is to come back to the old host."""
    early: bool = False
    """It is over when every member has confirmed, not after the delay."""

    @property
    def over(self) -> bool:
        return self.complete and not (self.unconfirmed if self.early else self.under_way)


class MovingUser(msgspec.Struct, gc=False):
    """A user who is being moved, by any director."""

    key: UserKey
    host: HostId
    decided: Stamp
    since: float
    before: bytes
    """The packed record before; host 0: the user was on no host."""
    kicks: tuple[KickRun, ...]
    """Those of this move, and of the moves it has overtaken."""
    origin: MemberId | None = None
    progress: float = 0.0
    """When a token was last seen."""

    @property
    def old(self) -> User:
        return User(*RECORD.unpack(self.before))


class LedMove(msgspec.Struct, kw_only=True, gc=False):
    """A move that is in our hands."""

    key: UserKey
    target: HostId
    flags: int
    decided: Stamp
    job: UserJob
    began: float
    before: bytes
    """The packed record before: a `User` would be one more object for each collection of garbage."""
    old_row: HostRow | None
    """His host before, as it was when the move began."""
    lost: bool = False
    """The target was removed, or is in another pool now."""
    stage: Stage = Stage.STORING
    until: float = 0.0
    """When the stage ends by itself, or its round is repeated."""
    number: int = 0
    """Of what we wait for: the writing, the flush program."""

    @property
    def old(self) -> User:
        return User(*RECORD.unpack(self.before))


class HeldToken(msgspec.Struct, gc=False):
    """A token that waits for our kicks."""

    token: MoveRound
    until: float
    passed: int = 0
    """Users of it, from its beginning, whose kicks are over."""


def subjects(moves: bytes) -> Iterable[tuple[UserKey, Stamp]]:
    """The users of a round, each with the stamp of his move."""
    return ((UserKey(key), Stamp(decided)) for key, decided in SUBJECT.iter_unpack(moves))
