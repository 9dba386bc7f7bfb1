"""The lease of this director in the shared store: whether it has expired, so that others may have continued
without this director."""

from __future__ import annotations

from director.core.director import Director
from director.stored.pace import Clock
from director.stored.storecalls import Procedure, ReadLeases, RenewLease
from director.stored.storeidentity import CLUSTER, Ours
from director.types import MemberId
from state.base import KNOWN_SCHEMA, SCHEMA, Lease

RENEWALS = 3
"""How often a lease is renewed before it would expire."""


class OwnLease:
    """The lease has expired if the store says so at a renewal, or if no renewal has succeeded for too long by
    this clock. In the second case the store may not have been asked yet, as after a suspension of the
    process."""

    def __init__(
        self, director: Director, clock: Clock, ours: Ours, ttl: float, incarnation: int, *, shared: bool
    ) -> None:
        """Begin without a lease.

        Args:
            ours: the cluster that the lease names.
            ttl: seconds for which a renewal is valid.
            incarnation: of this run of the director.
            shared: whether the store is shared; else there are no leases.
        """
        self.ttl = ttl
        self.lapses = 0
        """How often a renewal has found that the lease had expired."""
        self._director, self._clock, self._shared = director, clock, shared
        self._ours, self._incarnation = ours, incarnation
        self._begun = self._lost_until = float("-inf")
        self._lapsed = True

    def renew(self) -> Procedure[frozenset[MemberId] | None]:
        """Renew the lease, then read the leases of all directors (docs/ring.md, rule 15).

        Returns:
            The directors that hold a lease; all directors of the ring if the store has lost the leases; None:
            the store is not shared.
        """
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
            # By this clock the lease was still valid: the store has lost its leases, or its clock has
            # stepped. Until all running directors have renewed theirs, a director without a lease does not
            # count as stopped.
            self._lost_until = begun + self.ttl
        if not (had_one and self.remaining):
            self.lapses += 1
            self._lapsed = True
        self._begun = begun
        holders: list[Lease] = yield ReadLeases()
        listed = self._director.ring.servers if begun < self._lost_until else ()
        return frozenset((*listed, *(MemberId(one.member) for one in holders)))

    def caught_up(self, lapses: int) -> None:
        """Note that everything that others did while there was no lease has been read.

        If the lease has expired again since the reading began, it still counts as expired.

        Args:
            lapses: `lapses` as it was when the reading began.
        """
        self._lapsed = self.lapses != lapses

    @property
    def has_lapsed(self) -> bool:
        return self._shared and (self._lapsed or not self.remaining)

    @property
    def until(self) -> float:
        """Return the monotonic time until which no other director continues without this one, if the lease
        has not expired."""
        return self._begun + self.ttl

    @property
    def pause(self) -> float:
        """Return the seconds until the next renewal is due."""
        return max(0.0, self._begun + self.ttl / RENEWALS - self._clock.mono)

    @property
    def remaining(self) -> float:
        """Return the seconds until the lease expires; 0: it may have expired."""
        return max(0.0, self.until - self._clock.mono)
