"""Whether logins may be answered from memory (docs/ring.md, rule 28).

UNVERIFIED (started; or suspended, and no link is left)
    --exchange with a director that has compared, or alone--> CHECKED
CHECKED --suspended--> ASKING every neighbour for a Pong
    --all answer, or ASK_WAIT later one--> CHECKED; --all links lost--> UNVERIFIED
CHECKED --lost all neighbours--> LOST --exchange, alone, or LOST_WAIT passed--> CHECKED
CHECKED --suspended beyond the own lease--> LAPSED
    --the store has been read or is unreachable, or LAPSED_WAIT passed--> CHECKED
"""

from __future__ import annotations

from director.core.protocol.effects import Effect
from director.core.ring.link import LinkState
from director.core.ring.ring import Ring
from director.types import LinkId, Now

LOST_WAIT = 1.0
"""Seconds for which a director that has just lost all neighbours tries to compare its memory with another
director, before it answers assigned users again."""


ASK_WAIT = 1.0
"""Seconds after a suspension from which on the answer of one neighbour is enough: the other may be suspended
itself."""


LAPSED_WAIT = 2.0
"""Seconds for which a director that was suspended beyond its lease answers no login, until it has read from
the shared store what other directors decided meanwhile. A reachable store takes milliseconds."""


class Trust:
    def __init__(self) -> None:
        self.unverified = True
        """Whether memory was not compared with any other director yet."""
        self._asked: dict[LinkId, int] = {}
        """After a suspension: the pings sent, by link. An answer shows that everything the neighbour sent
        meanwhile has been read."""
        self._answered = False
        self._asked_at = 0.0
        self._lost_at: float | None = None
        self._lapsed_at: float | None = None
        """Monotonic time at which this director found that its lease had expired, so that others may have
        continued without it."""

    def resumed(self, ring: Ring, now: Now) -> list[Effect]:
        """Ask all neighbours for a sign of life after a suspension.

        Without neighbours, memory counts as unverified.
        """
        effects: list[Effect] = []
        self._asked, self._answered, self._asked_at = {}, False, now.mono
        for neighbour in ring.live_links():
            effects += neighbour.ping(now)
            self._asked[neighbour.link] = neighbour.last_ping
        self.unverified = self.unverified or not self._asked
        return effects

    def lapsed(self, now: Now) -> None:
        """Note that this director's lease has expired during a suspension: memory may lack what other
        directors did."""
        self._lapsed_at = now.mono

    def caught_up(self) -> None:
        """Note that memory has what other directors did, or that the store cannot be read."""
        self._lapsed_at = None

    def lost_all_neighbours(self, now: Now) -> None:
        self._lost_at = now.mono

    def review(self, ring: Ring, now: Now, *, alone: bool, in_sync: bool) -> bool:
        """Judge again whether logins may be answered from memory.

        Args:
            ring: the links with the neighbours.
            alone: no other director holds a lease or can be reached.
            in_sync: the ring is in sync, and this director is not on the minority side of a partition.

        Returns:
            Whether logins may be answered from memory.
        """
        self._hear_answers(ring)
        if self._answered and now.mono >= self._asked_at + ASK_WAIT:
            self._asked.clear()
        compared = any(n.state is LinkState.FULL and n.exchange.compared for n in ring.links.values())
        if self.unverified and (compared or in_sync):
            self.unverified = False
        lost = self._lost_at
        if lost is not None and (compared or alone or now.mono >= lost + LOST_WAIT):
            self._lost_at = None
        if self._lapsed_at is not None and now.mono >= self._lapsed_at + LAPSED_WAIT:
            self._lapsed_at = None
        return not self.unverified and not self._asked and self._lost_at is None and self._lapsed_at is None

    def next_deadline(self) -> float | None:
        deadlines = [] if self._lost_at is None else [self._lost_at + LOST_WAIT]
        if self._lapsed_at is not None:
            deadlines.append(self._lapsed_at + LAPSED_WAIT)
        if self._asked and self._answered:
            deadlines.append(self._asked_at + ASK_WAIT)
        return min(deadlines, default=None)

    def _hear_answers(self, ring: Ring) -> None:
        if not self._asked:
            return
        for link, serial in list(self._asked.items()):
            neighbour = ring.links.get(link)
            if neighbour is None or not neighbour.live:
                del self._asked[link]
            elif neighbour.pong_serial >= serial:
                self._answered = True
                del self._asked[link]
        if not self._asked and not self._answered:
            self.unverified = True
