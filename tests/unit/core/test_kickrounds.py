"""Kicks for operators, on all directors: the two laps, from both sides."""

from __future__ import annotations

import msgspec
import pytest

from director.core.moves.jobs import KickSessions
from director.core.moves.kickrounds import LASTS, MOST_REMEMBERED
from director.core.protocol.effects import CountSessions, Kick, OperationFailed, UsersDone
from director.core.protocol.events import Kicked, KicksEnded
from director.core.protocol.kicktypes import ByName, Fence
from director.core.protocol.messages import KickRound
from director.core.protocol.ringtimings import ROUND_AGAIN
from director.errors import TryAgain
from director.records import MoveCounts
from tests.unit.core.cores import D1, D2, D3, Played, at, in_ring, messages, of

ALICE = ByName(b"alice")


def begun() -> tuple[Played, int, KickRound]:
    """An operator's kick on d1: the number of the kick here, and the token of the first lap."""
    played = in_ring()
    effects = played.handle(KickSessions(1, ALICE), 1.0)
    (kick,), (token,) = of(Kick, effects), of(KickRound, messages(effects, 1))
    assert (token.lap, token.passed, token.kicked) == (1, [D1], 0)
    return played, kick.kick, token


def back(token: KickRound, **fields: object) -> KickRound:
    usual = {"lap": token.lap, "late": [], "kicked": 0, "passed": [D1, D2, D3]} | fields
    return KickRound(D1, token.serial, usual["lap"], ALICE, usual["passed"], usual["late"], usual["kicked"])  # type: ignore[arg-type]


def test_the_first_lap_begins_it_the_second_gathers_what_it_came_to() -> None:
    played, kick, token = begun()
    assert of(KickRound, messages(played.hear(2, back(token), mono=1.1))) == []
    (second,) = of(KickRound, messages(played.handle(KicksEnded([Kicked(kick, 2)]), 1.2), 1))
    assert (second.lap, second.passed, second.kicked, second.late) == (2, [D1], 2, [])
    (end,) = of(UsersDone, played.hear(2, back(second, kicked=5), mono=1.3))
    assert end == UsersDone(1, MoveCounts(kicked=5))


def test_kicks_of_others_beyond_twenty_thousand_in_half_a_minute_are_left_to_be_repeated() -> None:
    played = in_ring()
    rounds = played.core.kick_rounds
    view = played.core._view()
    fence = KickRound(D3, 0, 1, Fence(), [D3], [], 0)
    for serial in range(MOST_REMEMBERED + 100):
        rounds.token(msgspec.structs.replace(fence, serial=serial), at(1.0), view)
    passed = of(KickRound, messages(rounds.turn(at(1.0), view), 1))
    assert len(passed) == MOST_REMEMBERED
    rounds.turn(at(1.0 + LASTS), view)
    rounds.token(msgspec.structs.replace(fence, serial=1_000_000), at(1.0 + LASTS), view)
    assert len(of(KickRound, messages(rounds.turn(at(1.0 + LASTS), view), 1))) == 1


def test_members_that_were_late_or_not_reached_are_told() -> None:
    played, kick, token = begun()
    played.hear(2, back(token), mono=1.1)
    played.handle(KicksEnded([Kicked(kick, 0)]), 1.2)
    last = back(token, lap=2, passed=[D1, D2], late=[D2])
    (end,) = of(UsersDone, played.hear(2, last, mono=1.3))
    assert (end.counts.timed_out, end.counts.not_reached) == (1, [D3])


def test_a_kick_here_that_is_never_answered_is_late() -> None:
    played, _, token = begun()
    played.hear(2, back(token), mono=1.1)
    (second, *_) = of(KickRound, messages(played.until(5.2), 1))
    assert (second.lap, second.late) == (2, [D1])


def test_a_token_that_does_not_come_back_is_repeated_and_given_up_at_last() -> None:
    played, _, token = begun()
    assert of(KickRound, messages(played.until(0.9 + ROUND_AGAIN), 1)) == []
    assert of(KickRound, messages(played.until(1.3 + ROUND_AGAIN), 1)) == [token]
    (end,) = of(UsersDone, played.until(1.3 + LASTS))
    assert (end.counts.timed_out, end.counts.not_reached) == (1, [D2, D3])
    assert len(played.core.kick_rounds) == 0


def test_a_member_kicks_in_the_first_lap_and_passes_the_second_when_the_kick_has_ended() -> None:
    played = in_ring()
    effects = played.hear(2, KickRound(D3, 4, 1, ALICE, [D3], [], 0))
    assert of(KickRound, messages(effects, 1)) == [KickRound(D3, 4, 1, ALICE, [D3, D1], [], 0)]
    (kick,) = of(Kick, effects)
    second = KickRound(D3, 4, 2, ALICE, [D3], [], 1)
    assert of(KickRound, messages(played.hear(2, second, mono=1.1))) == []
    onward = messages(played.handle(KicksEnded([Kicked(kick.kick, 2)]), 1.2), 1)
    assert of(KickRound, onward) == [KickRound(D3, 4, 2, ALICE, [D3, D1], [], 3)]


def test_a_repeated_first_lap_begins_no_second_kick() -> None:
    played = in_ring()
    token = KickRound(D3, 4, 1, ALICE, [D3], [], 0)
    played.hear(2, token)
    again = played.hear(2, token, mono=1.1)
    assert (len(of(Kick, again)), len(of(KickRound, messages(again, 1)))) == (0, 1)


@pytest.mark.parametrize("lap", [1, 2])
def test_a_token_that_has_passed_here_dies(lap: int) -> None:
    played = in_ring()
    effects = played.hear(2, KickRound(D3, 4, lap, ALICE, [D3, D1], [], 0))
    assert (of(KickRound, messages(effects)), of(Kick, effects)) == ([], [])


def test_beyond_the_limit_kicks_wait_in_order_or_are_refused() -> None:
    played = in_ring(max_parallel_kicks=1)
    played.handle(KickSessions(1, ALICE), 1.0)
    assert of(Kick, played.handle(KickSessions(2, ByName(b"bob")), 1.0)) == []
    (failed,) = of(OperationFailed, played.handle(KickSessions(3, ALICE, wait=False), 1.0))
    assert (failed.operation, failed.error) == (3, TryAgain)


def test_without_neighbours_a_round_ends_with_the_own_kick() -> None:
    played = Played()
    (kick,) = of(Kick, played.handle(KickSessions(1, ALICE), 1.0))
    assert of(UsersDone, played.handle(KicksEnded([Kicked(kick.kick, 2)]), 1.1)) == [
        UsersDone(1, MoveCounts(kicked=2))
    ]


# ---- dry runs


def counting() -> tuple[Played, int, KickRound]:
    """The same as `begun` for a dry run: what is counted here, and the token of the first lap."""
    played = in_ring()
    effects = played.handle(KickSessions(1, ALICE, count_only=True), 1.0)
    (counted,), (token,) = of(CountSessions, effects), of(KickRound, messages(effects, 1))
    assert of(Kick, effects) == []
    assert (counted.what, token.what, token.count) == (ALICE, Fence(), ALICE)
    return played, counted.kick, token


def returned(token: KickRound, **fields: object) -> KickRound:
    return msgspec.structs.replace(token, passed=[D1, D2, D3], **fields)


def test_a_dry_run_of_a_kick_counts_the_sessions_of_all_directors_and_ends_none() -> None:
    played, counted, token = counting()
    played.hear(2, returned(token), mono=1.1)
    (second,) = of(KickRound, messages(played.handle(KicksEnded([Kicked(counted, 2)]), 1.2), 1))
    assert (second.lap, second.kicked, second.count) == (2, 2, ALICE)
    (end,) = of(UsersDone, played.hear(2, returned(second, kicked=5), mono=1.3))
    assert end == UsersDone(1, MoveCounts(kicked=5))
    assert (played.core.counters.sessions_kicked, played.core.counters.kicks_done) == (0, 0)


def test_a_member_counts_for_the_dry_run_of_another_director() -> None:
    played = in_ring()
    token = KickRound(D3, 4, 1, Fence(), [D3], [], 0, ALICE)
    effects = played.hear(2, token)
    (counted,) = of(CountSessions, effects)
    assert (counted.what, of(Kick, effects)) == (ALICE, [])
    assert of(KickRound, messages(effects, 1)) == [KickRound(D3, 4, 1, Fence(), [D3, D1], [], 0, ALICE)]
    played.hear(2, msgspec.structs.replace(token, lap=2, kicked=1), mono=1.1)
    onward = of(KickRound, messages(played.handle(KicksEnded([Kicked(counted.kick, 2)]), 1.2), 1))
    assert onward == [KickRound(D3, 4, 2, Fence(), [D3, D1], [], 3, ALICE)]


def test_directors_that_are_late_or_not_reached_have_not_counted() -> None:
    played, counted, token = counting()
    played.hear(2, returned(token), mono=1.1)
    (second,) = of(KickRound, messages(played.handle(KicksEnded([Kicked(counted, 2)]), 1.2), 1))
    last = msgspec.structs.replace(second, passed=[D1, D2], late=[D2], kicked=2)
    (end,) = of(UsersDone, played.hear(2, last, mono=1.3))
    assert (end.counts.kicked, end.counts.not_counted) == (2, [D2, D3])


def test_a_director_that_cannot_count_its_own_sessions_says_so() -> None:
    played, counted, token = counting()
    played.hear(2, returned(token), mono=1.1)
    failed = played.handle(KicksEnded([Kicked(counted, 0, "no kick channel")]), 1.2)
    (second,) = of(KickRound, messages(failed, 1))
    (end,) = of(UsersDone, played.hear(2, returned(second, kicked=3), mono=1.3))
    assert (end.counts.kicked, end.counts.not_counted) == (3, [D1])
    assert (played.core.counters.kicks_failed, played.core.counters.kicks_done) == (0, 0)


def test_behind_a_member_of_an_older_release_only_the_own_sessions_are_counted() -> None:
    """It passes the token on without what it does not know, and adds sessions of other kicks."""
    played, counted, token = counting()
    played.hear(2, returned(token, count=None), mono=1.1)
    (second,) = of(KickRound, messages(played.handle(KicksEnded([Kicked(counted, 2)]), 1.2), 1))
    (end,) = of(UsersDone, played.hear(2, returned(second, count=None, kicked=40), mono=1.3))
    assert (end.counts.kicked, end.counts.not_counted) == (2, [D2, D3])


def test_counts_without_an_answer_end_and_name_all_directors() -> None:
    played, _, token = counting()
    more = [KickSessions(number, ALICE, count_only=True) for number in range(2, 400)]
    effects = [effect for one in more for effect in played.handle(one, 1.0)]
    effects += played.until(2.0 + LASTS)
    assert of(Kick, effects) == []
    ends = of(UsersDone, effects)
    assert len(ends) >= 100
    assert {(end.counts.kicked, *end.counts.not_counted) for end in ends} == {(0, D1, D2, D3)}
    assert token.count == ALICE
    assert played.core.counters.kicks_timed_out == 0


def test_without_neighbours_a_dry_run_ends_with_the_own_count() -> None:
    played = Played()
    (counted,) = of(CountSessions, played.handle(KickSessions(1, ALICE, count_only=True), 1.0))
    assert of(UsersDone, played.handle(KicksEnded([Kicked(counted.kick, 2)]), 1.1)) == [
        UsersDone(1, MoveCounts(kicked=2))
    ]
