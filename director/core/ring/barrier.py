"""The barrier: a token that goes round the ring twice finds out whether all directors have the same table
(docs/ring.md, rules 8, 9, 11, 14).

    waiting --own second lap returns, or another second lap passes; digest still equal--> released
    released --the host table changes, a neighbour is lost--> waiting

The first lap finds out that all directors have the table, the second lap tells them so. The directors that a
second lap names are the ring. A second lap counts only if its first lap has passed here, with the same table,
the same directors up to here, and the right neighbour behind them. So a director that invents laps can claim
no more than its own place in the ring lets it claim.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from director.core.protocol.messages import Token
from director.core.protocol.order import member_order
from director.core.protocol.ringtimings import TOKEN_AGAIN, TOKEN_AGAIN_LATEST
from director.types import MemberId, Now

DURATIONS = 1000
"""Ended waits whose durations are kept for the metrics."""
REMEMBERED = 64
"""Second laps that are remembered, so that they are recognised when they return."""
FIRST_LAPS = 256
"""First laps that are remembered, so that their second laps count."""
PROBE_EVERY = 5.0
"""Seconds between two tokens of a director that is in sync while another director is missing: the ring may
have grown, and the second lap may have been lost on the way here."""


class _FirstLap(NamedTuple):
    """A first lap as it left here."""

    digest: bytes
    members: int
    """How many directors it has passed, including this one."""
    print: int
    """Hash of the directors' names. A token may name a thousand, so the names are not kept."""
    right: MemberId | None
    """The right neighbour at that time. It got the token."""
    at: float


class Barrier:
    def __init__(self, me: MemberId, first_serial: int = 0) -> None:
        """Start waiting for the first agreement.

        Args:
            first_serial: higher than every serial that an earlier run of this director may have used.
        """
        self.me = me
        self.synced = False
        self.ring: tuple[MemberId, ...] = (me,)
        """The directors that the last second lap named, in ring order."""
        self.waiting_since: float | None = None
        self.durations: deque[float] = deque(maxlen=DURATIONS)
        """Seconds of the ended waits that the metrics have not taken yet."""
        self.took_ms = 0
        """Milliseconds that the last wait took."""
        self.synced_at: float | None = None
        """Monotonic time of the last release; None: there was none."""
        self._serial = first_serial
        self._oldest = first_serial + 1
        """The lowest serial of the own tokens that still count."""
        self._due: float | None = None
        self._repeat = TOKEN_AGAIN
        self._probe_at: float | None = None
        self.right: MemberId | None = None
        """The right neighbour. It gets the tokens."""
        self._first_laps: dict[tuple[str, int], _FirstLap] = {}
        """First laps by origin and serial, in the order in which they came."""
        self._returned: dict[int, tuple[str, ...]] = {}
        """The directors that the own first laps passed, by the serials of those that have returned."""
        self._released_by: deque[tuple[str, int]] = deque(maxlen=REMEMBERED)
        """Origin and serial of the second laps that have passed here."""
        self._agreed = b""
        """Digest at the last release."""
        self._own_limit = 0
        self._limit_unknown_after: int | None = None
        """The serial of the last token before the own limit changed. A later own token tells the ring of the
        change. None: the ring knows the limit."""
        self.limit = 0
        """The lowest `users.max` of the ring; 0: no director has one."""
        self.held_until = 0.0
        """Monotonic time. A director has stopped answering: until then no host change is agreed, and no round
        ends without that director."""

    def wait(self, now: Now, *, at_once: bool) -> None:
        """Let new users wait until the ring has agreed.

        Args:
            at_once: whether this director sends a token immediately; else it gives another director's token
                time to come.
        """
        if self.synced or self.waiting_since is None:
            self.synced = False
            self.waiting_since = now.mono
        self._oldest = self._serial + 1
        due = now.mono if at_once else now.mono + self._repeat
        self._due = due if self._due is None else min(self._due, due)

    def probe(self, now: Now) -> None:
        """Send a token although this director does not wait: the members of the ring have changed."""
        self._due = now.mono

    def set_limit(self, limit: int) -> None:
        """Set `users.max` of this director; 0: none."""
        if limit == self._own_limit:
            return
        self._own_limit = limit
        if self.ring == (self.me,):
            self.limit = limit
        else:  # a lower limit counts immediately; whether the ring's limit rises, a token has to find out
            self.limit = lowest(limit, self.limit)
            self._limit_unknown_after, self._due = self._serial, 0.0

    def probe_if_missing(self, now: Now, *, missing: bool) -> None:
        """Send a token every PROBE_EVERY seconds while this director is in sync and another director is
        missing.

        Args:
            missing: whether a director that should be in the ring is not. The second lap that named it may
                have been lost.
        """
        if not missing or not self.synced:
            self._probe_at = None
        elif self._probe_at is None or now.mono >= self._probe_at:
            if self._probe_at is not None:
                self.probe(now)
            self._probe_at = now.mono + PROBE_EVERY

    def hold(self, until: float) -> None:
        """Agree on no host change before `until`: a director has stopped answering, and by then all others
        have noticed."""
        self.held_until = max(self.held_until, until)

    def next_deadline(self) -> float | None:
        return min((at for at in (self._due, self._probe_at) if at is not None), default=None)

    def due(self, now: Now, digest: bytes) -> Token | None:
        """Return the token that is to be sent now; None: no token is due.

        The caller drops it if there is no right neighbour.
        """
        if self._due is None or now.mono < self._due:
            return None
        self._due = None if self.synced and self._limit_unknown_after is None else now.mono + self._repeat
        if self.holds_back(now, digest):
            return None
        self._serial += 1
        self._leaves_here(self.me, self._serial, digest, [self.me], now)
        return Token(self.me, self._serial, 1, digest, [self.me], self._own_limit)

    def pass_on(self, token: Token, now: Now, digest: bytes) -> Token | None:
        """Take a token from the left neighbour. Returns the token for the right neighbour; None: it is
        not passed on."""
        if token.digest != digest or self.holds_back(now, digest):
            return None
        members = tuple(MemberId(m) for m in token.passed)
        if token.origin == self.me:
            if not self._oldest <= token.serial <= self._serial or not self._follows(token):
                return None
            if token.lap == 1:
                if len(self._returned) >= REMEMBERED and token.serial not in self._returned:
                    del self._returned[min(self._returned)]
                self._returned[token.serial] = members
                limit = lowest(token.limit, self._own_limit)
                return Token(self.me, token.serial, 2, digest, token.passed, limit)
            if self._returned.get(token.serial) != members:
                return None  # the first lap named other directors, or has not returned
            if self._limit_unknown_after is not None and token.serial > self._limit_unknown_after:
                self._limit_unknown_after = None
            self.release(members, now, digest, token.limit)
            return None
        if token.lap == 1:
            if self.me in members:
                return None
            if (
                self._due is not None
            ):  # this token informs this director too; in a large ring an own token would be one of many
                self._due = max(self._due, now.mono + self._repeat)
            passed, limit = [*token.passed, self.me], lowest(token.limit, self._own_limit)
            self._leaves_here(token.origin, token.serial, digest, passed, now)
            return Token(token.origin, token.serial, 1, digest, passed, limit)
        # A second lap whose origin has stopped would go round without end, since no other director removes
        # it. So it passes each director once.
        if (token.origin, token.serial) in self._released_by or not self._follows(token):
            return None
        self._released_by.append((token.origin, token.serial))
        first = self._first_laps[token.origin, token.serial]
        self._repeat = min(max(TOKEN_AGAIN, 2 * (now.mono - first.at)), TOKEN_AGAIN_LATEST)
        self.release(members, now, digest, token.limit)
        return token

    def _leaves_here(self, origin: str, serial: int, digest: bytes, passed: Sequence[str], now: Now) -> None:
        """Remember a first lap that leaves here to the right: its second lap, or its return, is compared with
        it."""
        if len(self._first_laps) >= FIRST_LAPS and (origin, serial) not in self._first_laps:
            del self._first_laps[next(iter(self._first_laps))]
        lap = _FirstLap(digest, len(passed), hash(tuple(passed)), self.right, now.mono)
        self._first_laps[origin, serial] = lap

    def _follows(self, token: Token) -> bool:
        """Whether a token continues the first lap that left here: it names the same directors up to here, and
        then the right neighbour that got it."""
        first = self._first_laps.get((token.origin, token.serial))
        if first is None or first.digest != token.digest:
            return False
        before, behind = token.passed[: first.members], token.passed[first.members :]
        if len(before) < first.members or hash(tuple(before)) != first.print:
            return False
        return first.right is None or first.right == (behind[0] if behind else token.origin)

    def release(self, ring: tuple[MemberId, ...], now: Now, digest: bytes, limit: int = 0) -> None:
        """Note that the ring has agreed.

        Args:
            ring: the directors of the ring, in any order.
            digest: of the table that they have agreed on.
            limit: the lowest `users.max` of the other directors; 0: no limit.
        """
        self.limit = lowest(limit, self._own_limit)
        if self.waiting_since is not None:
            self.durations.append(now.mono - self.waiting_since)
            self.took_ms = round(self.durations[-1] * 1000)
        self.synced = True
        self.waiting_since = None
        self.synced_at = now.mono
        self._returned.clear()
        self.ring = tuple(sorted(ring, key=member_order))
        self._agreed = digest
        if self.ring == (self.me,):
            self._limit_unknown_after = None
        self._due = None if self._limit_unknown_after is None else now.mono + self._repeat

    def holds_back(self, now: Now, digest: bytes) -> bool:
        """Whether a host change must not be agreed yet: a director has stopped answering only recently."""
        return now.mono < self.held_until and digest != self._agreed and self._agreed != b""


def lowest(first: int, second: int) -> int:
    """Return the lower of two limits. 0 stands for no limit."""
    return min(first, second) if first and second else first or second
