"""Agreement on the host table: a token that goes round twice (ring-rules 8, 9, 11, 14).

    waiting --own token back from lap 2, or somebody's lap 2 passes, digests still equal--> released
    released --the host table changes, a neighbour is lost--> waiting

Lap 1 shows that everybody has the table, lap 2 tells everybody so. The members of a second lap are the ring.
"""

from __future__ import annotations

from collections import deque

from director.core.messages import Token
from director.core.order import member_order
from director.types import MemberId, Now

DURATIONS = 1000
"""Ended waits whose duration is kept for the metrics."""
REMEMBERED = 64
"""Second laps that are known again when they come again."""
REPEAT = 0.3
"""Seconds after which whoever waits sends his token again; later where a lap has been seen to take long."""
REPEAT_LATEST = 2.0
LOOK_EVERY = 5.0
"""Seconds between two tokens of a member in sync who misses somebody: the ring may have grown without telling
him."""


class Barrier:
    def __init__(self, me: MemberId, first_serial: int = 0) -> None:
        """first_serial: above all that an earlier life of this director may have used."""
        self.me = me
        self.synced = False
        self.ring: tuple[MemberId, ...] = (me,)
        """The members of the last second lap, in ring order."""
        self.waiting_since: float | None = None
        self.durations: deque[float] = deque(maxlen=DURATIONS)
        """Seconds of the waits that have ended and were not taken yet by the metrics."""
        self.took_ms = 0
        """How long the last wait took."""
        self.synced_at: float | None = None
        """Monotonic time of the last release; None: there was none."""
        self._serial = first_serial
        self._oldest = first_serial + 1
        """Of the tokens of our own that still count, the first."""
        self._due: float | None = None
        self._repeat = REPEAT
        self._look_at: float | None = None
        self._passed: tuple[str, int, float] = ("", 0, 0.0)
        """The last token that has passed in lap 1, and when: to see how long a lap takes."""
        self._released_by: deque[tuple[str, int]] = deque(maxlen=REMEMBERED)
        """Origin and serial of the second laps that have passed here."""
        self._agreed = b""
        """Digest of the last release."""
        self._own_limit = 0
        self._untold: int | None = None
        """The others have not confirmed a change of our limit; a token of ours behind this one tells them."""
        self.limit = 0
        """The lowest `users.max` of the members of the ring; 0: none has one."""
        self.held_until = 0.0
        """Somebody has gone silent: until then no host change is agreed, and no round ends, without him."""

    def wait(self, now: Now, *, at_once: bool) -> None:
        """Stop answering new users until the ring has agreed. at_once: it is upon us to send the token."""
        if self.synced or self.waiting_since is None:
            self.synced = False
            self.waiting_since = now.mono
        self._oldest = self._serial + 1
        due = now.mono if at_once else now.mono + self._repeat
        self._due = due if self._due is None else min(self._due, due)

    def probe(self, now: Now) -> None:
        """Send a token although we do not wait: the ring has changed its members."""
        self._due = now.mono

    def set_limit(self, limit: int) -> None:
        """`users.max` of this director is this now. 0: none."""
        if limit == self._own_limit:
            return
        self._own_limit = limit
        if self.ring == (self.me,):
            self.limit = limit
        else:  # a lower one counts at once; whether the ring's is higher now, a token has to find out
            self.limit = lowest(limit, self.limit)
            self._untold, self._due = self._serial, 0.0

    def look_for(self, now: Now, *, missing: bool) -> None:
        """missing: some director is not in the ring that should be; a second lap may have been lost on us."""
        if not missing or not self.synced:
            self._look_at = None
        elif self._look_at is None or now.mono >= self._look_at:
            if self._look_at is not None:
                self.probe(now)
            self._look_at = now.mono + LOOK_EVERY

    def hold(self, until: float) -> None:
        """A member went silent: no host change is agreed without him before `until`, when everybody has
        noticed."""
        self.held_until = max(self.held_until, until)

    def next_deadline(self) -> float | None:
        return min((at for at in (self._due, self._look_at) if at is not None), default=None)

    def due(self, now: Now, digest: bytes) -> Token | None:
        """The token that is to be sent now. The caller drops it where there is no right neighbour."""
        if self._due is None or now.mono < self._due:
            return None
        self._due = None if self.synced and self._untold is None else now.mono + self._repeat
        if self.held(now, digest):
            return None
        self._serial += 1
        return Token(self.me, self._serial, 1, digest, [self.me], self._own_limit)

    def pass_on(self, token: Token, now: Now, digest: bytes) -> Token | None:
        """Take a token from the left. Returns what goes to the right."""
        if token.digest != digest or self.held(now, digest):
            return None
        members = tuple(MemberId(m) for m in token.passed)
        if token.origin == self.me:
            if not self._oldest <= token.serial <= self._serial:
                return None
            if token.lap == 1:
                limit = lowest(token.limit, self._own_limit)
                return Token(self.me, token.serial, 2, digest, token.passed, limit)
            if self._untold is not None and token.serial > self._untold:
                self._untold = None
            self.release(members, now, digest, token.limit)
            return None
        if token.lap == 1:
            if self.me in members:
                return None
            if (
                self._due is not None
            ):  # this token will tell us, too: in a large ring ours would be one of many
                self._due = max(self._due, now.mono + self._repeat)
            self._passed = token.origin, token.serial, now.mono
            passed, limit = [*token.passed, self.me], lowest(token.limit, self._own_limit)
            return Token(token.origin, token.serial, 1, digest, passed, limit)
        # A second lap whose origin has died meanwhile would go round for ever: nobody takes it off the ring.
        if self.me not in members or (token.origin, token.serial) in self._released_by:
            return None
        self._released_by.append((token.origin, token.serial))
        if self._passed[:2] == (token.origin, token.serial):
            self._repeat = min(max(REPEAT, 2 * (now.mono - self._passed[2])), REPEAT_LATEST)
        self.release(members, now, digest, token.limit)
        return token

    def release(self, ring: tuple[MemberId, ...], now: Now, digest: bytes, limit: int = 0) -> None:
        """The ring, as given, has this host table. limit: the lowest of the others."""
        self.limit = lowest(limit, self._own_limit)
        if self.waiting_since is not None:
            self.durations.append(now.mono - self.waiting_since)
            self.took_ms = round(self.durations[-1] * 1000)
        self.synced = True
        self.waiting_since = None
        self.synced_at = now.mono
        self.ring = tuple(sorted(ring, key=member_order))
        self._agreed = digest
        if self.ring == (self.me,):
            self._untold = None
        self._due = None if self._untold is None else now.mono + self._repeat

    def held(self, now: Now, digest: bytes) -> bool:
        """Whether a host change must not be agreed yet, because somebody has only just gone silent."""
        return now.mono < self.held_until and digest != self._agreed and self._agreed != b""


def lowest(one: int, other: int) -> int:
    """The lower of two limits, of which 0 is none."""
    return min(one, other) if one and other else one or other
