"""Whether a director may assign new users by itself (docs/ring.md, rules 11-13 and 37)."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from director.core.protocol.order import member_order
from director.core.ring.barrier import Barrier
from director.types import MemberId, Now

CLAIM_AFTER = 5.0
"""Seconds without sync after which new users are claimed through the shared store (docs/ring.md, rule 37)."""


class Standing(Enum):
    COMPLETE = "complete"
    """No director outside the ring holds a lease, or none is missing: consistent hash, immediately."""
    MAJORITY = "majority"
    """Directors are missing, and no shared store can say whether they run; this is the majority side:
    consistent hash, immediately."""
    CLAIM = "claim"
    """A director outside the ring holds a lease: each new user is claimed through the shared store."""
    WAIT = "wait"
    """This is the minority side, without a store to ask: new users wait for `isolation_wait`."""
    ISOLATED = "isolated"
    """The minority side after `isolation_wait`: consistent hash, logged and counted."""


MAY_HASH = frozenset({Standing.COMPLETE, Standing.MAJORITY, Standing.ISOLATED})
"""Where new users are assigned by consistent hashing, once the ring agrees on the hosts."""
MINORITY = frozenset({Standing.WAIT, Standing.ISOLATED})


def judge(
    listed: Collection[MemberId],
    ring: Collection[MemberId],
    leases: frozenset[MemberId] | None,
    *,
    waited: bool,
    departed: Collection[MemberId] = (),
) -> Standing:
    """Return how new users are assigned, by the state of the other directors.

    Args:
        listed: `ring.servers`.
        ring: the members of the last second lap, including this director.
        leases: the directors that hold a lease in the shared store; None: there is no shared store, or it is
            unreachable.
        waited: whether this director has waited for `isolation_wait` on the minority side.
        departed: the directors that have announced their departure, and so assign no users on their own.
    """
    listed = set(listed) - (set(departed) - set(ring))
    missing = listed - set(ring)
    if not missing:
        return Standing.COMPLETE
    if leases is not None:
        return Standing.CLAIM if missing & leases else Standing.COMPLETE
    present = len(listed) - len(missing)
    if 2 * present > len(listed) or (2 * present == len(listed) and min(listed, key=member_order) in ring):
        return Standing.MAJORITY
    return Standing.ISOLATED if waited else Standing.WAIT


class Partition:
    """The standing, and how long it has lasted."""

    def __init__(self, servers: Collection[MemberId], isolation_wait: float) -> None:
        self.standing = Standing.WAIT
        self.claiming = False
        """Whether new users are claimed through the store now.

        That begins only when this part of the ring agrees on the hosts, or has waited long enough. Until
        then, other directors may not have noticed the partition, and may hash by the old table.
        """
        self.leases: frozenset[MemberId] | None = None
        self._servers = servers
        self.isolation_wait = isolation_wait
        self.minority_since: float | None = None
        """Monotonic time at which this director found itself on the minority side; None: it is not there. A
        successor takes it over from its predecessor, because it has waited for the same time."""

    def doubt_leases(self) -> None:
        """Treat all directors as if they held leases: the leases that were read are old.

        The store is not treated as unreachable. New users of an incomplete ring are still claimed through it,
        which is safe whichever directors run, until the leases are read again.
        """
        if self.leases is not None:
            self.leases = frozenset(self._servers)

    def review(self, barrier: Barrier, now: Now, departed: Collection[MemberId]) -> None:
        """Judge the standing again. The director must have started."""
        over = self.minority_since
        waited = over is not None and now.mono >= over + self.isolation_wait
        standing = judge(self._servers, barrier.ring, self.leases, waited=waited, departed=departed)
        if standing not in MINORITY:
            self.minority_since = None
        elif self.minority_since is None:
            self.minority_since = now.mono
        claim_at = self._claim_at(barrier)
        waited = claim_at is not None and now.mono >= claim_at
        if waited and standing in MAY_HASH:
            standing = Standing.CLAIM
        self.standing = standing
        self.claiming = standing is Standing.CLAIM and (barrier.synced or waited)

    def next_deadline(self, barrier: Barrier) -> float | None:
        if self.standing is Standing.WAIT:
            return None if self.minority_since is None else self.minority_since + self.isolation_wait
        return None if self.claiming else self._claim_at(barrier)

    def _claim_at(self, barrier: Barrier) -> float | None:
        """Return when new users have waited long enough for the barrier; None: they do not wait, or there is
        no store to ask."""
        if barrier.synced or barrier.waiting_since is None or self.leases is None:
            return None
        return barrier.waiting_since + CLAIM_AFTER
