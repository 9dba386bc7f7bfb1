"""Clocks that step, and clocks that records cannot hold."""

from __future__ import annotations

import pytest

from director.core.placement.users import LATEST
from director.core.protocol.clock import ClockWatch, cannot_start, doubt, within_records
from director.core.protocol.effects import ListSessions, LogEvent
from director.core.protocol.events import TimerFired
from director.types import Now
from tests.unit.core.cores import BACKENDS, START, in_ring, of, user


def test_a_clock_that_goes_with_the_monotonic_one_has_not_stepped() -> None:
    watch = ClockWatch()
    assert [watch.step(Now(mono, 1000 + 1.0005 * mono)) for mono in range(0, 1000, 100)] == [0.0] * 10


@pytest.mark.parametrize("seconds", [1.5, -1.5, 86_400.0, -86_400.0])
def test_a_step_is_noticed_once_with_its_size(seconds: float) -> None:
    watch = ClockWatch()
    watch.step(Now(1, 1001))
    assert watch.step(Now(2, 1002 + seconds)) == pytest.approx(seconds)
    assert (watch.step(Now(3, 1003 + seconds)), watch.stepped_at) == (0.0, 2)


@pytest.mark.parametrize(
    ("unix", "said", "refused"),
    [
        (0.0, "says 1970-01-01 00:00:00 UTC", False),
        (1_577_836_799, "says 2019-12-31 23:59:59 UTC", False),
        (LATEST - 3600, "says 2106-02-07 05:28:15 UTC", False),
        (LATEST, "says 2106-02-07 06:28:15 UTC", True),
        (1e12, "says 8307-10-01 19:33:20 UTC", True),
    ],
)
def test_a_clock_that_cannot_be_right_is_named_with_what_records_hold(
    unix: float, said: str, refused: bool
) -> None:
    assert said in doubt(unix)
    assert "from 2020-01-01 to 2106-02-07: set it (NTP)" in doubt(unix)
    assert cannot_start(unix) is refused


@pytest.mark.parametrize("unix", [1_700_000_000, 2_200_000_000])
def test_a_clock_of_now_or_behind_2038_is_not_objected_to(unix: float) -> None:
    assert (doubt(unix), cannot_start(unix), within_records(unix)) == ("", False, unix)


def test_times_that_records_cannot_hold_are_the_first_or_last_that_they_can() -> None:
    assert [within_records(unix) for unix in (-5.0, 1e12)] == [0.0, LATEST]


def test_after_a_step_sessions_are_listed_again_and_no_user_is_dropped_for_a_while() -> None:
    played = in_ring()
    alice = user(b"alice", BACKENDS[0])
    played.users.put(alice)
    played.handle(TimerFired(), 1.0)
    effects = played.core.handle(TimerFired(), Now(2.0, START + 86_402))
    for second in range(3, played.users.expire):
        played.core.handle(TimerFired(), Now(second, START + 86_400 + second))
    assert played.users.get(alice.key) == alice
    for second in range(played.users.expire, played.users.expire + 70):
        played.core.handle(TimerFired(), Now(second, START + 86_400 + second))
    assert played.users.get(alice.key) is None
    assert [log.fields["seconds"] for log in of(LogEvent, effects) if log.event == "clock_stepped"] != []
    assert of(ListSessions, effects) == [ListSessions()]
    assert not played.core.clock_is_sure(2.0 + played.users.expire - 1)
    assert played.core.clock_is_sure(2.0 + played.users.expire)
