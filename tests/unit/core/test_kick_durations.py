"""The kicks of one director: what they count, and how long they took."""

from __future__ import annotations

from director.core.moves.kicks import KICK_TIMEOUT, Kicks
from director.core.placement.users import UserTable
from director.core.protocol.counters import Counters
from director.core.protocol.events import Kicked
from director.core.protocol.kicktypes import ByName
from director.core.tables.hosts import HostTable
from tests.unit.core.cores import EXPIRE, at

ALICE, BOB = ByName(b"alice"), ByName(b"bob")


def kicks() -> tuple[Kicks, Counters]:
    counters = Counters()
    return Kicks(HostTable([]), UserTable(EXPIRE), counters), counters


def test_a_kick_took_from_its_beginning_to_its_answer_whatever_the_answer_says() -> None:
    under_test, counters = kicks()
    first, second = under_test.start(ALICE, at(1)), under_test.start(BOB, at(2))
    under_test.turn(at(2))
    under_test.ended([Kicked(second.number, 0, "no login process answers")], at(2.25))
    under_test.ended([Kicked(first.number, 3, "")], at(2.5))
    assert list(under_test.durations) == [0.25, 1.5]
    assert (counters.kicks_done, counters.kicks_failed, counters.sessions_kicked) == (1, 1, 3)


def test_a_kick_that_is_given_up_took_as_long_as_it_was_waited_for_and_is_counted_once() -> None:
    under_test, counters = kicks()
    run = under_test.start(ALICE, at(1))
    under_test.turn(at(1))
    under_test.overdue(at(1 + KICK_TIMEOUT))
    under_test.ended([Kicked(run.number, 3, "")], at(30))
    assert list(under_test.durations) == [KICK_TIMEOUT]
    assert (counters.kicks_timed_out, counters.kicks_done, counters.sessions_kicked) == (1, 0, 0)
