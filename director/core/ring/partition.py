"""Whether a director may give new users a backend by itself (docs/ring.md, rules 11-13 and 37)."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from director.core.protocol.order import member_order
from director.core.ring.barrier import Barrier
from director.types import MemberId, Now

CLAIM_AFTER = 5.0
"""Seconds without sync after which new users are settled in the shared store (docs/ring.md, rule 37)."""


class Standing(Enum):
    WHOLE = "whole"
    """Nobody who lives is outside the ring: consistent hash, at once."""
    MAJORITY = "majority"
    """Some are missing and no shared store can say whether they live, but we are the larger part: at once."""
    CLAIM = "claim"
    """Somebody who lives is outside the ring: each new user is settled in the shared store."""
    WAIT = "wait"
    """The smaller part, and nobody to ask: new users wait for `isolation_wait`."""
    ISOLATED = "isolated"
    """The same after `isolation_wait`: consistent hash, logged and counted."""


MAY_HASH = frozenset({Standing.WHOLE, Standing.MAJORITY, Standing.ISOLATED})
"""Where new users are placed by consistent hashing, once the ring agrees on the hosts."""
SMALLER = frozenset({Standing.WAIT, Standing.ISOLATED})


def judge(
    listed: Collection[MemberId],
    ring: Collection[MemberId],
    leases: frozenset[MemberId] | None,
    *,
    waited: bool,
    departed: Collection[MemberId] = (),
) -> Standing:
    """Judge by what is known of the other directors whether new users may be placed.

    Args:
        listed: `ring.servers`.
        ring: the members of the last second lap, this director included.
        leases: the directors that hold a lease in the shared store; None: there is no shared store, or it is
            unreachable.
        waited: on the minority side this director has waited for `isolation_wait`.
        departed: the directors that have announced their departure, and so do not go on by themselves.
    """
    listed = set(listed) - (set(departed) - set(ring))
    missing = listed - set(ring)
    if not missing:
        return Standing.WHOLE
    if leases is not None:
        return Standing.CLAIM if missing & leases else Standing.WHOLE
    present = len(listed) - len(missing)
    if 2 * present > len(listed) or (2 * present == len(listed) and min(listed, key=member_order) in ring):
        return Standing.MAJORITY
    return Standing.ISOLATED if waited else Standing.WAIT


class Partition:
    """The standing now, and what it needs to remember."""

    def __init__(self, servers: Collection[MemberId], isolation_wait: float) -> None:
        self.standing = Standing.WAIT
        self.claiming = False
        """Whether new users are settled in the store now. Not before this part of the ring agrees on the
        hosts, or
        has waited long enough: others may not have noticed yet that the ring is cut, and hash by the old
        table."""
        self.leases: frozenset[MemberId] | None = None
        self._servers = servers
        self.isolation_wait = isolation_wait
        self.smaller_since: float | None = None
        """Since when we are the smaller part, by the monotonic clock. A program that takes over from another
        one in its process has waited as long as that."""

    def doubt_leases(self) -> None:
        """They are old: anybody may live by now. That is no store that is away: new users of a partial ring
        go on being settled there, which is safe whoever lives, until the leases are read anew."""
        if self.leases is not None:
            self.leases = frozenset(self._servers)

    def review(self, barrier: Barrier, now: Now, departed: Collection[MemberId]) -> None:
        """Judge anew. Called by a director that has started."""
        over = self.smaller_since
        waited = over is not None and now.mono >= over + self.isolation_wait
        standing = judge(self._servers, barrier.ring, self.leases, waited=waited, departed=departed)
        if standing not in SMALLER:
            self.smaller_since = None
        elif self.smaller_since is None:
            self.smaller_since = now.mono
        claim_at = self._claim_at(barrier)
        waited = claim_at is not None and now.mono >= claim_at
        if waited and standing in MAY_HASH:
            standing = Standing.CLAIM
        self.standing = standing
        self.claiming = standing is Standing.CLAIM and (barrier.synced or waited)

    def next_deadline(self, barrier: Barrier) -> float | None:
        if self.standing is Standing.WAIT:
            return None if self.smaller_since is None else self.smaller_since + self.isolation_wait
        return None if self.claiming else self._claim_at(barrier)

    def _claim_at(self, barrier: Barrier) -> float | None:
        """When new users have waited long enough for a barrier, where there is a store to ask."""
        if barrier.synced or barrier.waiting_since is None or self.leases is None:
            return None
        return barrier.waiting_since + CLAIM_AFTER
