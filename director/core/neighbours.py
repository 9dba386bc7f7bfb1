"""The neighbours in each turn: which directors they are, time-outs of their links, exchanges with them, and
the barrier's tokens."""

from __future__ import annotations

from director.core.agreement import Agreement
from director.core.placement.names import NameTable
from director.core.placement.users import UserTable
from director.core.protocol.effects import Departed, Effect, Send
from director.core.ring.barrier import Barrier
from director.core.ring.link import LinkState, postpone_exchanges
from director.core.ring.ring import Ring, log_neighbours
from director.core.ring.trust import Trust
from director.types import Now

SEND_AGAIN = 2.0
"""Seconds without agreement after which neighbours get the tables once more."""


class Neighbours:
    def __init__(
        self,
        *,
        ring: Ring,
        barrier: Barrier,
        trust: Trust,
        agreement: Agreement,
        users: UserTable,
        names: NameTable,
    ) -> None:
        self._ring, self._barrier, self._trust, self._agreement = ring, barrier, trust, agreement
        self._users, self._names = users, names
        self._tables_sent_at = float("-inf")
        self._announced_departure = False

    def turn(self, now: Now, *, loading: bool) -> list[Effect]:
        """Handle the time-outs of links, and do one turn's share of the exchanges.

        Args:
            now: the time.
            loading: whether the user table is not complete yet, so that no exchange begins.
        """
        effects: list[Effect] = []
        ring, unverified = self._ring, self._trust.unverified
        postpone_exchanges(ring.links.values(), len(self._users), now, joining=unverified, loading=loading)
        for neighbour in list(ring.links.values()):
            was_live = neighbour.live
            effects += neighbour.tick(now)
            if was_live and not neighbour.live and neighbour.silent:
                self._barrier.hold(now.mono + ring.identity.ping_timeout + 1)
            if neighbour.exchange_has_work:
                effects += neighbour.exchange.work(self._users, self._names, not unverified, now)
            neighbour.finish_exchange()
        return effects

    def review(self, now: Now) -> list[Effect]:
        """Choose the neighbours again, and dial those that are missing."""
        ring, barrier = self._ring, self._barrier
        effects: list[Effect] = []
        if ring.unmet:
            ring.named = barrier.ring
            effects += self._agreement.meet()  # before links that were made only for this are closed
        had_right, had_left = ring.right, ring.left
        lost = any(n is not None and n.state is LinkState.CLOSED for n in (had_right, had_left))
        effects += ring.review(now)
        right_is_new = ring.right is not None and ring.right is not had_right
        if ring.left is not had_left or ring.right is not had_right:
            effects.append(log_neighbours(ring))
        if lost and ring.unlinked:
            self._trust.lost_all_neighbours(now)
        if lost or (right_is_new and not barrier.synced):
            barrier.wait(now, at_once=True)
        elif right_is_new:
            barrier.probe(now)
        return effects + ring.dials(now)

    def send_token(self, now: Now) -> list[Effect]:
        """Send the barrier's token, if one is due."""
        if self._ring.right is None:
            return []
        self._barrier.right = self._ring.right.peer
        token = self._barrier.due(now, self._agreement.digest)
        if token is None:
            return []
        return [*self._send_tables_again(now), Send(self._ring.right.link, [token])]

    def _send_tables_again(self, now: Now) -> list[Effect]:
        """Send all rows to the neighbours if tokens do not return: a director may lack a row although it is
        linked with another that has it."""
        since = self._barrier.waiting_since
        if since is None or now.mono < max(since, self._tables_sent_at) + SEND_AGAIN:
            return []
        self._tables_sent_at = now.mono
        return [Send(neighbour.link, self._agreement.all_rows()) for neighbour in self._ring.live_links()]

    def leave(self, now: Now) -> list[Effect]:
        """Announce the departure once the ring continues without this director."""
        if self._announced_departure or not self._ring.has_left(now):
            return []
        self._announced_departure = True
        return [*self._ring.stop("the director stops"), Departed()]
