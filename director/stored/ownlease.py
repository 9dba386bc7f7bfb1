"""The lease of this director in the shared store: whether others may have taken the director for dead."""

from __future__ import annotations

from director.core.director import Director
from director.stored.pace import Clock
from director.stored.storecalls import Procedure, ReadLeases, RenewLease
from director.stored.storeidentity import CLUSTER, Ours
from director.types import MemberId
from state.base import KNOWN_SCHEMA, SCHEMA, Lease

RENEWALS = 3
"""Times a lease is renewed before it would lapse."""


class OwnLease:
    """It has lapsed if the store says so with a renewal, or if none has succeeded for too long by our clock:
    then it may be that the store was not asked yet, as after the process was suspended."""

    def __init__(
        self, director: Director, clock: Clock, ours: Ours, ttl: float, incarnation: int, *, shared: bool
    ) -> None:
        """ttl: seconds that a renewal is good for."""
        self.ttl = ttl
        self.lapses = 0
        """How often a renewal has found that it had lapsed."""
        self._director, self._clock, self._shared = director, clock, shared
        self._ours, self._incarnation = ours, incarnation
        self._begun = self._lost_until = float("-inf")
        self._lapsed = True

    def renew(self) -> Procedure[frozenset[MemberId] | None]:
        """Write it first, then read who lives (docs/ring.md, rule 15); None: the store cannot say."""
        if not self._shared:
            return None
        me = self._director.me
        lease = Lease(
            member=me,
            ring_address=me,
            incarnation=self._incarnation,
            synced=self._director.synced,
            info={KNOWN_SCHEMA: str(SCHEMA), CLUSTER: self._ours.written.ring},
        )
        begun = self._clock.mono
        had_one = yield RenewLease(lease, self.ttl)
        if not had_one and begun < self._begun + self.ttl:
            # By our clock it was good still: the store has lost its leases, or its own clock has stepped.
            # Until all that live have renewed theirs, no director is dead because it has none.
            self._lost_until = begun + self.ttl
        if not (had_one and self.remaining):
            self.lapses += 1
            self._lapsed = True
        self._begun = begun
        alive: list[Lease] = yield ReadLeases()
        listed = self._director.ring.servers if begun < self._lost_until else ()
        return frozenset((*listed, *(MemberId(one.member) for one in alive)))

    def caught_up(self, lapses: int) -> None:
        """What others did while there was no lease has been read, but for a lapse during that reading.

        Args:
            lapses: how many there had been when the reading began.
        """
        self._lapsed = self.lapses != lapses

    @property
    def has_lapsed(self) -> bool:
        return self._shared and (self._lapsed or not self.remaining)

    @property
    def until(self) -> float:
        """Monotonic seconds until which nobody takes this director for dead, if it has not lapsed."""
        return self._begun + self.ttl

    @property
    def pause(self) -> float:
        """Seconds until it is to be renewed."""
        return max(0.0, self._begun + self.ttl / RENEWALS - self._clock.mono)

    @property
    def remaining(self) -> float:
        """Seconds in which it does not lapse; 0 where it may have lapsed."""
        return max(0.0, self.until - self._clock.mono)
