"""Agreement on the host table: a token that goes round twice (docs/ring.md, rules 8, 9, 11, 14).

    waiting --own token back from lap 2, or somebody's lap 2 passes, digests still equal--> released
    released --the host table changes, a neighbour is lost--> waiting

Lap 1 shows that everybody has the table, lap 2 tells everybody so. The members of a second lap are the ring.
A second lap counts only where its first lap has passed, with the same table and the same members up to here
and one farther: a member that makes up laps can say no more than what its own place in the ring allows.
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
"""Ended waits whose duration is kept for the metrics."""
REMEMBERED = 64
"""Second laps that are known again when they come again."""
FIRST_LAPS = 256
"""First laps whose second laps count, the latest ones."""
LOOK_EVERY = 5.0
"""Seconds between two tokens of a member in sync who misses somebody: the ring may have grown without telling
him."""


class _FirstLap(NamedTuple):
    """A first lap as it left here."""

    digest: bytes
    members: int
    """How many it has passed, this director included."""
    print: int
    """Of their names. A token may name a thousand."""
    right: MemberId | None
    """To whom it was sent."""
    at: float


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
        self._repeat = TOKEN_AGAIN
        self._look_at: float | None = None
        self.right: MemberId | None = None
        """The right neighbour: tokens go there."""
        self._first_laps: dict[tuple[str, int], _FirstLap] = {}
        """By origin and serial, the earliest first."""
        self._returned: dict[int, tuple[str, ...]] = {}
        """Own first laps that have come back, by serial: whom they have passed."""
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
        if self.holds_back(now, digest):
            return None
        self._serial += 1
        self._leaves_here(self.me, self._serial, digest, [self.me], now)
        return Token(self.me, self._serial, 1, digest, [self.me], self._own_limit)

    def pass_on(self, token: Token, now: Now, digest: bytes) -> Token | None:
        """Take a token from the left. Returns what goes to the right."""
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
                return None  # its first lap has not been everywhere
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
            passed, limit = [*token.passed, self.me], lowest(token.limit, self._own_limit)
            self._leaves_here(token.origin, token.serial, digest, passed, now)
            return Token(token.origin, token.serial, 1, digest, passed, limit)
        # A second lap whose origin has died meanwhile would go round for ever: nobody takes it off the ring.
        if (token.origin, token.serial) in self._released_by or not self._follows(token):
            return None
        self._released_by.append((token.origin, token.serial))
        first = self._first_laps[token.origin, token.serial]
        self._repeat = min(max(TOKEN_AGAIN, 2 * (now.mono - first.at)), TOKEN_AGAIN_LATEST)
        self.release(members, now, digest, token.limit)
        return token

    def _leaves_here(self, origin: str, serial: int, digest: bytes, passed: Sequence[str], now: Now) -> None:
        """A first lap goes on to the right: remember what its second lap, or its return, must say."""
        if len(self._first_laps) >= FIRST_LAPS and (origin, serial) not in self._first_laps:
            del self._first_laps[next(iter(self._first_laps))]
        lap = _FirstLap(digest, len(passed), hash(tuple(passed)), self.right, now.mono)
        self._first_laps[origin, serial] = lap

    def _follows(self, token: Token) -> bool:
        """Whether a token is about the members that its first lap had passed when it left here, and about the
        neighbour that it was sent to."""
        first = self._first_laps.get((token.origin, token.serial))
        if first is None or first.digest != token.digest:
            return False
        before, behind = token.passed[: first.members], token.passed[first.members :]
        if len(before) < first.members or hash(tuple(before)) != first.print:
            return False
        return first.right is None or first.right == (behind[0] if behind else token.origin)

    def release(self, ring: tuple[MemberId, ...], now: Now, digest: bytes, limit: int = 0) -> None:
        """The ring, as given, has this host table. limit: the lowest of the others."""
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
            self._untold = None
        self._due = None if self._untold is None else now.mono + self._repeat

    def holds_back(self, now: Now, digest: bytes) -> bool:
        """Whether a host change must not be agreed yet, because somebody has only just gone silent."""
        return now.mono < self.held_until and digest != self._agreed and self._agreed != b""


def lowest(first: int, second: int) -> int:
    """The lower of two limits, of which 0 is none."""
    return min(first, second) if first and second else first or second
