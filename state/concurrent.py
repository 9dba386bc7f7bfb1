"""Runs several calls at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

Result = TypeVar("Result")


async def all_results(calls: Sequence[Callable[[], Awaitable[Result]]]) -> list[Result]:
    """Make all calls at the same time, and return their results in order.

    All calls are awaited. A call that fails does not cancel the others.

    Raises:
        Exception: the first failure, in the order of the calls.
    """
    if len(calls) == 1:
        return [await calls[0]()]
    results: dict[int, Result] = {}
    failures: dict[int, Exception] = {}

    async def make(place: int, call: Callable[[], Awaitable[Result]]) -> None:
        try:
            results[place] = await call()
        except Exception as exc:
            failures[place] = exc

    async with anyio.create_task_group() as tasks:
        for place, call in enumerate(calls):
            tasks.start_soon(make, place, call)
    if failures:
        raise failures[min(failures)]
    return [results[place] for place in range(len(calls))]
