"""The directors that are dialled only to find out whether they exist.

A director that was added at run time counts as missing only on directors that have met it. Otherwise a
director could invent others, and let all directors wait for them (docs/ring.md, rule 47). Neighbours meet
when they link. All others dial the added director once. Since a director can invent as many directors as the
list holds, and name them all in a token, only a few are dialled at a time, each with a back-off.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from director.types import MemberId

AT_ONCE = 4
"""Directors that are dialled at the same time only to meet them."""


def next_to_meet(
    wanted: Collection[MemberId], begun: Collection[MemberId], next_try: Mapping[MemberId, float]
) -> list[MemberId]:
    """Return the directors that may be dialled next, in the order in which they are due.

    Args:
        wanted: the directors to meet.
        begun: the directors that are being dialled, or are linked.
        next_try: when each may be dialled (again), in monotonic seconds.
    """
    waiting = [member for member in wanted if member not in begun]
    free = AT_ONCE - (len(wanted) - len(waiting))
    return sorted(waiting, key=lambda member: (next_try[member], member))[:free] if free > 0 else []
