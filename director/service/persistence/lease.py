"""The lease of this director in the shared store: whether others may have taken us for dead."""

from __future__ import annotations

import time

from director.core.director import Director
from director.service.persistence.owner import CLUSTER, Ours
from director.types import MemberId
from state.base import KNOWN_SCHEMA, SCHEMA, Lease, StateStore

RENEWALS = 3
"""Times a lease is renewed before it would lapse."""


class OwnLease:
    """It has lapsed if the store says so with a renewal, or if none has succeeded for too long by our clock:
    then it may be that nobody has asked the store yet, as after a freeze."""

    def __init__(
        self, store: StateStore, director: Director, ours: Ours, ttl: float, incarnation: int
    ) -> None:
        """ttl: seconds that a renewal is good for."""
        self.ttl = ttl
        self._store, self._director = store, director
        self._ours, self._incarnation = ours, incarnation
        self._begun = self._lost_until = float("-inf")
        self._lapsed = True

    async def renew(self) -> frozenset[MemberId] | None:
        """Write it first, then read who lives (ring-rules 15); None: the store cannot say."""
        if not self._store.shared:
            return None
        me = self._director.me
        lease = Lease(
            member=me,
            ring_address=me,
            incarnation=self._incarnation,
            synced=self._director.synced,
            info={KNOWN_SCHEMA: str(SCHEMA), CLUSTER: self._ours.written.ring},
        )
        begun = time.monotonic()
        had_one = await self._store.renew(lease, self.ttl)
        if not had_one and begun < self._begun + self.ttl:
            # By our clock it was good still: the store has lost its leases, or its own clock has stepped.
            # Until all that live have renewed theirs, no director is dead because it has none.
            self._lost_until = begun + self.ttl
        self._lapsed = self.has_lapsed or not had_one
        self._begun = begun
        alive = await self._store.members()
        listed = self._director.ring.servers if begun < self._lost_until else ()
        return frozenset((*listed, *(MemberId(one.member) for one in alive)))

    def caught_up(self) -> None:
        """What others did while there was no lease has been read."""
        self._lapsed = False

    @property
    def has_lapsed(self) -> bool:
        return self._store.shared and (self._lapsed or not self.remaining)

    @property
    def pause(self) -> float:
        """Seconds until it is to be renewed."""
        return max(0.0, self._begun + self.ttl / RENEWALS - time.monotonic())

    @property
    def remaining(self) -> float:
        """Seconds in which it does not lapse; 0 where it may have lapsed."""
        return max(0.0, self._begun + self.ttl - time.monotonic())
