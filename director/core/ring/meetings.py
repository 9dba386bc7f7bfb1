"""Which directors are dialled only to find out whether they exist.

A director that was added at run time counts as missing only for those that have met it: else a member could
make up directors, and have all others wait for them (docs/ring.md, rule 47). Neighbours meet by being linked;
the others dial the added director once. A member can make up as many directors as the list holds, and let a
token name them all. So few are dialled at once, and each again after a pause that grows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from director.types import MemberId

AT_ONCE = 4
"""Directors that are dialled at the same time only to be met."""


def next_to_meet(
    wanted: Collection[MemberId], begun: Collection[MemberId], next_try: Mapping[MemberId, float]
) -> list[MemberId]:
    """Return the directors that may be dialled next, in the order in which they are due.

    Args:
        wanted: the directors to be met.
        begun: the directors that are being dialled, or linked.
        next_try: when each may be dialled (again), in monotonic seconds.
    """
    waiting = [member for member in wanted if member not in begun]
    free = AT_ONCE - (len(wanted) - len(waiting))
    return sorted(waiting, key=lambda member: (next_try[member], member))[:free] if free > 0 else []
