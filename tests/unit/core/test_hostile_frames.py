"""A member fills a frame with whatever takes the most time: no turn of the loop is long."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial

import pytest

from director.core.checks import MOST_PASSED
from director.core.moves.movestate import ROUND, SUBJECT
from director.core.placement.names import entries_in, entry
from director.core.placement.users import RECORD
from director.core.protocol.effects import Effect
from director.core.protocol.events import TimerFired
from director.core.protocol.kicktypes import MOST_HOSTS, ByName, HashOnHosts
from director.core.protocol.messages import (
    HostRow,
    Hosts,
    KickRound,
    MemberRow,
    Members,
    MoveRound,
    Names,
    NearRound,
    Present,
    RingMessage,
    Token,
    Users,
)
from director.core.shares import HOSTS, WEIGHT, head
from director.core.tables.members import MOST_ROWS
from director.types import UserKey
from director.wire import hotpath
from tests.steps import FIVE_MS, counted
from tests.unit.core.cores import D2, D3, START, Played, in_ring, messages, put_in_ring

CHANCE = random.Random(1)
NAMES = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:{1 + n % 65535}" for n in range(1000)]
SIX = [f"[2001:db8:{n:x}::1]:9090" for n in range(1, 1000)]


def lists(names: list[str]) -> list[list[str]]:
    return [names[at : at + MOST_PASSED] for at in range(0, len(names), MOST_PASSED)]


def in_one_bucket(many: int) -> bytes:
    """Users of one bucket, and their records."""
    keys = CHANCE.sample(range(1 << 40), many)
    return b"".join(RECORD.pack(key, 5, START, START, 0) for key in sorted(keys))


def rows(numbers: Iterable[int], weight: int) -> list[HostRow]:
    at = START + 1000 - weight
    return [
        HostRow(f"10.9.{n >> 8}.{n & 255}", f"h{n}", True, 5, "", 5, weight, at, True, 5) for n in numbers
    ]


ONE_BUCKET = in_one_bucket(1300)
KEYS = [key for key, *_ in RECORD.iter_unpack(ONE_BUCKET)]
FRAMES: dict[str, list[RingMessage]] = {
    "tokens that name other members each": [Token(D3, n, 1, b"x" * 8, p) for n, p in enumerate(lists(NAMES))],
    "tokens that name IPv6 members": [Token(D3, n, 1, b"x" * 8, p) for n, p in enumerate(lists(SIX))],
    "questions": [NearRound(D3, n, n, START, p) for n, p in enumerate(lists(NAMES))],
    "moves": [MoveRound(D3, n, CHANCE.randbytes(SUBJECT.size * ROUND), [D3], [], 1) for n in range(4)],
    "kicks": [KickRound(D3, n, 1, ByName(b"%d" % n), [D3], [], 1) for n in range(200)],
    "kicks on ten thousand hosts": [
        KickRound(
            D3,
            n,
            1,
            HashOnHosts(n, [f"10.9.{host >> 8}.{host & 255}" for host in range(MOST_HOSTS)]),
            [D3],
            [],
            1,
        )
        for n in range(3)
    ],
    "names without records": [Names(b"".join(entry(UserKey(n << 40), b"") for n in range(5000)), 2)],
    "names in one bucket": [Names(entry(UserKey(key), b"x"), 0) for key in KEYS[:5]],
    "words": [Present(D3, 10 + n) for n in range(400)],
    "hosts": [Hosts(rows(range(400), 100)), Hosts(rows(range(400), 99)), Hosts(rows(range(500, 520), 1000))],
    "members": [Members([MemberRow(name, True, 1) for name in part[:MOST_ROWS]]) for part in lists(NAMES)],
}

SLOWEST = {"tokens that name IPv6 members": 2, "members": 2}
"""Kinds that take more steps than FIVE_MS; they are short ones."""

pytestmark = pytest.mark.skipif(not hotpath.COMPILED, reason="the readable twin takes longer for each user")


class Compiled(Played):
    made_of = hotpath.UserTable, hotpath.Assigner


@pytest.mark.shows("A-27")
@pytest.mark.parametrize("kind", FRAMES)
def test_whatever_a_member_fills_a_frame_with_no_turn_of_the_loop_is_long(kind: str) -> None:
    played = put_in_ring(Compiled(D2, D3))
    played.hear(2, Users(ONE_BUCKET))
    rest(played)
    played.hear(2, Names(b"".join(entry(UserKey(key), b"a") for key in KEYS), 0))
    rest(played)
    turns = [counted(partial(played.hear, 2, *FRAMES[kind]))[1], *rest(played)]
    assert max(turns) < SLOWEST.get(kind, 1) * FIVE_MS, turns
    assert len(turns) > 1, "all of it fitted into one turn"


def rest(played: Played) -> list[int]:
    """The steps of all turns until nothing is left over."""
    turns = []
    while any(neighbour.inbox for neighbour in played.core.ring.links.values()):
        turn: Callable[[], list[Effect]] = partial(played.handle, TimerFired(), played.mono)
        turns.append(counted(turn)[1])
    return turns


@pytest.mark.shows("A-28")
def test_names_of_users_without_a_record_are_not_kept() -> None:
    played = in_ring()
    unknown = b"".join(entry(UserKey(n), b"x") for n in range(1000))
    effects = played.hear(2, Names(unknown, 2))
    while played.core.next_deadline() == 0.0:
        effects += played.handle(TimerFired(), played.mono)
    assert len(played.core.names) == 0
    onward = b"".join(message.entries for message in messages(effects) if isinstance(message, Names))
    assert list(entries_in(onward)) == list(entries_in(unknown))


@pytest.mark.shows("A-27")
def test_rows_of_hosts_are_taken_in_some_at_a_time_fewer_of_high_weight() -> None:
    pieces, rest_of_them = [], Hosts(rows(range(120), 100) + rows(range(120, 150), 1000))
    message: RingMessage | None = rest_of_them
    while message is not None:
        piece, message = head(message)
        assert isinstance(piece, Hosts)
        pieces.append(piece.rows)
    assert [row for piece in pieces for row in piece] == rest_of_them.rows
    assert max(map(len, pieces)) == HOSTS
    assert max(sum(row.weight for row in piece) for piece in pieces) <= WEIGHT
