"""Stamps: the hybrid times of decisions, how they grow, and how far ahead of a clock they may be.

A stamp is a Unix second in 32 bits, later than the stamp it replaces (docs/ring.md, rule 3). Arithmetic with
stamps saturates at `LATEST`: a stamp that no decision can exceed must not end a director, or a link.

Merges ask no clock. So what comes from outside is brought within `Bound` before it is merged (docs/ring.md,
rule 45; `admission.py`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from director.core.placement.users import LATEST
from director.core.protocol.messages import HostRow, MemberRow

AHEAD = 3600
"""Seconds by which a time may be ahead of the own clock. Honest stamps are ahead by 7 s, and by one more for
each repeated change."""
AT_ONCE = 8
"""Seconds that an honest stamp grows at once, at most: a host that is added again."""


class Bound(NamedTuple):
    """How late times from outside may be, in Unix seconds."""

    latest: int
    """What becomes of the times of a user that are later than they may be."""
    hosts: int
    """What becomes of the stamps of hosts and directors. It is earlier than `latest` by as much as clocks may
    differ: a user whose record was clipped elsewhere was not placed before the host was there."""
    decided: int
    """The latest stamp that is taken as it is. What another director has made `latest` by its clock is below
    that, so it is not changed once more here."""
    seen: int
    """The latest `seen` that is taken as it is: it is stored rounded up."""

    def of_the_past(self) -> Bound:
        """For what was certainly decided before now, as all that a store holds was: later times become now.
        So they lose to what directors that went on have brought within an hour since."""
        return self._replace(latest=max(self.latest - AHEAD, 0), hosts=max(self.hosts - AHEAD, 0))


def bound_at(unix: float, expire: int, max_clock_skew: float) -> Bound:
    """The bound by a clock that says `unix`; the clocks of others may differ by `max_clock_skew` seconds."""
    latest = min(max(int(unix), 0) + AHEAD, LATEST)
    decided = min(latest + AT_ONCE + allowance(max_clock_skew), LATEST)
    hosts = max(latest - allowance(max_clock_skew), 0)
    return Bound(latest, hosts, decided, min(decided + expire // 3, LATEST))


def allowance(max_clock_skew: float) -> int:
    """Seconds by which two directors may differ over where the bound is."""
    return 2 * math.ceil(max_clock_skew)


def after(stamp: int, replaced: int, apart: int = 1) -> int:
    """The stamp of a decision made at `stamp` that takes the place of one with the stamp `replaced`.

    Args:
        apart: seconds that it is later than `replaced` at least.
    """
    return min(max(stamp, replaced + apart), LATEST)


def latest_of(row: HostRow | MemberRow) -> int:
    """The latest stamp of a row."""
    if isinstance(row, MemberRow):
        return row.at
    return max(row.present_at, row.tag_at, row.weight_at, row.up_at)


def clipped_host(row: HostRow, bound: Bound, mine: HostRow | None) -> HostRow:
    """A row within the bound; what it says is kept.

    Args:
        mine: the row of this host that is here, if `row` comes from the ring. An attribute that says the same
            here keeps the stamp it has here: a row without news moves nobody, however often it comes.
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
    """The same for a row of the directors."""
    if row.at <= bound.decided:
        return row
    same = mine is not None and mine.present == row.present
    return msgspec.structs.replace(row, at=_kept(mine.at, bound) if same and mine else bound.hosts)


def due_host(row: HostRow, mine: HostRow) -> HostRow:
    """A row whose stamps have become possible, for a table in which it has been `mine` since it came.

    What was decided otherwise in between takes the place of what the row says: it gets a later stamp.
    """
    decided: dict[str, object] = {}
    for stamp, values in _ATTRIBUTES.items():
        if any(getattr(mine, name) != getattr(row, name) for name in values):
            decided |= {name: getattr(mine, name) for name in values}
            decided[stamp] = after(getattr(mine, stamp), getattr(row, stamp))
    return msgspec.structs.replace(row, **decided)


def due_member(row: MemberRow, mine: MemberRow) -> MemberRow:
    """The same for a row of the directors."""
    if mine.present == row.present:
        return row
    return msgspec.structs.replace(mine, at=after(mine.at, row.at))


def restored_host(row: HostRow, before: HostRow, wrong: int) -> HostRow:
    """A row that was clipped by a clock that was wrong, as it is by one that is right.

    Args:
        before: the row before it was clipped.
        wrong: the latest stamp that the wrong clock can have given. What was decided by it takes the place of
            what was there before, so it gets a later stamp; later stamps are compared as they are.
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
    """The same for a row of the directors."""
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
"""Each stamp of a host, and what it is the stamp of."""
