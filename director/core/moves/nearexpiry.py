"""Users near expiry who may get another host: the ring is asked before they are assigned anew (docs/ring.md,
rules 21-23; USER-WEAK in Dovecot 2.3's director).

The asking director: asked --its token returns--> decided. If a director has seen the user recently, the host
stays. Otherwise the user is assigned anew.

Every other director holds the user's logins from passing the token on until the decision arrives, the asking
director has left, or HOLD seconds have passed. If two directors ask at once, the lower address continues and
the other waits for its decision.
"""

from __future__ import annotations

import msgspec

from director.core.logins.pending import Pending
from director.core.moves.walk import Walk
from director.core.placement.assign import Assigner
from director.core.placement.users import User, is_unexpired
from director.core.protocol.counters import Counters
from director.core.protocol.effects import Effect, Send
from director.core.protocol.messages import NearRound
from director.core.protocol.order import member_order
from director.core.protocol.ringtimings import TOKEN_AGAIN
from director.core.protocol.view import RingView
from director.types import MemberId, Now, UserKey

SLICE = 200
"""Users looked at in one turn of the loop."""
HOLD = 2.0
"""Seconds for which a director promises to hold a user's logins."""
MOST_HELD = 10_000
"""Users that are held at a time."""


class _AskedRound(msgspec.Struct, gc=False):
    tag: bytes
    before: User
    repeat_at: float
    serial: int = 0


class _Hold(msgspec.Struct, gc=False):
    origin: MemberId
    before: User | None
    until: float


class NearExpiry:
    def __init__(
        self, me: MemberId, first_serial: int, assigner: Assigner, pending: Pending, counters: Counters
    ) -> None:
        self._me, self._serial = me, first_serial
        self._assigner, self._users, self._pending = assigner, assigner.users, pending
        self._counters = counters
        self._asked: dict[UserKey, _AskedRound] = {}
        self._holds: dict[UserKey, _Hold] = {}
        self._asked_walk, self._hold_walk = Walk(self._asked), Walk(self._holds)
        self._at: float | None = None

    def __len__(self) -> int:
        """Return how many users this director has asked about, or holds."""
        return len(self._asked) + len(self._holds)

    def ask(self, key: UserKey, tag: bytes, now: Now) -> None:
        """Ask the ring which director has seen a user last who waits to log in."""
        before = self._users.get(key)
        if before is not None and key not in self._asked and key not in self._holds:
            self._asked[key] = _AskedRound(tag, before, now.mono)
            self._soon(now.mono)
            self._counters.near_rounds += 1

    def token(self, token: NearRound, now: Now, view: RingView) -> list[Effect]:
        """Take a token from the left neighbour.

        Returns:
            The token for the right neighbour, if it is passed on.
        """
        key, origin = UserKey(token.key), MemberId(token.origin)
        if origin == self._me:
            asked = self._asked.get(key)
            if asked is not None and token.serial == asked.serial and now.mono >= view.held_until:
                self._decide(key, asked, token.seen)
            return []
        if self._me in token.passed or self._has_precedence(key, origin, now):
            return []
        if len(self._holds) >= MOST_HELD and key not in self._holds:
            return []  # the origin asks again
        self._asked.pop(key, None)
        user = self._users.get(key)
        self._holds[key] = _Hold(origin, user, now.mono + HOLD)
        self._soon(now.mono + HOLD)
        self._assigner.hold(key)
        if view.right is None:
            return []
        seen = max(token.seen, user.seen) if user is not None else token.seen
        passed = [*token.passed, self._me]
        return [Send(view.right, [NearRound(token.origin, token.serial, token.key, seen, passed)])]

    def _has_precedence(self, key: UserKey, origin: MemberId, now: Now) -> bool:
        """Whether this director's own question, or another that it has promised to wait for, goes before this
        one."""
        if key in self._asked:
            return member_order(self._me) < member_order(origin)
        hold = self._holds.get(key)
        if hold is None or hold.origin == origin or now.mono >= hold.until:
            return False
        return member_order(hold.origin) < member_order(origin)

    @property
    def has_work(self) -> bool:
        """Whether one turn of the loop was not enough to look at all users."""
        return self._asked_walk.under_way or self._hold_walk.under_way

    def turn(self, now: Now, view: RingView) -> list[Effect]:
        """Send and repeat questions, and release users whose decisions have arrived or are overdue."""
        if not self.has_work:
            self._at = None
            self._hold_walk.begin()
            self._asked_walk.begin()
        for key in self._hold_walk.some(SLICE):
            hold = self._holds[key]
            user = self._users.get(key)
            decided = user is not None and (
                hold.before is None or (user.decided, user.seen) > (hold.before.decided, hold.before.seen)
            )
            if decided or now.mono >= hold.until or hold.origin not in view.ring:
                del self._holds[key]
                self._assigner.release(key)
                self._pending.wake_users([key])
            else:
                self._soon(hold.until)
        effects: list[Effect] = []
        for key in self._asked_walk.some(SLICE):
            asked = self._asked[key]
            user = self._users.get(key)
            if user is None or user.decided > asked.before.decided or not self._pending.of(key):
                del self._asked[key]  # decided in another way, or no login waits any more
                self._pending.wake_users([key])
                continue
            if now.mono >= asked.repeat_at:
                asked.repeat_at = now.mono + TOKEN_AGAIN
                self._serial += 1
                asked.serial = self._serial
                if view.right is not None:
                    token = NearRound(self._me, self._serial, key, user.seen, [self._me])
                    effects.append(Send(view.right, [token]))
                elif view.alone:
                    self._decide(key, asked, user.seen)
            self._soon(asked.repeat_at)
        return effects

    def next_deadline(self) -> float | None:
        return self._at if self._holds or self._asked else None

    def _soon(self, at: float) -> None:
        self._at = at if self._at is None else min(self._at, at)

    def _decide(self, key: UserKey, asked: _AskedRound, seen: int) -> None:
        """Decide: all directors of the ring have been asked.

        An assignment that has not expired by this clock stays; otherwise the user is assigned anew.
        """
        del self._asked[key]
        user = self._users.get(key)
        unix = self._assigner.unix
        if user is not None and is_unexpired(
            user._replace(seen=max(user.seen, seen)), unix, self._users.expire
        ):
            self._users.touch(key, unix)
        else:
            self._assigner.choose(key, asked.tag)
        self._pending.wake_users([key])
