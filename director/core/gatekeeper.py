"""The login gate: whether logins of all users, of assigned users or of none are answered from memory now."""

from __future__ import annotations

from director.core.logins.logins import Logins
from director.core.logins.pending import Pending
from director.core.placement.assign import NO_LIMIT, Assigner, Gate
from director.core.protocol.counters import Counters
from director.core.protocol.effects import Effect, Level, ListSessions, LogEvent
from director.core.ring.barrier import Barrier
from director.core.ring.partition import MAY_HASH, Partition, Standing
from director.core.ring.ring import Ring
from director.core.ring.trust import Trust
from director.core.run import Run
from director.types import MemberId, Now

STANDING_NOTES = {
    Standing.MAJORITY: "directors are missing; this is the majority side and assigns new users",
    Standing.CLAIM: "a director outside the ring runs; new users are claimed through the shared store",
    Standing.WAIT: "minority side of a partition; new users wait",
    Standing.ISOLATED: "minority side of a partition; new users are assigned here and may get two hosts",
}


class Gatekeeper:
    def __init__(
        self,
        *,
        ring: Ring,
        barrier: Barrier,
        partition: Partition,
        trust: Trust,
        assigner: Assigner,
        logins: Logins,
        pending: Pending,
        counters: Counters,
        run: Run,
    ) -> None:
        self._ring, self._barrier, self._partition, self._trust = ring, barrier, partition, trust
        self._assigner, self._logins, self._pending = assigner, logins, pending
        self._counters, self._run = counters, run
        self._departed: set[MemberId] = set()
        """Directors that have announced their departure and have left the ring since."""
        self._sessions_due = True

    def review_sessions(self) -> None:
        """Have the sessions of this machine listed again."""
        self._sessions_due = True

    @property
    def known_alone(self) -> bool:
        """Whether this director is known to be alone: no other is linked with it, and no other holds a lease
        or can be reached."""
        if not self._ring.unlinked:
            return False
        leases = self._partition.leases
        if leases is not None and leases.isdisjoint(self._ring.expected()):
            return True
        return self._ring.alone

    def judge_partition(self, now: Now, digest: bytes) -> None:
        """Judge the partition again: alone, complete ring, incomplete ring."""
        barrier, ring = self._barrier, self._ring
        if not barrier.synced and self.known_alone and not barrier.holds_back(now, digest):
            barrier.release((ring.me,), now, digest)
        departed = ring.departed
        self._departed &= departed
        for member in departed:
            if member not in barrier.ring:
                self._departed.add(member)
            elif member in self._departed:
                self._departed.discard(member)
                ring.presence.returned(member)
        departed = ring.departed
        self._assigner.limit = barrier.limit or NO_LIMIT
        self._partition.review(barrier, now, departed)
        missing = not departed >= set(ring.counted).difference(barrier.ring)
        barrier.probe_if_missing(now, missing=missing)

    def review(self, now: Now) -> list[Effect]:
        """Open or close the gate. Waiting logins are woken when it opens further."""
        effects: list[Effect] = []
        was_unverified = self._trust.unverified
        barrier, standing = self._barrier, self._partition.standing
        in_sync = barrier.synced and standing is not Standing.WAIT
        trusted = self._trust.review(self._ring, now, alone=self.known_alone, in_sync=in_sync)
        if was_unverified and not self._trust.unverified:
            note = "compared with the ring or the store; logins are answered from them"
            fields = {"users": len(self._assigner.users), "note": note}
            effects.append(LogEvent(Level.INFO, "assignments_verified", fields))
        may_list = self._run.started and not self._trust.unverified and not self._assigner.unread
        if self._sessions_due and may_list:
            self._sessions_due = False
            effects.append(ListSessions())
        may_hash = barrier.synced and standing in MAY_HASH
        open_to = Gate.OPEN if may_hash else Gate.KNOWN
        gate = open_to if trusted and not self._ring.removed else Gate.CLOSED
        before = self._assigner.gate
        if gate is not before:
            self._assigner.gate = gate
            effects.append(LogEvent(Level.INFO, "login_gate_changed", self._fields(gate)))
            if gate is Gate.OPEN and standing is Standing.ISOLATED:
                self._counters.isolated += 1
        claiming = self._partition.claiming and gate is Gate.KNOWN
        if gate > before or (claiming and not self._logins.claiming):
            self._pending.wake()
        self._logins.claiming = claiming
        return effects

    def _fields(self, gate: Gate) -> dict[str, object]:
        return {
            "answers": {Gate.CLOSED: "none", Gate.KNOWN: "assigned users", Gate.OPEN: "all users"}[gate],
            "standing": self._partition.standing.value,
            "synced": self._barrier.synced,
            "ring": ",".join(self._barrier.ring),
            "waiting": len(self._pending),
            "note": self._note(gate),
        }

    def _note(self, gate: Gate) -> str | None:
        """Return why not all logins are answered from the assignments of a complete ring; None: they are."""
        if self._ring.removed:
            return "this director was removed from the ring; logins fail temporarily"
        if gate is Gate.CLOSED:
            return "logins wait until the assignments have been compared with the ring or the store"
        if gate is Gate.KNOWN and not self._barrier.synced:
            return "new users wait until the ring is in sync"
        return STANDING_NOTES.get(self._partition.standing)
