from __future__ import annotations

import threading

import anyio
import pytest

from state.threadcalls import ThreadCall
from tests.waiting import until

pytestmark = pytest.mark.anyio


def started(call: ThreadCall[int]) -> threading.Thread:
    thread = threading.Thread(target=call.run, daemon=True)
    thread.start()
    return thread


async def test_all_tasks_that_wait_get_the_result_or_the_failure() -> None:
    call, bad = ThreadCall(lambda: 7), ThreadCall(lambda: 1 // 0)
    started(call)
    started(bad)
    assert [await call.result(), await call.result()] == [7, 7]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await bad.result()
    assert call.ended
    assert bad.ended


async def test_a_task_that_gives_up_leaves_the_call_which_ends_by_itself() -> None:
    go_on, ends = threading.Event(), []
    call = ThreadCall(lambda: int(go_on.wait(10)), lambda: ends.append(threading.current_thread()))
    started(call)
    with anyio.move_on_after(0) as scope:
        await call.result()
    assert scope.cancelled_caught
    assert not call.ended
    go_on.set()
    await until(lambda: call.ended)
    assert ends == [threading.main_thread()]
    assert await call.result() == 1


def test_a_call_that_outlives_its_loop_is_no_error() -> None:
    go_on = threading.Event()
    threads: list[threading.Thread] = []

    async def begin() -> None:
        threads.append(started(ThreadCall(lambda: int(go_on.wait(10)))))

    anyio.run(begin)
    go_on.set()
    threads[0].join(10)
    assert threads[0] not in threading.enumerate()
