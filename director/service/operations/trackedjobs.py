"""Changes of users that run or have ended recently. They can be followed and interrupted by their id."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress

import anyio
import anyio.abc
import msgspec

from director.core.director import Director
from director.core.moves.jobs import Flush, Forget, MoveUser
from director.core.placement.users import BUCKET_SHIFT
from director.core.protocol.events import UsersEvent
from director.errors import OperationError, UnknownName
from director.records import MoveCounts, MoveInfo, Problem, UsersChange
from director.service.lifecycle.handover import UnfinishedJob
from director.service.operations.audit import Audit
from director.service.operations.previews import previewed
from director.service.pendingoperations import PendingOperations
from director.service.persistence.unstored import Unstored

REMEMBERED = 100
"""Number of ended operations that are kept."""


class TrackedJob:
    """An operation with an id."""

    def __init__(self, number: int, kind: str, target: str, event: UsersEvent | None = None) -> None:
        """event: None: the operation ended before this program started."""
        self.number, self.kind, self.target, self.event = number, kind, target, event
        self.reason = ""
        self.before = UsersChange()
        """The part of the operation that predecessors in this process have done."""
        self.total: int | None = None
        self.started = int(time.time())
        self.ended: int | None = None
        self.result: UsersChange | None = None
        self.problem: Problem | None = None
        self.error: OperationError | None = None
        self.over = anyio.Event()

    def does(self, kind: str, target: str, event: UsersEvent) -> bool:
        """Return whether this operation runs and makes the change that is asked for, with the same
        `max_parallel` or with none given."""
        mine = self.event
        if self.ended is not None or (self.kind, self.target) != (kind, target):
            return False
        if isinstance(mine, Flush) and isinstance(event, Flush) and event.max_parallel is None:
            mine = msgspec.structs.replace(mine, max_parallel=None)
        return mine == event

    async def outcome(self) -> UsersChange:
        """Wait for the end of the operation and return its result. Raises OperationError."""
        await self.over.wait()
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


class TrackedJobs:
    def __init__(
        self, director: Director, pending_operations: PendingOperations, unstored: Unstored, audit: Audit
    ) -> None:
        self._director, self._pending_operations = director, pending_operations
        self._unstored, self._audit = unstored, audit
        self._jobs: dict[str, TrackedJob] = {}
        self._taken_over: list[TrackedJob] = []
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Carry out operations in the background, until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            task_status.started()
            await anyio.sleep_forever()

    # ---- queries

    def all(self) -> list[MoveInfo]:
        """Return the operations that run or have ended recently, the newest first."""
        return [self._info(job) for job in reversed(self._jobs.values())]

    def info(self, id: str) -> MoveInfo:
        """Return one operation. Raises UnknownName if there is none with this id (any more)."""
        return self._info(self._find(id))

    async def interrupt(self, id: str) -> None:
        """Start the moves of no more users.

        Moves that have started are finished, and the operation ends with its counts. An operation that has
        ended is not changed.
        """
        self._pending_operations.interrupt(self._find(id).number)

    def _find(self, id: str) -> TrackedJob:
        if id not in self._jobs:
            raise UnknownName(
                f"{id}: no such operation; operations that have ended are listed for a while only"
            )
        return self._jobs[id]

    def _info(self, job: TrackedJob) -> MoveInfo:
        progress = self._director.jobs.progress(job.number)
        counts = added(users_change(progress.counts), job.before) if progress else job.result or job.before
        return MoveInfo(
            id=str(job.number),
            kind=job.kind,
            target=job.target,
            started=job.started,
            ended=job.ended,
            total=job.total,
            moved=counts.moved,
            in_progress=len(progress.under_way) if progress else 0,
            timed_out=counts.timed_out or 0,
            kicked=counts.kicked or 0,
            result=job.result,
            problem=job.problem,
        )

    # ---- carrying out

    async def carry_out(
        self, kind: str, target: str, event: UsersEvent, reason: str, *, follow: bool
    ) -> UsersChange | MoveInfo:
        """Carry out the operation, or join a running operation that makes the same change.

        Args:
            follow: return at once and carry out the operation in the background.
        """
        joined = self._joined(kind, target, event, reason)
        if joined is not None:
            return self.joined_info(joined) if follow else await joined.outcome()
        if follow:
            return self.start(kind, target, event, reason)
        return await self._carry_out(self._new(kind, target, event), reason)

    def start(self, kind: str, target: str, event: UsersEvent, reason: str) -> MoveInfo:
        """Carry out an operation in the background, and return at once."""
        assert self._tasks is not None
        job = self._new(kind, target, event)
        self._tasks.start_soon(self._carry_out_quietly, job, reason)
        return self._info(job)

    def under_way(self, kind: str, target: str) -> TrackedJob | None:
        """Return an operation of this kind for this target that has not ended."""
        jobs = (job for job in self._jobs.values() if job.ended is None)
        return next((job for job in jobs if (job.kind, job.target) == (kind, target)), None)

    def joined_info(self, job: TrackedJob) -> MoveInfo:
        """Return the answer for an operator who has asked for an operation that runs already."""
        return msgspec.structs.replace(self._info(job), joined=True)

    def _joined(self, kind: str, target: str, event: UsersEvent, reason: str) -> TrackedJob | None:
        """Return a running operation that makes the same change. A second operation would find no users."""
        if not isinstance(event, Flush | Forget):
            return None
        for job in self._jobs.values():
            if job.does(kind, target, event):
                self._audit.add(kind, target, reason, f"joined={job.number}")
                return job
        return None

    def _new(self, kind: str, target: str, event: UsersEvent) -> TrackedJob:
        job = TrackedJob(self._pending_operations.new_operation(), kind, target, event)
        self._jobs[str(job.number)] = job
        ended = [id for id, other in self._jobs.items() if other.ended is not None]
        for id in ended[:-REMEMBERED]:
            del self._jobs[id]
        return job

    async def _carry_out_quietly(self, job: TrackedJob, reason: str) -> None:
        with suppress(OperationError):  # the job keeps it for later queries
            await self._carry_out(job, reason)

    async def _carry_out(self, job: TrackedJob, reason: str) -> UsersChange:
        event, job.reason = job.event, reason
        assert event is not None
        try:
            if isinstance(event, Flush) and event.old_tag is None and job.total is None:
                to_move = await previewed(self._director, event.host, event.tag, everybody=False)
                job.total = to_move.moved
            done = await self._pending_operations.carry_out(event, job.number)
        except OperationError as exc:
            job.problem = Problem(title=str(exc), status=409, exit_code=exc.exit_code)
            job.error = exc
            raise
        else:
            buckets = [event.key >> BUCKET_SHIFT] if isinstance(event, MoveUser) else None
            stored = await self._unstored.users_stored(job.kind, job.target, buckets)
            job.result = made = added(users_change(done, stored=stored), job.before)
            detail = f"moved={made.moved} sessions={made.kicked} timed_out={made.timed_out}"
            self._audit.add(job.kind, job.target, reason, detail)
            return job.result
        finally:
            job.ended = int(time.time())
            job.over.set()

    # ---- replacement of the program

    def hand_over(self) -> list[UnfinishedJob]:
        """Return the operations that a successor has to start again."""
        return [
            UnfinishedJob(
                number=job.number,
                kind=job.kind,
                target=job.target,
                started=job.started,
                total=job.total,
                reason=job.reason,
                flush=job.event if isinstance(job.event, Flush) else None,
                forget=job.event if isinstance(job.event, Forget) else None,
                moved=info.moved,
                timed_out=info.timed_out,
                kicked=info.kicked,
            )
            for job in self._jobs.values()
            for info in [self._info(job)]
            # The operator who waited for the move of one user has got an error and can repeat it.
            if job.result is None and job.problem is None and isinstance(job.event, Flush | Forget)
        ]

    def ended(self) -> list[MoveInfo]:
        """Return the operations that have ended recently, the oldest first."""
        return [self._info(job) for job in self._jobs.values() if job.ended is not None]

    def take_over(self, ended: Iterable[MoveInfo], under_way: Iterable[UnfinishedJob], last: int) -> None:
        """List the operations of a predecessor.

        Args:
            ended: operations that have ended.
            under_way: operations that `go_on` starts again.
            last: the highest number of an operation so far.
        """
        self._pending_operations.go_on_behind(last)
        for info in ended:
            job = TrackedJob(int(info.id), info.kind, info.target)
            job.started, job.ended, job.total = info.started, info.ended, info.total
            job.before = UsersChange(moved=info.moved, timed_out=info.timed_out, kicked=info.kicked)
            job.result, job.problem = info.result, info.problem
            job.over.set()
            self._jobs[info.id] = job
        for unfinished in under_way:
            event = unfinished.flush or unfinished.forget
            assert event is not None
            job = TrackedJob(unfinished.number, unfinished.kind, unfinished.target, event)
            job.started, job.total, job.reason = unfinished.started, unfinished.total, unfinished.reason
            job.before = UsersChange(
                moved=unfinished.moved, timed_out=unfinished.timed_out, kicked=unfinished.kicked
            )
            self._jobs[str(job.number)] = job
            self._taken_over.append(job)

    def go_on(self) -> None:
        """Start a predecessor's operations again. Called when the ring is in sync: users can be moved."""
        assert self._tasks is not None
        for job in self._taken_over:
            self._tasks.start_soon(self._carry_out_quietly, job, job.reason)
        self._taken_over.clear()


def users_change(done: MoveCounts, *, stored: bool = True, host: str | None = None) -> UsersChange:
    return UsersChange(**msgspec.structs.asdict(done), stored=stored, host=host)


def added(made: UsersChange, before: UsersChange) -> UsersChange:
    """Return the counts of an operation together with the counts of its predecessors."""
    return msgspec.structs.replace(
        made,
        moved=before.moved + made.moved,
        unpinned=before.unpinned + made.unpinned,
        kicked=(before.kicked or 0) + (made.kicked or 0),
        timed_out=(before.timed_out or 0) + (made.timed_out or 0),
    )
