"""Stamps: the hybrid logical times of decisions, how they grow, and how far ahead of a clock they may be.

A stamp is a Unix second in 32 bits, later than the stamp it replaces (docs/ring.md, rule 3). Arithmetic with
stamps saturates at `LATEST`: a stamp that no decision can exceed must not end a director or a link.

Merges use no clock. So records from outside are brought within `Bound` before they are merged (docs/ring.md,
rule 45; `admission.py`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import msgspec

from director.core.placement.users import LATEST
from director.core.protocol.messages import HostRow, MemberRow

AHEAD = 3600
"""Seconds by which a time may be ahead of the own clock. Honest stamps are at most 7 s ahead, and one more
for each repeated change."""
AT_ONCE = 8
"""Most seconds by which one honest change raises a stamp: a host that is added again."""


class Bound(NamedTuple):
    """How late times from outside may be, in Unix seconds."""

    latest: int
    """The time that replaces later times of users."""
    hosts: int
    """The stamp that replaces later stamps of hosts and directors. It is earlier than `latest` by as much as
    clocks may differ: a user whose record was clipped on another director must not have an earlier stamp than
    the host."""
    decided: int
    """The latest stamp that is not replaced. It is later than what other directors' clocks give for `latest`,
    so that a replaced stamp is not replaced again here."""
    seen: int
    """The latest `seen` that is not replaced. It is later than `decided`, because `seen` is stored rounded
    up."""

    def of_the_past(self) -> Bound:
        """Return the bound for records that were certainly decided before now, as all records of a store
        were: later times become now.

        So these records lose to those that running directors have brought within the last hour.
        """
        return self._replace(latest=max(self.latest - AHEAD, 0), hosts=max(self.hosts - AHEAD, 0))


@lru_cache(maxsize=2)
def bound_at(unix: int, expire: int, max_clock_skew: float) -> Bound:
    """Return the latest times that records may have at a time; later times are clipped.

    Args:
        unix: the own clock, in whole Unix seconds, so that all records of a second share one bound.
        expire: as `users.expire`, in seconds.
        max_clock_skew: seconds by which the clocks of other directors may differ.
    """
    latest = min(max(unix, 0) + AHEAD, LATEST)
    decided = min(latest + AT_ONCE + allowance(max_clock_skew), LATEST)
    hosts = max(latest - allowance(max_clock_skew), 0)
    return Bound(latest, hosts, decided, min(decided + expire // 3, LATEST))


def allowance(max_clock_skew: float) -> int:
    """Return the seconds by which the bounds of two directors may differ."""
    return 2 * math.ceil(max_clock_skew)


def after(stamp: int, replaced: int, apart: int = 1) -> int:
    """Return the stamp of a decision that replaces another.

    Args:
        stamp: Unix seconds of the decision.
        replaced: the stamp of the decision that it replaces.
        apart: least seconds between the two stamps.
    """
    return min(max(stamp, replaced + apart), LATEST)


def latest_of(row: HostRow | MemberRow) -> int:
    """Return the latest stamp of a row."""
    if isinstance(row, MemberRow):
        return row.at
    return max(row.present_at, row.tag_at, row.weight_at, row.up_at)


def clipped_host(row: HostRow, bound: Bound, mine: HostRow | None) -> HostRow:
    """Return a row with its stamps within the bound. Its values stay.

    Args:
        bound: for its stamps.
        mine: this director's row of the host, if `row` comes from the ring. An attribute with the same value
            keeps the stamp that it has here, so that a row without news changes nothing, however often it
            comes.
    """
    if latest_of(row) <= bound.decided:
        return row
    changed: dict[str, int] = {}
    for stamp, values in _ATTRIBUTES.items():
        if getattr(row, stamp) <= bound.decided:
            continue
        changed[stamp] = bound.hosts
        if mine is not None and all(getattr(mine, name) == getattr(row, name) for name in values):
            changed[stamp] = _kept(getattr(mine, stamp), bound)
    return msgspec.structs.replace(row, **changed)


def clipped_member(row: MemberRow, bound: Bound, mine: MemberRow | None) -> MemberRow:
    """Return a row of a director with its stamp within the bound, as `clipped_host` does."""
    if row.at <= bound.decided:
        return row
    same = mine is not None and mine.present == row.present
    return msgspec.structs.replace(row, at=_kept(mine.at, bound) if same and mine else bound.hosts)


def due_host(row: HostRow, mine: HostRow) -> HostRow:
    """Return a row whose stamps have become possible, for a table in which the row has been `mine` since it
    came.

    A value that was decided in between replaces the row's value, and gets a later stamp.
    """
    decided: dict[str, object] = {}
    for stamp, values in _ATTRIBUTES.items():
        if any(getattr(mine, name) != getattr(row, name) for name in values):
            decided |= {name: getattr(mine, name) for name in values}
            decided[stamp] = after(getattr(mine, stamp), getattr(row, stamp))
    return msgspec.structs.replace(row, **decided)


def due_member(row: MemberRow, mine: MemberRow) -> MemberRow:
    """Return a row of a director whose stamp has become possible, as `due_host` does."""
    if mine.present == row.present:
        return row
    return msgspec.structs.replace(mine, at=after(mine.at, row.at))


def restored_host(row: HostRow, before: HostRow, wrong: int) -> HostRow:
    """Return a row that was clipped by a wrong clock, as a right clock would have it.

    Args:
        row: the row as it is now.
        before: the row before it was clipped.
        wrong: the latest stamp that the wrong clock can have given. A decision by that clock replaced what
            was there before, so it gets a later stamp than that. Later stamps are compared as they are.
    """
    changed: dict[str, object] = {}
    for stamp, values in _ATTRIBUTES.items():
        now, was = getattr(row, stamp), getattr(before, stamp)
        if was <= now:
            continue
        same = all(getattr(row, name) == getattr(before, name) for name in values)
        if same or now > wrong:
            changed |= {name: getattr(before, name) for name in (stamp, *values)}
        else:
            changed[stamp] = after(0, was)
    return msgspec.structs.replace(row, **changed)


def restored_member(row: MemberRow, before: MemberRow, wrong: int) -> MemberRow:
    """Return a row of a director that was clipped by a wrong clock, as `restored_host` does."""
    if row.at >= before.at:
        return row
    if row.present == before.present or row.at > wrong:
        return msgspec.structs.replace(row, at=before.at, present=before.present)
    return msgspec.structs.replace(row, at=after(0, before.at))


def _kept(stamp: int, bound: Bound) -> int:
    return stamp if stamp <= bound.decided else bound.hosts


_ATTRIBUTES = {
    "present_at": ("present", "hostname", "moved"),
    "tag_at": ("tag",),
    "weight_at": ("weight",),
    "up_at": ("up",),
}
"""The stamps of a host, each with the attributes that it belongs to."""
