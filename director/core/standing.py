"""Whether a director may give new users a backend by itself (architecture, section 6; ring-rules 11-13,
37)."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from director.core.order import member_order
from director.types import MemberId


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


def judge(
    listed: Collection[MemberId],
    ring: Collection[MemberId],
    leases: frozenset[MemberId] | None,
    waited: float,
    isolation_wait: float,
) -> Standing:
    """listed: `ring.servers`. ring: the members of the last second lap, us included. leases: who lives by
    the shared store;
    None: there is none, or it is away. waited: seconds since we are the smaller part."""
    missing = set(listed) - set(ring)
    if not missing:
        return Standing.WHOLE
    if leases is not None:
        return Standing.CLAIM if missing & leases else Standing.WHOLE
    here = len(listed) - len(missing)
    if 2 * here > len(listed) or (2 * here == len(listed) and min(listed, key=member_order) in ring):
        return Standing.MAJORITY
    return Standing.ISOLATED if waited >= isolation_wait else Standing.WAIT
