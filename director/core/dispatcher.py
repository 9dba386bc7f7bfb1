"""Operators' orders: each goes to the part that it concerns, or is refused with a reason."""

from __future__ import annotations

from director.core.logins.startup import Startup
from director.core.moves.jobs import UserJobs
from director.core.protocol.effects import Effect, OperationFailed
from director.core.protocol.events import (
    Flush,
    Forget,
    HostChange,
    HostsMoved,
    Interrupt,
    MemberChange,
    Order,
    UnpinUser,
)
from director.core.ring.partition import Partition, Standing
from director.core.ring.ring import Ring
from director.core.tables.changes import Changes
from director.errors import OperationError, Refused, TryAgain
from director.types import Now

REMOVED = "this director was removed from the ring; ask one that is in it"
STOPS = "this director stops; ask another one"
CUT_OFF = "this director is cut off from the larger part of the ring; ask one there"
READING = "this director has not read all users from the store yet; ask again in some seconds, or another one"


class Dispatcher:
    def __init__(
        self, ring: Ring, partition: Partition, startup: Startup, changes: Changes, jobs: UserJobs
    ) -> None:
        self._ring, self._partition, self._startup = ring, partition, startup
        self._changes, self._jobs = changes, jobs

    def handle(self, order: Order, now: Now) -> list[Effect]:
        if isinstance(order, Interrupt):
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
        # an order may bring this director back
        if self._ring.removed and not isinstance(order, MemberChange):
            return Refused, REMOVED
        if isinstance(order, HostChange | HostsMoved | MemberChange):
            return (TryAgain, STOPS) if self._ring.leaving else None
        if self._partition.standing is Standing.WAIT:
            return Refused, CUT_OFF
        if self._startup.under_way and isinstance(order, Flush | Forget | UnpinUser):
            return TryAgain, READING
        return None
