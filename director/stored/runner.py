"""Runs procedures: generators that yield calls and waits.

Pure: calls leave as effects, answers come in as events, and each event brings the time.

So a sequence such as "read, merge, then write" is written once, from top to bottom, and the same code runs
with a real store and in the simulator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from director.stored.pace import Clock
from director.stored.storecalls import Ask, Call, Drop, Procedure, StoreEffect, Wait
from state.base import StoreError


class Limit:
    """A time-out of a part of a procedure."""

    def __init__(self, at: float | None) -> None:
        self.at = at
        """Monotonic seconds; None: no time-out."""
        self.reached = False
        """Whether the time-out has interrupted the part."""


class LimitReached(BaseException):
    """Raised in a procedure whose time-out has passed. It ends where the time-out was set."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit


class Task:
    """A running procedure."""

    def __init__(self, procedure: Procedure[None]) -> None:
        self.procedure = procedure
        self.limits: list[Limit] = []
        """The time-outs, the outermost first."""
        self.call: int | None = None
        """The number of the call whose answer the procedure waits for."""
        self.wait: Wait | None = None
        self.is_new = True

    def is_due(self, now: float) -> bool:
        return self.is_new or (self.wait is not None and _has_ended(self.wait, now))

    def reached(self, now: float) -> Limit | None:
        """Return the outermost time-out that has passed; None: none."""
        return next((limit for limit in self.limits if limit.at is not None and limit.at <= now), None)

    def deadline(self) -> float | None:
        times = [limit.at for limit in self.limits if limit.at is not None]
        if self.wait is not None and self.wait.until is not None:
            times.append(self.wait.until)
        if self.is_new or (self.wait is not None and any(signal.is_set for signal in self.wait.signals)):
            return 0.0
        return min(times, default=None)


def _has_ended(wait: Wait, now: float) -> bool:
    return (wait.until is not None and wait.until <= now) or any(signal.is_set for signal in wait.signals)


class Runner:
    def __init__(self, clock: Clock, effects: list[StoreEffect]) -> None:
        """Begin without procedures.

        Args:
            effects: takes the effects.
        """
        self._clock, self._effects = clock, effects
        self._tasks: list[Task] = []
        self._asked: dict[int, Task] = {}
        self._number = 0
        self._current: Task | None = None

    def start(self, procedure: Procedure[None]) -> None:
        """Run a procedure, from the next `advance` on."""
        self._tasks.append(Task(procedure))

    def interrupt(self) -> None:
        """End all procedures at once, wherever they are."""
        tasks, self._tasks, self._asked = self._tasks, [], {}
        for task in tasks:
            if task.call is not None:
                self._effects.append(Drop(task.call))
            task.procedure.close()

    def after(self, seconds: float | None) -> Limit:
        """Return a time-out after this many seconds; None: never."""
        return Limit(None if seconds is None else self._clock.mono + seconds)

    @contextmanager
    def within(self, limit: Limit) -> Iterator[Limit]:
        """Interrupt the block when the time-out has passed."""
        task = self._current
        assert task is not None, "only a running procedure has a time-out"
        task.limits.append(limit)
        try:
            yield limit
        except LimitReached as exc:
            if exc.limit is not limit:
                raise
            limit.reached = True
        finally:
            task.limits.remove(limit)

    def answered(self, number: int, answer: object) -> None:
        task = self._asked.pop(number, None)
        if task is not None:
            self._go_on(task, answer)

    def failed(self, number: int, error: StoreError) -> None:
        task = self._asked.pop(number, None)
        if task is not None:
            self._go_on(task, None, error)

    def advance(self) -> None:
        """Continue all procedures that wait for no answer, and interrupt those whose time-outs have
        passed."""
        for task in list(self._tasks):
            limit = task.reached(self._clock.mono)
            if limit is not None:
                if task.call is not None:
                    self._effects.append(Drop(task.call))
                    del self._asked[task.call]
                self._go_on(task, None, LimitReached(limit))
            elif task.is_due(self._clock.mono):
                signalled = task.wait is not None and any(signal.is_set for signal in task.wait.signals)
                self._go_on(task, None if task.is_new else signalled)

    def next_deadline(self) -> float | None:
        """Return the monotonic time at which `advance` is due; 0: immediately; None: never."""
        return min((at for task in self._tasks if (at := task.deadline()) is not None), default=None)

    def _go_on(self, task: Task, answer: object, error: BaseException | None = None) -> None:
        task.call, task.wait, task.is_new = None, None, False
        before, self._current = self._current, task
        try:
            wanted = task.procedure.send(answer) if error is None else task.procedure.throw(error)
        except StopIteration:
            self._tasks.remove(task)
            return
        except BaseException:
            self._tasks.remove(task)
            raise
        finally:
            self._current = before
        if isinstance(wanted, Call):
            self._number += 1
            task.call = self._number
            self._asked[self._number] = task
            self._effects.append(Ask(self._number, wanted))
        else:
            task.wait = wanted
