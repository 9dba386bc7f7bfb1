"""A watch over the directors that lead moves: it finds moves that no director leads any more
(docs/ring.md, rule 26)."""

from __future__ import annotations

from collections.abc import Container, Sequence

from director.core.moves.kicks import KICK_TIMEOUT
from director.core.moves.movingusers import MovingUser, MovingUsers
from director.core.moves.walk import Walk
from director.core.placement.users import BUCKET_SHIFT, User
from director.core.protocol.ringtimings import ROUND_AGAIN
from director.core.protocol.view import RingView
from director.types import MemberId, Now, UserKey

WATCHED_EVERY = 1.0
"""Seconds between two checks whether the director that leads a move has left the ring."""
ABANDONED = KICK_TIMEOUT + 2.0
"""Seconds without a token after which the director that leads a move no longer counts as leading it, even
if that director is in the ring."""
SLICE = 150
"""Moves looked at in one turn of the loop."""


class LeaderWatch:
    def __init__(self, me: MemberId, moving: MovingUsers) -> None:
        self._me, self._moving = me, moving
        self._walk = Walk(moving.by_key)
        self._at: float | None = None
        """Monotonic time of the next walk."""
        self._ring: Sequence[MemberId] = ()
        """The ring at the last walk."""

    @property
    def has_work(self) -> bool:
        return self._walk.under_way

    def next_deadline(self) -> float | None:
        return self._at

    def began(self, now: Now) -> None:
        """Watch a move that has begun."""
        self._look_at(now.mono + ROUND_AGAIN)

    def abandoned(self, now: Now, view: RingView, led: Container[UserKey]) -> list[tuple[MovingUser, User]]:
        """Return moves that no director leads any more, of users whose bucket this director usually writes.

        A move without its record is forgotten.

        Args:
            now: the time.
            view: the ring.
            led: the users whose moves this director leads.

        Returns:
            Users and their records, some of them in each turn of the loop.
        """
        if view.ring != self._ring or (self._at is not None and now.mono >= self._at):
            self._ring, self._at = view.ring, None
            self._walk.begin()
        abandoned: list[tuple[MovingUser, User]] = []
        if not self._walk.under_way:
            return abandoned
        for key in self._walk.some(SLICE):
            moving = self._moving.by_key[key]
            record = self._moving.record_of(moving)
            if record is None:
                continue
            abandoned_at = _abandoned_at(moving, view)
            waits = key in led or now.mono < abandoned_at or not view.ring
            if waits or view.writers.of(key >> BUCKET_SHIFT, view.ring) != self._me:
                self._look_at(max(abandoned_at, now.mono + WATCHED_EVERY))
            else:
                abandoned.append((moving, record))
        return abandoned

    def _look_at(self, mono: float) -> None:
        self._at = mono if self._at is None else min(self._at, mono)


def _abandoned_at(moving: MovingUser, view: RingView) -> float:
    if moving.origin is not None and moving.origin in view.ring:
        return moving.progress + ABANDONED
    return max(moving.since, moving.progress) + ROUND_AGAIN
