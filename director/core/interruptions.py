"""Interruptions of this director: its process was late or suspended, or its clock has stepped."""

from __future__ import annotations

import math

from director.core.gatekeeper import Gatekeeper
from director.core.housekeeping import Housekeeping
from director.core.moves.kicks import Kicks
from director.core.ownclock import OwnClock
from director.core.placement.users import UserTable
from director.core.protocol.clock import ClockWatch
from director.core.protocol.effects import Effect, Level, LogEvent
from director.core.ring.barrier import Barrier
from director.core.ring.partition import Partition
from director.core.ring.ring import Ring
from director.core.ring.trust import Trust
from director.core.run import Run
from director.types import Now

STALLED = 1.0
"""Seconds after which a delay counts as a suspension of the process (docs/ring.md, rule 28): of an event
after the requested deadline, or of the event loop's own check."""
STALLED_NOTE = (
    "the process or its machine did not run; no login is answered until the assignments have been compared"
    " with the neighbours; check whether the machine is overloaded"
)
LATE = 0.05
"""Seconds by which this process must be late before the time-outs of the links are moved."""


class Interruptions:
    def __init__(
        self,
        *,
        run: Run,
        clock: OwnClock,
        ring: Ring,
        barrier: Barrier,
        partition: Partition,
        trust: Trust,
        gatekeeper: Gatekeeper,
        housekeeping: Housekeeping,
        kicks: Kicks,
        users: UserTable,
    ) -> None:
        self.expected: float | None = None
        """Monotonic time at which the next event is due at the latest; None: no event is due."""
        self.lease_until = math.inf
        """As in the last `Leases`."""
        self._run, self._clock, self._ring, self._barrier = run, clock, ring, barrier
        self._partition, self._trust, self._gatekeeper = partition, trust, gatekeeper
        self._housekeeping, self._kicks, self._users = housekeeping, kicks, users
        self._clock_watch = ClockWatch()
        self._suspended_at = float("-inf")

    def check(self, now: Now) -> list[Effect]:
        """Check at an event whether this director was interrupted since the event before.

        If this process was late, no link is closed as silent because of it.
        """
        effects: list[Effect] = []
        if self.expected is not None:
            late = now.mono - self.expected
            self.expected = None
            if late > STALLED:
                effects += self._suspended(late, now)
            elif late > LATE:
                self._ring.forgive(late, now)
        effects += self._clock.check(now)
        step = self._clock_watch.step(now)
        return effects + self._clock_stepped(step, now) if step else effects

    def stalled(self, gap: float, now: Now) -> list[Effect]:
        """Handle a suspension that the driver has noticed, unless `check` has noticed it already.

        Args:
            gap: seconds of the suspension.
            now: the time.
        """
        return self._suspended(gap, now) if now.mono >= self._suspended_at + STALLED else []

    def _suspended(self, gap: float, now: Now) -> list[Effect]:
        """React to a suspension of this process: compare memory with the neighbours before any login is
        answered."""
        fields = {"seconds": round(gap, 1), "note": STALLED_NOTE}
        self._suspended_at = now.mono
        if self._partition.leases is not None and now.mono >= self.lease_until:
            self._trust.lapsed(now)
        self._partition.doubt_leases()
        self._ring.resumed(now)
        self._ring.suspended(gap + STALLED, now)
        effects = [LogEvent(Level.WARNING, "process_stalled", fields), *self._trust.resumed(self._ring, now)]
        if self._run.started and self._trust.unverified:
            self._barrier.wait(now, at_once=True)
        return effects + self._gatekeeper.review(now)

    def _clock_stepped(self, seconds: float, now: Now) -> list[Effect]:
        """React to a step of the clock, after which the last logins of users have wrong times.

        Expired records are kept for a while, and the sessions of this machine are listed to refresh their
        users.
        """
        self._housekeeping.wait(now.mono + self._users.expire)
        self._kicks.clock_stepped(now)
        if seconds > 0:
            self._ring.suspended(seconds, now)
        self._gatekeeper.review_sessions()
        note = (
            "the times of logins before the step are wrong by that; no assignment expires for users.expire,"
            " and the proxy's sessions are listed again; check the clock (NTP)"
        )
        return [LogEvent(Level.WARNING, "clock_stepped", {"seconds": round(seconds, 1), "note": note})]

    def clock_was_steady(self, mono: float) -> bool:
        """Whether the clock has not stepped for as long as it takes an assignment to expire."""
        return mono >= self._clock_watch.stepped_at + self._users.expire
