"""Operators' changes of hosts and of the list of directors: one at a time, confirmed when every director has
it (docs/ring.md, rule 9).

queued --ring in sync--> carried out --ring in sync again--> done
   \\__ 30 s without sync ___/\\__ 30 s without sync (the change stays made) ___> "Ring sync timed out"

The removal of a director waits for sync only `REMOVE_AFTER` seconds, because the director to be removed may
be why the ring is not in sync.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from director.core.protocol.effects import Effect, OperationDone, OperationFailed
from director.core.protocol.events import HostChange, HostsMoved, MemberChange
from director.core.protocol.messages import HostRow, MemberRow
from director.core.protocol.texts import wrong_text
from director.core.tables.hosts import MAX_WEIGHT, HostTable
from director.core.tables.members import MOST_ROWS, MemberTable, about
from director.core.tables.movedhosts import moved_rows
from director.errors import BadRequest, OperationError, Refused, TryAgain, UnknownName
from director.types import Address, Now, Stamp

SYNC_TIMEOUT = 30.0
"""Seconds that a change waits for sync before it is carried out, and again before it is confirmed."""
REMOVE_AFTER = 5.0
"""Seconds without sync after which a director is removed in any case, even while another change is not
confirmed."""
TIMED_OUT = "Ring sync timed out"


class _QueuedChange(msgspec.Struct):
    change: HostChange | HostsMoved | MemberChange
    asked: float
    """Monotonic time of the operator's request."""
    deadline: float
    rows: Sequence[HostRow | MemberRow] = ()
    """The rows that it has changed; empty until it is carried out."""


class Changes:
    def __init__(self, hosts: HostTable, members: MemberTable) -> None:
        self._hosts, self._members = hosts, members
        self._queue: deque[_QueuedChange] = deque()
        self._current: list[_QueuedChange] = []
        """Changes that were carried out and not confirmed: one, and removals of directors that did not wait
        for it."""

    def add(self, change: HostChange | HostsMoved | MemberChange, now: Now) -> None:
        self._queue.append(_QueuedChange(change, now.mono, now.mono + SYNC_TIMEOUT))

    def next_deadline(self, *, without_sync: bool) -> float | None:
        """Return when `overdue` or `begin_removal` has something to do, in monotonic seconds; None: never.

        Args:
            without_sync: whether the ring is not in sync, so that removals of directors count.
        """
        waiting = [*self._current, *([self._queue[0]] if self._queue else [])]
        deadlines = [operation.deadline for operation in waiting]
        removal = self._first_removal() if without_sync else None
        if removal is not None:
            deadlines.append(removal.asked + REMOVE_AFTER)
        return min(deadlines, default=None)

    @property
    def can_begin(self) -> bool:
        return not self._current and bool(self._queue)

    def begin(self, now: Now) -> tuple[list[Effect], Sequence[HostRow | MemberRow]]:
        """Carry out the next change.

        The ring must be in sync. Returns the effects, and the rows that have changed.
        """
        return self._carry_out(self._queue.popleft(), now)

    def begin_removal(self, now: Now) -> tuple[list[Effect], Sequence[HostRow | MemberRow]]:
        """Carry out the first removal of a director that has waited long enough for sync, if there is one.

        Returns:
            As `begin`.
        """
        operation = self._first_removal()
        if operation is None or now.mono < operation.asked + REMOVE_AFTER:
            return [], []
        self._queue.remove(operation)
        return self._carry_out(operation, now)

    def _first_removal(self) -> _QueuedChange | None:
        removals = (o for o in self._queue if isinstance(o.change, MemberChange) and o.change.remove)
        return next(removals, None)

    def _carry_out(
        self, operation: _QueuedChange, now: Now
    ) -> tuple[list[Effect], Sequence[HostRow | MemberRow]]:
        change = operation.change
        row: HostRow | MemberRow | None
        if isinstance(change, HostsMoved):
            effects, rows = self._move_hosts(change, now)
        else:
            if isinstance(change, HostChange):
                effects, row = self._change_host(change, now)
            else:
                effects, row = self._change_member(change, now)
            rows = [] if row is None else [row]
        if rows:
            operation.rows = rows
            operation.deadline = now.mono + SYNC_TIMEOUT
            self._current.append(operation)
        return effects, rows

    def _move_hosts(self, change: HostsMoved, now: Now) -> tuple[list[Effect], Sequence[HostRow | MemberRow]]:
        current = [self._hosts.rows.get(Address(row.address)) for row in change.only_if]
        for move in change.moves:
            taken_by = self._hosts.taken_by(move.after)
            if taken_by is not None:
                return [OperationFailed(change.operation, Refused, _same_id(move.after, taken_by))], []
        if current != list(change.only_if):
            return [OperationDone(change.operation, change.only_if[0])], []
        rows = moved_rows(self._hosts.rows, change.moves, int(now.unix))
        self._hosts.put(rows)
        return [], rows

    def _change_host(self, change: HostChange, now: Now) -> tuple[list[Effect], HostRow | None]:
        current = self._hosts.rows.get(change.address)
        if change.only_if is not None and current is not None and current != change.only_if:
            return [OperationDone(change.operation, current)], None
        problem = problem_with(self._hosts, change)
        if problem is not None:
            return [OperationFailed(change.operation, *problem)], None
        before = self._hosts.rows.get(change.address)
        row = self._hosts.change(
            change.address,
            Stamp(int(now.unix)),
            remove=change.remove,
            hostname=change.hostname,
            tag=change.tag,
            weight=change.weight,
            up=change.up,
        )
        if row is None:
            assert before is not None
            return [OperationDone(change.operation, before)], None
        return [], row

    def _change_member(self, change: MemberChange, now: Now) -> tuple[list[Effect], MemberRow | None]:
        if change.remove and change.member not in self._members.listed():
            text = f"{change.member}: no such director"
            return [OperationFailed(change.operation, UnknownName, text)], None
        about = change.name or self._members.name_of(change.member) or change.member
        if self._members.full and about not in self._members.rows:
            text = (
                f"the list of directors has {MOST_ROWS} run-time changes, which"
                " is the limit: write them into ring.servers"
            )
            return [OperationFailed(change.operation, Refused, text)], None
        row = self._members.change(change.member, int(now.unix), present=not change.remove, name=change.name)
        if row is None:
            as_it_is = MemberRow(change.member, not change.remove, 0)
            return [OperationDone(change.operation, as_it_is)], None
        return [], row

    def confirm(self) -> list[Effect]:
        """Report the changes that wait for confirmation: the ring is in sync, so every director has them.

        The reported rows are those that hold now.
        """
        confirmed, self._current = self._current, []
        return [self._done(operation) for operation in confirmed]

    def _done(self, operation: _QueuedChange) -> Effect:
        change, row = operation.change, operation.rows[0]
        if isinstance(change, HostsMoved):
            return OperationDone(change.operation, row)
        if isinstance(change, HostChange):
            return OperationDone(change.operation, self._hosts.rows.get(change.address) or row)
        assert isinstance(row, MemberRow)
        return OperationDone(change.operation, self._members.rows.get(about(row)) or row)

    def give_up(self, reason: str) -> list[Effect]:
        """Fail the changes that have not begun, because this director leaves.

        Otherwise it would carry them out once it is alone and in sync with itself, and no other director
        would get them.
        """
        queue, self._queue = self._queue, deque()
        return [OperationFailed(waiting.change.operation, TryAgain, reason) for waiting in queue]

    def overdue(self, now: Now) -> list[Effect]:
        over = [operation for operation in self._current if now.mono >= operation.deadline]
        self._current = [operation for operation in self._current if now.mono < operation.deadline]
        reason = f"{TIMED_OUT}; the change is made on this director"
        effects: list[Effect] = [OperationFailed(o.change.operation, TryAgain, reason) for o in over]
        while self._queue and now.mono >= self._queue[0].deadline:
            effects.append(OperationFailed(self._queue.popleft().change.operation, TryAgain, TIMED_OUT))
        return effects


def problem_with(hosts: HostTable, change: HostChange) -> tuple[type[OperationError], str] | None:
    """Return why a change is not carried out: the error and its text; None: no reason."""
    if change.weight is not None and not 0 <= change.weight <= MAX_WEIGHT:
        size = "small" if change.weight < 0 else "large"
        return BadRequest, f"vhost count too {size}: {change.weight}; 0 to {MAX_WEIGHT} are possible"
    for name, text in (("tag", change.tag), ("host name", change.hostname)):
        problem = wrong_text(name, text or "")
        if problem is not None:
            return BadRequest, problem
    row = hosts.get(change.address)
    if row is None and not change.add:
        return UnknownName, f"{change.address}: no such backend host"
    if row is not None and change.tag not in (None, row.tag) and not change.retag:
        return Refused, "host tag can't be changed"
    taken_by = hosts.taken_by(change.address)
    if taken_by is not None:
        return Refused, _same_id(change.address, taken_by)
    return None


def _same_id(address: Address, taken_by: Address) -> str:
    return f"{address} has the same 32-bit id as {taken_by}: give it another address"
