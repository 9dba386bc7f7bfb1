from __future__ import annotations

from functools import partial

import anyio
import pytest

from state.concurrent import all_results

pytestmark = pytest.mark.anyio


async def test_results_come_in_the_order_of_the_calls_and_all_run_at_once() -> None:
    second_ran = anyio.Event()

    async def first() -> int:
        await second_ran.wait()
        return 1

    async def second() -> int:
        second_ran.set()
        return 2

    assert await all_results([first, second]) == [1, 2]


async def test_a_call_that_fails_does_not_disturb_the_others_and_the_first_failure_is_raised() -> None:
    ended: list[str] = []
    failed = anyio.Event()

    async def fail(name: str) -> None:
        failed.set()
        raise OSError(name)

    async def work() -> None:
        await failed.wait()
        await anyio.lowlevel.checkpoint()
        ended.append("work")

    with pytest.raises(OSError, match="one"):
        await all_results([work, partial(fail, "one"), partial(fail, "two")])
    assert ended == ["work"]


async def test_no_calls_give_no_results_and_a_single_call_needs_no_task() -> None:
    async def only() -> int:
        return anyio.get_current_task().id

    assert await all_results([]) == []
    assert await all_results([only]) == [anyio.get_current_task().id]
