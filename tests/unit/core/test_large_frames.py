"""Frames with more than a turn of the loop deals with: what comes behind them waits, and nothing is lost."""

from __future__ import annotations

import msgspec
import pytest

from director.core.intake import DISPLACED, MERGED
from director.core.moves.movestate import SUBJECT
from director.core.placement.users import MOVING, RECORD, pack
from director.core.protocol.effects import Kick, SetReading
from director.core.protocol.events import LinkClosed, LinkOpened, Received, TimerFired
from director.core.protocol.messages import Hello, MoveRound, Proof, Users
from director.core.protocol.order import split_member
from director.core.shares import PIECE
from director.types import LinkId
from tests.unit.core.cores import BACKENDS, D3, START, Played, at, in_ring, messages, of, user

MANY = [user(b"user%d" % number, BACKENDS[0]) for number in range(10 * DISPLACED)]
ELSEWHERE = [one._replace(host=user(b"x", BACKENDS[1]).host, decided=START + 5) for one in MANY]


def knowing() -> Played:
    played = in_ring()
    played.users.merge(pack(MANY))
    played.users.take_displaced()
    return played


def rest(played: Played) -> list[object]:
    """Return the messages until none is left."""
    effects: list[object] = []
    while played.core.next_deadline() == 0.0 and played.core._intake.has_work:
        effects += played.handle(TimerFired(), played.mono)
    return effects


@pytest.mark.shows("A-46")
def test_nothing_more_is_read_from_a_link_until_what_it_said_is_dealt_with() -> None:
    played = knowing()
    effects = played.hear(2, Users(pack(ELSEWHERE)), Users(pack(ELSEWHERE[:1])))
    assert of(SetReading, effects) == [SetReading(LinkId(2), False)]
    assert of(SetReading, rest(played)) == [SetReading(LinkId(2), True)]


def test_a_large_frame_is_merged_in_pieces() -> None:
    played = in_ring()
    users = [user(b"user%d" % number, BACKENDS[0]) for number in range(2 * MERGED + 1)]
    played.hear(2, Users(pack(users)))
    assert len(played.users) == MERGED
    played.until(1.0)
    assert len(played.users) == len(users)
    assert PIECE % RECORD.size == 0


@pytest.mark.shows("rule 5", "A-47")
def test_a_token_waits_until_the_users_of_the_records_before_it_are_known_to_move() -> None:
    played = knowing()
    moving = [one._replace(flags=MOVING) for one in ELSEWHERE]
    last = moving[-1]
    token = MoveRound(D3, 1, SUBJECT.pack(last.key, last.decided), [D3], [], 0)
    effects: list[object] = [*played.hear(2, Users(pack(moving)), token), *rest(played)]
    effects += played.handle(TimerFired(), played.mono)
    kicks = of(Kick, effects)
    assert played.core.moves.is_moving(last.key)
    assert not of(MoveRound, messages(effects, 1)), "the token passed before the kick of its user"  # type: ignore[arg-type]
    assert kicks


@pytest.mark.shows("A-47")
def test_a_token_over_another_link_waits_too() -> None:
    played = knowing()
    last = ELSEWHERE[-1]._replace(flags=MOVING)
    played.hear(1, Users(pack([*ELSEWHERE[:-1], last])))
    effects = played.hear(2, MoveRound(D3, 1, SUBJECT.pack(last.key, last.decided), [D3], [], 0))
    assert not of(MoveRound, messages(effects, 1))


def test_a_greeting_is_answered_while_many_users_change_hosts() -> None:
    played = knowing()
    played.hear(1, Users(pack(ELSEWHERE)))
    assert played.core._intake.has_work
    link, address = LinkId(3), split_member(D3)[0]
    (hello,) = of(Hello, messages(played.handle(LinkOpened(link, b"nonce", address, None), 1.0), 3))
    theirs = msgspec.structs.replace(hello, member=D3)
    effects = played.handle(Received(link, [theirs]), 1.0)
    assert of(Proof, messages(effects, 3))


def test_records_of_a_link_that_is_closed_are_merged_all_the_same() -> None:
    played = knowing()
    played.hear(2, Users(pack(ELSEWHERE[:-1])), Users(pack(ELSEWHERE[-1:])))
    assert played.users.get(ELSEWHERE[-1].key) == MANY[-1]
    played.handle(LinkClosed(LinkId(2), "gone"), 1.0)
    rest(played)
    assert played.users.get(ELSEWHERE[-1].key) == ELSEWHERE[-1]


@pytest.mark.shows("A-46")
def test_a_neighbour_that_is_not_read_for_long_is_not_taken_for_silent() -> None:
    played = knowing()
    played.hear(2, Users(pack(ELSEWHERE)))
    neighbour = played.core.ring.links[LinkId(2)]
    played.hear(2, Users(pack(ELSEWHERE[:1])))
    played.core.handle(TimerFired(), at(9.0))
    assert neighbour.heard == 9.0
