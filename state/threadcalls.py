"""A blocking call in a thread whose caller may stop waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar, cast

import anyio

Result = TypeVar("Result")


class ThreadCall(Generic[Result]):
    """A call of `work`, made by the thread that calls `run`.

    A thread cannot be ended: if a task is cancelled while it waits for the result, the call continues. Any
    number of tasks may wait.
    """

    def __init__(self, work: Callable[[], Result], ended: Callable[[], None] = lambda: None) -> None:
        """Keep the call.

        Args:
            work: the blocking function.
            ended: called on the event loop when the call has ended, whether or not a task waits for it.
        """
        self._work, self._report = work, ended
        self._loop = asyncio.get_running_loop()
        self._over = anyio.Event()
        self._result: Result | None = None
        self._failure: BaseException | None = None

    @property
    def ended(self) -> bool:
        return self._over.is_set()

    def run(self) -> None:
        """Make the call, in the thread."""
        try:
            self._result = self._work()
        except BaseException as exc:
            self._failure = exc
        with suppress(RuntimeError):  # the loop is closed: no task waits
            self._loop.call_soon_threadsafe(self._end)

    async def result(self) -> Result:
        """Wait for the end. Returns what `work` returned, or raises what it raised."""
        await self._over.wait()
        if self._failure is not None:
            raise self._failure
        return cast(Result, self._result)

    def _end(self) -> None:
        self._over.set()
        self._report()
