"""When directors are dialled: which dials are under way, which have failed, and when each is tried again.

`ring.py` says which directors may be dialled, and in which order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from director.core.protocol.effects import Dial
from director.core.ring.link import LinkState, Neighbour
from director.core.ring.meetings import next_to_meet
from director.types import LinkId, MemberId, Now

RETRY_FIRST = 0.1
RETRY_UNREACHABLE = 1.0
"""Longest pause, in seconds, between two dials of a director that cannot be reached."""
RETRY_UNMET = 30.0
"""Longest pause, in seconds, between two dials of a director that was never met: it may not exist."""
RETRY_REFUSED = 5.0
"""Longest pause, in seconds, between two dials of a director that was reached but refused the link."""
SHORT_LIVED = 1.0
"""Seconds. The other end did not want a link that ends sooner."""
PATIENCE = 0.3
"""Seconds that a dial may take before the next director is dialled too, if there is no right neighbour."""
REDIRECTED_EVERY = 1.0
"""Seconds between two dials of a director that the right neighbour names."""
LEFTLESS = 2.0
"""Seconds without a left neighbour after which this director dials leftwards."""


class Dials:
    def __init__(self, links: Mapping[LinkId, Neighbour], unmet: Collection[MemberId]) -> None:
        """Begin without dials.

        Args:
            links: all links, by id. The ring changes this mapping.
            unmet: the directors that were never met. The ring changes this set.
        """
        self.failed_at: dict[MemberId, float] = {}
        """Unix time at which a dial or a link last failed, by director."""
        self.tried: set[MemberId] = set()
        """Directors that could not be reached since a director was last reached."""
        self._links, self._unmet = links, unmet
        self._under_way: dict[tuple[MemberId, bool], float] = {}
        """Dials under way, as (director, leftwards), with the monotonic times at which they began."""
        self._old: set[MemberId] = set()
        """Directors whose dials began before a suspension of this process."""
        self._next_try: dict[MemberId, float] = {}
        self._failures: dict[MemberId, int] = {}
        self._redirected_at: dict[MemberId, float] = {}
        self._asked = 0.0
        """Monotonic time at which it was last asked which directors are to be dialled."""
        self._leftless_since: float | None = None
        self._left_next_try = 0.0
        self._left_tried: set[MemberId] = set()
        """Directors to the left that could not be reached since there was last a left neighbour."""

    def expect(self, members: Iterable[MemberId]) -> None:
        """Permit dials of these directors, immediately if they were not permitted before."""
        for member in members:
            self._next_try.setdefault(member, 0.0)
            self._failures.setdefault(member, 0)

    # ---- events

    def opened(self, member: MemberId, *, leftwards: bool) -> None:
        """Note that a dial has become a connection."""
        self._under_way.pop((member, leftwards), None)
        self._old.discard(member)

    def reached(self) -> None:
        """Note that a link with a director is proved."""
        self.tried.clear()

    def failed(self, member: MemberId, now: Now, *, leftwards: bool) -> None:
        """Note that a director could not be reached."""
        self._under_way.pop((member, leftwards), None)
        if leftwards:
            self._left_tried.add(member)
            self._left_next_try = now.mono + RETRY_FIRST
        elif member in self._old:
            # this process was suspended while the dial timed out, so the time-out says nothing
            self._old.discard(member)
        else:
            self._postpone(member, RETRY_UNREACHABLE, now)

    def link_ended(self, neighbour: Neighbour, now: Now) -> None:
        """Note that a link, which was dialled or accepted, has ended."""
        member = neighbour.dialled
        if member is None or neighbour.leftwards:
            return
        wanted = neighbour.routine or now.mono >= neighbour.opened.mono + SHORT_LIVED
        if neighbour.was_live and not neighbour.silent and wanted:
            self._failures[member] = 0
            self._next_try[member] = now.mono
            if not neighbour.routine:
                self.failed_at[member] = now.unix
        else:
            self._postpone(member, RETRY_REFUSED, now)

    def _postpone(self, member: MemberId, longest: float, now: Now) -> None:
        self.failed_at[member] = now.unix
        self.tried.add(member)
        self._failures[member] = self._failures.get(member, 0) + 1
        pause = RETRY_FIRST * 2 ** min(10, self._failures[member] - 1)
        if member in self._unmet:
            longest = RETRY_UNMET
        self._next_try[member] = now.mono + min(longest, pause)

    def resumed(self, members: Iterable[MemberId], now: Now) -> None:
        """Forget which of these directors could not be reached: after a suspension that is old."""
        self.tried.clear()
        self._old = {member for member, _ in self._under_way}
        for member in members:
            self._next_try[member] = now.mono

    def redirected(self, member: MemberId, now: Now) -> None:
        """Dial a director soon: the right neighbour says that it stands between the two."""
        if now.mono >= self._redirected_at.get(member, float("-inf")) + REDIRECTED_EVERY:
            self._redirected_at[member] = self._next_try[member] = now.mono

    def left_reviewed(self, now: Now, *, leftless: bool) -> None:
        """Note whether there is no left neighbour now."""
        if not leftless:
            self._leftless_since = None
            self._left_tried.clear()
        elif self._leftless_since is None:
            self._leftless_since = now.mono

    # ---- what is to be dialled

    def begun(self, member: MemberId, *, leftwards: bool = False) -> float | None:
        """Return when this director began to dial a director, if the dial or the link still stands; None: it
        does not."""
        begun = self._under_way.get((member, leftwards))
        if begun is not None:
            return begun
        for neighbour in self._links.values():
            dialled = neighbour.dialled == member and neighbour.leftwards is leftwards
            if dialled and neighbour.state is not LinkState.CLOSED:
                return neighbour.opened.mono
        return None

    def asked(self, now: Now) -> None:
        """Note that the dials due now are about to be returned."""
        self._asked = now.mono

    def rightwards(self, members: Sequence[MemberId], now: Now, *, has_right: bool) -> list[Dial]:
        """Return the dials of the nearest directors to the right.

        Args:
            members: the directors that are nearer than the right neighbour, in the order of the dials.
            now: the time.
            has_right: whether there is a right neighbour, so that a single dial at a time is enough.
        """
        dials = []
        for member in members:
            begun = self.begun(member)
            if begun is None and now.mono >= self._next_try[member]:
                self._under_way[member, False] = begun = now.mono
                dials.append(Dial(member))
            if begun is not None and (has_right or now.mono < begun + PATIENCE):
                break
        return dials

    def is_leftwards_due(self, now: Now) -> bool:
        """Whether there has been no left neighbour for a while, so that this director dials leftwards."""
        return self._leftless_since is not None and now.mono >= self._leftwards_due(self._leftless_since)

    def leftwards(self, nearest: Sequence[MemberId], now: Now) -> list[Dial]:
        """Return the dial of a director to the left.

        Args:
            nearest: the directors to the left in the order of the dials.
            now: the time.
        """
        lefts = [member for member in nearest if member not in self._left_tried]
        if not lefts:
            self._left_tried.clear()
            self._left_next_try = now.mono + RETRY_UNREACHABLE
            return []
        self._left_next_try = now.mono + RETRY_REFUSED
        if self.begun(lefts[0], leftwards=True) is not None:
            return []
        self._under_way[lefts[0], True] = now.mono
        return [Dial(lefts[0], leftwards=True)]

    def _leftwards_due(self, leftless_since: float) -> float:
        return max(leftless_since + LEFTLESS, self._left_next_try)

    def to_meet(self, wanted: Collection[MemberId], now: Now) -> list[Dial]:
        """Return the dials of directors that are dialled only to meet them."""
        due = [member for member in self._next_to_meet(wanted) if now.mono >= self._next_try[member]]
        for member in due:
            self._under_way[member, False] = now.mono
        return [Dial(member) for member in due]

    def _next_to_meet(self, wanted: Collection[MemberId]) -> list[MemberId]:
        if not wanted:
            return []
        begun = {member for member, leftwards in self._under_way if not leftwards}
        begun |= {n.dialled for n in self._links.values() if n.dialled is not None}
        return next_to_meet(wanted, begun, self._next_try)

    # ---- deadlines

    def rightwards_deadlines(self, members: Sequence[MemberId], *, has_right: bool) -> list[float]:
        """Return the monotonic times at which `rightwards` may have something to dial."""
        deadlines = []
        for member in members:
            begun = self.begun(member)
            if begun is None:
                deadlines.append(self._next_try[member])
            elif has_right:
                break
            elif begun + PATIENCE > self._asked:
                deadlines.append(begun + PATIENCE)
                break
        return deadlines

    def leftwards_deadlines(self) -> list[float]:
        """Return the monotonic time at which `leftwards` may have something to dial, if there is one."""
        if self._leftless_since is None:
            return []
        due = self._leftwards_due(self._leftless_since)
        return [due if due > self._asked else self._asked + RETRY_UNREACHABLE]

    def meeting_deadlines(self, wanted: Collection[MemberId]) -> list[float]:
        """Return the monotonic time at which `to_meet` may have something to dial, if there is one."""
        return [self._next_try[member] for member in self._next_to_meet(wanted)[:1]]
