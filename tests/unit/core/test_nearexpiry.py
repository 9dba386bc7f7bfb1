"""A user about to expire, whose fresh choice would differ: the question, from both sides."""

from __future__ import annotations

import pytest

from director.core.moves.nearexpiry import HOLD, MOST_HELD
from director.core.placement.users import User, pack
from director.core.protocol.effects import Answer, Effect
from director.core.protocol.events import Dropped, Lookup
from director.core.protocol.messages import NearRound, Users
from director.core.protocol.ringtimings import TOKEN_AGAIN
from director.types import Address, MemberId, RequestId
from tests.unit.core.cores import BACKENDS, D1, D2, D3, EXPIRE, START, Played, at, in_ring, messages, of, user

ALICE = user(b"alice", BACKENDS[3])
KEY = ALICE.key


def played_with(left: int, played: Played | None = None) -> Played:
    """alice expires in so many seconds from second 1 on, and would be placed elsewhere by then."""
    played = played or in_ring()
    seen = START + 1 - EXPIRE + left
    played.users.merge(pack([ALICE._replace(decided=START - EXPIRE, seen=seen)]))
    return played


def ask(played: Played, mono: float = 1.0) -> tuple[NearRound, list[Effect]]:
    effects = played.handle(Lookup(RequestId(7), KEY, b"", b"alice"), mono)
    effects += played.until(mono)
    (token,) = of(NearRound, messages(effects, 1))
    return token, effects


def back(token: NearRound, seen: int | None = None) -> NearRound:
    return NearRound(D1, token.serial, KEY, token.seen if seen is None else seen, [D1, D2, D3])


def answers(effects: list[Effect]) -> list[Address]:
    return [Address(answer.backend.address) for answer in of(Answer, effects)]


def test_the_ring_is_asked_and_the_login_waits_for_its_answer() -> None:
    played = played_with(5)
    token, effects = ask(played)
    assert (token.origin, token.passed, token.key) == (D1, [D1], KEY)
    assert answers(effects) == []


def test_questions_about_more_than_ten_thousand_users_at_once_hold_no_more() -> None:
    played = in_ring()
    near, view = played.core.near, played.core._view()
    for key in range(MOST_HELD + 100):
        near.token(NearRound(D2, 1, key, 0, [D2]), at(1.0), view)
    assert len(near) == MOST_HELD
    assert near.token(NearRound(D2, 2, 5, 0, [D2]), at(1.0), view) != []
    near.turn(at(1.0 + HOLD), view)
    while near.has_work:
        near.turn(at(1.0 + HOLD), view)
    assert len(near) == 0


@pytest.mark.shows("rule 23")
def test_an_assignment_that_is_unexpired_by_the_own_clock_stays_and_is_refreshed() -> None:
    played = played_with(5)
    token, _ = ask(played)
    effects = played.hear(2, back(token), mono=1.1) + played.until(1.1)
    assert answers(effects) == [BACKENDS[3]]
    assert played.users.get(KEY).seen == START + 1  # type: ignore[union-attr]


def test_a_user_recently_seen_by_another_director_stays_although_the_assignment_expired_here() -> None:
    played = played_with(-5)
    token, _ = ask(played)
    effects = played.hear(2, back(token, seen=START - 3), mono=1.1) + played.until(1.1)
    assert answers(effects) == [BACKENDS[3]]


@pytest.mark.shows("rule 23")
def test_a_user_without_a_record_in_the_ring_is_assigned_anew() -> None:
    played = played_with(-5)
    token, _ = ask(played)
    effects = played.hear(2, back(token), mono=1.1) + played.until(1.1)
    (host,) = answers(effects)
    assert host != BACKENDS[3]
    assert of(Users, messages(effects, 1)) != []


def test_a_question_that_does_not_come_back_is_repeated_and_only_the_last_counts() -> None:
    played = played_with(5)
    first, _ = ask(played)
    (second,) = of(NearRound, messages(played.until(1.05 + TOKEN_AGAIN), 1))
    assert answers(played.hear(2, back(first), mono=1.4) + played.until(1.4)) == []
    assert answers(played.hear(2, back(second), mono=1.5) + played.until(1.5)) == [BACKENDS[3]]


def test_a_question_that_no_login_waits_for_is_dropped() -> None:
    played = played_with(5)
    ask(played)
    played.handle(Dropped([RequestId(7)]), 1.1)
    played.until(1.2)
    assert len(played.core.near) == 0


@pytest.mark.shows("rule 22")
def test_a_director_that_passes_the_token_holds_the_logins_until_the_decision() -> None:
    played = played_with(5)
    known = played.users.get(KEY)
    assert known is not None
    onward = messages(played.hear(2, NearRound(D3, 4, KEY, 7, [D3])), 1)
    assert of(NearRound, onward) == [NearRound(D3, 4, KEY, known.seen, [D3, D1])]
    assert answers(played.handle(Lookup(RequestId(7), KEY, b"", b"alice"), 1.1) + played.until(1.1)) == []
    decision = known._replace(seen=START + 1)
    effects = played.hear(2, Users(pack([decision])), mono=1.2) + played.until(1.2)
    assert answers(effects) == [BACKENDS[3]]


@pytest.mark.shows("rule 22")
def test_a_promise_lasts_two_seconds() -> None:
    played = played_with(5)
    played.hear(2, NearRound(D3, 4, KEY, 7, [D3]))
    assert played.core.assigner.users_held == 1
    played.until(0.9 + HOLD)
    assert played.core.assigner.users_held == 1
    played.until(1.1 + HOLD)
    assert played.core.assigner.users_held == 0


def test_a_question_about_a_user_without_a_record_is_passed_on_and_the_user_is_held() -> None:
    played = in_ring()
    onward = messages(played.hear(2, NearRound(D3, 4, KEY, 7, [D3])), 1)
    assert of(NearRound, onward) == [NearRound(D3, 4, KEY, 7, [D3, D1])]
    assert played.core.assigner.users_held == 1


@pytest.mark.shows("rule 23")
@pytest.mark.parametrize(("me", "origin", "passes"), [(D1, D3, False), (D3, D1, True)])
def test_of_two_who_ask_at_once_the_lower_address_goes_on(
    me: MemberId, origin: MemberId, passes: bool
) -> None:
    played = Played(D1, D2, D3, me=me)
    right, left = (D2, D3) if me == D1 else (D1, D2)
    played.link(1, right, dialled=True)
    played.link(2, left, dialled=False)
    played_with(5, played)
    played.core.near.ask(KEY, b"", at(1.0))
    effects = played.hear(2, NearRound(origin, 4, KEY, 7, [origin]), mono=1.0)
    onward = [token for token in of(NearRound, messages(effects, 1)) if token.origin == origin]
    assert bool(onward) is passes


def test_a_token_that_has_passed_here_dies() -> None:
    played = played_with(5)
    assert of(NearRound, messages(played.hear(2, NearRound(D3, 4, KEY, 7, [D3, D1])))) == []
    assert played.core.assigner.users_held == 0


def test_alone_the_answer_comes_at_once() -> None:
    played = played_with(5, Played())
    effects = played.handle(Lookup(RequestId(7), KEY, b"", b"alice"), 1.0) + played.until(1.0)
    assert answers(effects) == [BACKENDS[3]]


def test_the_ring_is_not_asked_about_a_user_whose_hash_selects_the_same_host() -> None:
    played = in_ring()
    there = played.core.assigner.place(KEY >> 32, b"")
    assert there is not None
    same = User(KEY, there.id, ALICE.decided, START + 5 - EXPIRE, 0)
    played.users.merge(pack([same]))
    assert answers(played.handle(Lookup(RequestId(7), KEY, b"", b"alice"), 1.0)) == [Address(there.address)]
