"""Operators' orders: each goes to the part that it concerns, or is refused with a reason.

Changes of hosts and directors begin when the ring is in sync.
"""

from __future__ import annotations

from collections.abc import Sequence

from director.core.agreement import Agreement
from director.core.gatekeeper import Gatekeeper
from director.core.logins.startup import Startup
from director.core.moves.jobs import Flush, Forget, UnpinUser, UserJobs
from director.core.protocol.effects import Effect, OperationFailed
from director.core.protocol.events import HostChange, HostsMoved, InterruptFlush, MemberChange, Order
from director.core.protocol.messages import HostRow, MemberRow
from director.core.ring.barrier import Barrier
from director.core.ring.partition import Partition, Standing
from director.core.ring.ring import Ring
from director.core.tables.changes import Changes
from director.errors import OperationError, Refused, TryAgain
from director.types import Now

REMOVED = "this director was removed from the ring; run the command on a ring member"
STOPS = "this director is stopping; run the command on another director"
MINORITY_SIDE = "this director is on the minority side of a partition; run the command on the majority side"
READING = (
    "this director is still reading users from the store; retry in some seconds, or use another director"
)


class Dispatcher:
    def __init__(
        self,
        *,
        ring: Ring,
        barrier: Barrier,
        partition: Partition,
        gatekeeper: Gatekeeper,
        agreement: Agreement,
        startup: Startup,
        changes: Changes,
        jobs: UserJobs,
    ) -> None:
        self._ring, self._barrier, self._partition = ring, barrier, partition
        self._gatekeeper, self._agreement, self._startup = gatekeeper, agreement, startup
        self._changes, self._jobs = changes, jobs

    def handle(self, order: Order, now: Now) -> list[Effect]:
        if isinstance(order, InterruptFlush):
            self._jobs.interrupt(order)
            return []
        refused = self._refused(order)
        if refused is not None:
            return [OperationFailed(order.operation, *refused)]
        if isinstance(order, HostChange | HostsMoved | MemberChange):
            self._changes.add(order, now)
        else:
            self._jobs.handle(order, now)
        return []

    def _refused(self, order: Order) -> tuple[type[OperationError], str] | None:
        """Return the error and its reason if this director cannot carry out the order now; None: it can."""
        # such an order may add this director again
        if self._ring.removed and not isinstance(order, MemberChange):
            return Refused, REMOVED
        if isinstance(order, HostChange | HostsMoved | MemberChange):
            return (TryAgain, STOPS) if self._ring.leaving else None
        if self._partition.standing is Standing.WAIT:
            return Refused, MINORITY_SIDE
        if self._startup.under_way and isinstance(order, Flush | Forget | UnpinUser):
            return TryAgain, READING
        return None

    def turn(self, now: Now) -> list[Effect]:
        """Begin and confirm changes of hosts and directors, as far as the ring permits it now."""
        # A director that has removed itself is in no ring that could agree. It has told the others.
        effects = self._changes.confirm() if self._barrier.synced or self._ring.removed else []
        while self._may_begin:
            effects += self._carried_out(*self._changes.begin(now), now)
        if self._removes_without_sync:
            effects += self._carried_out(*self._changes.begin_removal(now), now)
        return effects + self._changes.overdue(now)

    def _carried_out(self, done: list[Effect], rows: Sequence[HostRow | MemberRow], now: Now) -> list[Effect]:
        """Handle the rows that an operator's change has changed."""
        if not rows:
            return done
        effects = done + self._agreement.changed_here(rows, now)
        self._gatekeeper.judge_partition(now, self._agreement.digest)
        return effects + (self._changes.confirm() if self._barrier.synced else [])

    @property
    def _may_begin(self) -> bool:
        may_assign = self._partition.standing is not Standing.WAIT
        return self._barrier.synced and self._changes.can_begin and may_assign

    @property
    def _removes_without_sync(self) -> bool:
        """Whether a director may be removed although the ring is not in sync."""
        return not self._barrier.synced and self._partition.standing is not Standing.WAIT

    def next_deadline(self) -> float | None:
        return self._changes.next_deadline(without_sync=self._removes_without_sync)
