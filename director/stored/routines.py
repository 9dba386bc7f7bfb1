"""The routines that run as long as the director: write changes, renew the lease, watch the store."""

from __future__ import annotations

from collections.abc import Callable

from director.core.protocol.events import Leases
from director.stored.ownlease import RENEWALS
from director.stored.pace import REST_TIMES, BackOff, rest_after
from director.stored.procedures import Procedures
from director.stored.runner import Runner
from director.stored.storecalls import Procedure, ReadRunId, Wait
from state.base import StoreError

NAMES_AFTER = 30.0
"""Seconds from the first change of a name until it is written. Nothing depends on names."""
JOINED_AGAIN = 0.05
"""Seconds between two writes while the director joins its ring or loads the store. Only documents are written
then; the rest stays due."""
WATCH_PARTIAL = 0.5
"""Seconds between two reads of what other directors have changed in the store, in an incomplete ring
(docs/ring.md, rule 12)."""
WATCH_FILE = 1.0
"""Seconds between two checks whether another program has damaged the file of a store that is not shared."""


class Routines:
    def __init__(self, steps: Procedures, runner: Runner, uniform: Callable[[float, float], float]) -> None:
        """Begin with nothing due.

        Args:
            steps: the procedures.
            runner: runs the routines.
            uniform: returns a random number between two others.
        """
        self._steps, self._runner, self._uniform = steps, runner, uniform
        self._director, self._clock, self._connection = steps.director, steps.clock, steps.connection
        self.names_due = False
        """Whether names are written with the next users."""

    def write_changes(self) -> Procedure[None]:
        """Write changes as they come, until the procedure is ended."""
        steps, clock = self._steps, self._clock
        back_off = BackOff(self._uniform)
        names_at = clock.mono + NAMES_AFTER
        took = 0.0
        names_left = False
        while True:
            if self._connection.is_up:
                if not (self._has_something_to_do() or names_left):
                    yield Wait(clock.mono + NAMES_AFTER, (steps.work,))
                steps.work.clear()
                yield from self._rest(rest_after(took))
            try:
                if not self._connection.is_up or (yield from steps.is_replaced()):
                    yield from steps.rejoin()
                yield from steps.read_if_lapsed()
                begun = clock.mono
                due = False
                if self._director.joining or self._director.loading:
                    yield from steps.documents.write()  # users come later: the director has more urgent work
                    yield Wait(clock.mono + JOINED_AGAIN)
                else:
                    due = names_left or self.names_due or begun >= names_at
                    self.names_due = False
                    names_left = yield from steps.write(names=due)
                took = clock.mono - begun
                if due and not names_left:
                    names_at = begun + max(NAMES_AFTER, REST_TIMES * took)
                back_off.succeeded()
            except StoreError as exc:
                steps.failed("write", exc)
                yield Wait(clock.mono + back_off.pause())

    def _has_something_to_do(self) -> bool:
        steps = self._steps
        return steps.claim_due or steps.writer.has_work or bool(steps.audit) or not steps.documents.stored

    def _rest(self, seconds: float) -> Procedure[None]:
        """Wait so that changes gather, unless an operator waits for a change."""
        steps = self._steps
        if steps.documents.operators_stored and not steps.writer.questions:
            yield Wait(self._clock.mono + seconds, (steps.urgent,))
        steps.urgent.clear()

    def keep_lease(self) -> Procedure[None]:
        """Renew the lease in time, until the procedure is ended."""
        steps, lease, connection = self._steps, self._steps.lease, self._connection
        while True:
            yield Wait(self._clock.mono + (lease.pause if connection.is_up else lease.ttl / RENEWALS))
            if not connection.is_up:
                continue
            holders = None
            try:
                if (yield from steps.is_replaced()):
                    continue
                with self._runner.within(self._runner.after(lease.remaining or None)) as in_time:
                    holders = yield from lease.renew()
            except StoreError as exc:
                steps.failed("lease", exc)
                continue
            if in_time.reached or lease.has_lapsed:
                steps.assume_all_hold_leases()
            elif connection.is_up:
                steps.tell(Leases(holders, lease.until))

    def watch_partial(self) -> Procedure[None]:
        """Read what other directors write while a director outside the ring holds a lease, until the
        procedure is ended."""
        while True:
            yield Wait(self._clock.mono + WATCH_PARTIAL)
            if not (self._director.partial and self._connection.is_up):
                continue
            try:
                yield from self._steps.reader.changed("users")
                yield from self._steps.documents.read_changes()
            except StoreError as exc:
                self._steps.failed("watch", exc)

    def watch_file(self) -> Procedure[None]:
        """Notice soon, and not only with the next change, that another program has damaged the file of the
        store. Without end."""
        while True:
            yield Wait(self._clock.mono + WATCH_FILE)
            if not self._connection.is_up:
                continue
            try:
                yield ReadRunId()
            except StoreError as exc:
                self._steps.failed("watch", exc)
