"""The watch over the loop, in virtual time."""

from __future__ import annotations

import time
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import pytest

from director.core.placement.users import LATEST
from director.core.protocol.events import Event, ProcessStalled
from director.service import loopwatch
from director.service.loopwatch import EVERY, LoopWatch
from director.wire import hotpath
from tests.unit.service.parts import EXPIRE, HASH

pytestmark = pytest.mark.anyio


class Clock:
    """Stands where the module `time` stood."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self.unix = 1_700_000_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.unix


class Watched:
    """A watch on a clock that the test sets."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.assigner = hotpath.Assigner(hotpath.UserTable(EXPIRE), HASH)
        self.events: list[Event] = []
        self.watch = LoopWatch(self.assigner, self.events.append)

    def look_after(self, seconds: float) -> None:
        self.clock.now += seconds
        self.watch.check()


@pytest.fixture
def watched() -> Iterator[Watched]:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loopwatch, "time", clock)
        yield Watched(clock)


def test_a_process_that_was_suspended_is_told_once(watched: Watched) -> None:
    watched.look_after(EVERY)
    assert watched.events == []
    watched.look_after(EVERY + 3)
    watched.look_after(EVERY)
    assert watched.events == [ProcessStalled(pytest.approx(3))]


def test_a_suspension_is_found_before_the_first_answer_after_it(watched: Watched) -> None:
    watched.clock.now += 3
    watched.watch.be_in_time()
    watched.watch.be_in_time()
    assert watched.events == [ProcessStalled(pytest.approx(3 - EVERY))]


def test_the_core_is_told_how_late_it_is(watched: Watched) -> None:
    watched.watch.be_in_time()
    assert watched.assigner.unix == 1_700_000_000
    watched.clock.unix = 2.0**40
    watched.watch.be_in_time()
    assert watched.assigner.unix == LATEST


def test_the_longest_delay_since_the_last_question_is_told(watched: Watched) -> None:
    watched.look_after(EVERY + 0.5)
    watched.look_after(EVERY + 0.1)
    assert watched.watch.take_lag() == pytest.approx(0.5)
    assert watched.watch.take_lag() == 0.0


async def test_a_start_whose_store_took_long_to_open_is_no_suspension(watched: Watched) -> None:
    watched.clock.now += 5  # from making the watch to running it
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watched.watch.run)
        await anyio.lowlevel.checkpoint()
        watched.watch.check()
        assert watched.events == []
        assert watched.watch.take_lag() == 0.0
        tasks.cancel_scope.cancel()
