"""The users who are being moved, by any director: since when, and which of their sessions are ended here."""

from __future__ import annotations

from collections import deque

import msgspec

from director.core.moves.kicks import KickRun
from director.core.moves.movestate import subjects
from director.core.placement.users import MOVING, RECORD, User, UserTable
from director.core.protocol.messages import MoveRound
from director.types import HostId, MemberId, Now, Stamp, UserKey

MOVE_TIMEOUT = 30.0
"""Seconds after which a user is released, whatever has become of the move."""
SLICE = 150
"""Moves that a turn of the loop ends after their time-out."""


class MovingUser(msgspec.Struct, gc=False):
    """A user who is being moved, by any director."""

    key: UserKey
    host: HostId
    decided: Stamp
    since: float
    before: bytes
    """The user's packed record from before the move; host 0: there was none."""
    kicks: tuple[KickRun, ...]
    """The kicks of this move, and of the moves that it has superseded."""
    origin: MemberId | None = None
    progress: float = 0.0
    """Monotonic time at which a token of the move last came."""

    @property
    def old(self) -> User:
        return User(*RECORD.unpack(self.before))


class MovingUsers:
    def __init__(self, users: UserTable) -> None:
        self.by_key: dict[UserKey, MovingUser] = {}
        self.has_overdue = False
        """Whether more moves have timed out than one turn of the loop may end."""
        self._users = users
        self._begun: deque[MovingUser] = deque()
        """All moves that began in the last `MOVE_TIMEOUT` seconds, the oldest first."""

    def changed(self, old: User, new: User, kick: KickRun | None, now: Now) -> bool:
        """Handle a change of a user's host or MOVING flag.

        Args:
            old: the user's former record.
            new: the user's record.
            kick: the kick that the change has begun; None: it has begun none.
            now: the time.

        Returns:
            Whether a move has begun.
        """
        if not new.flags & MOVING:
            self.by_key.pop(new.key, None)
            return False
        known = self.by_key.get(new.key)
        if known is not None and (known.decided, known.host) == (new.decided, new.host):
            return False
        before = known.old if known is not None else old
        kicks = known.kicks if known is not None else ()
        if known is not None and known.decided != new.decided:
            # kicks that have ended were reported and counted with the former move
            kicks = tuple(former for former in kicks if not former.over)
        kicks += (kick,) if kick is not None else ()
        moving = MovingUser(new.key, new.host, new.decided, now.mono, RECORD.pack(*before), kicks)
        self.by_key[new.key] = moving
        self._begun.append(moving)
        return True

    def released(self, key: UserKey) -> None:
        """Note that a user is not being moved any more."""
        self.by_key.pop(key, None)

    def heard(self, token: MoveRound, now: Now) -> None:
        """Note that a token of the director that leads these moves has come."""
        for key, _ in subjects(token.moves):
            moving = self.by_key.get(key)
            if moving is not None:
                moving.origin, moving.progress = MemberId(token.origin), now.mono

    def record_of(self, moving: MovingUser) -> User | None:
        """Return the user's record if it is still the record of this move; else forget the move."""
        record = self._users.get(moving.key)
        if record is None or not record.flags & MOVING or record.decided != moving.decided:
            del self.by_key[moving.key]
            return None
        return record

    def is_kicking(self, key: UserKey) -> bool:
        """Whether a kick of a user has not ended yet."""
        moving = self.by_key.get(key)
        return moving is not None and not all(kick.over for kick in moving.kicks)

    def kicks_of(self, moves: bytes) -> tuple[bool, int, bool]:
        """Return what this director reports about the kicks of these users.

        Args:
            moves: the users of a round, as in `MoveRound`.

        Returns:
            Whether a kick was not confirmed; the sessions ended; whether there was a kick at all. A login
            that has only just been answered has no session yet, but may have one soon.
        """
        late, kicked, parted = False, 0, False
        for key, decided in subjects(moves):
            moving = self.by_key.get(key)
            for kick in moving.kicks if moving is not None and moving.decided == decided else ():
                kicked += kick.sessions
                late = late or not kick.over or bool(kick.problem)
                parted = True
        return late, kicked, parted

    def timed_out(self, now: Now) -> list[MovingUser]:
        """Return the users whose moves have timed out, some of them in each turn of the loop."""
        timed_out: list[MovingUser] = []
        for _ in range(SLICE):
            if not self._begun or not self._has_ended(self._begun[0], now):
                break
            moving = self._begun.popleft()
            if self.by_key.get(moving.key) is moving and self.record_of(moving) is not None:
                timed_out.append(moving)
        self.has_overdue = bool(self._begun) and self._has_ended(self._begun[0], now)
        return timed_out

    def _has_ended(self, moving: MovingUser, now: Now) -> bool:
        return now.mono >= moving.since + MOVE_TIMEOUT or self.by_key.get(moving.key) is not moving

    def next_deadline(self) -> float | None:
        return self._begun[0].since + MOVE_TIMEOUT if self._begun else None
