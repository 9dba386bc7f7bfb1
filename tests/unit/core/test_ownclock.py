"""A clock that was set back is doubted until another agrees; then the own tables are clipped."""

from __future__ import annotations

import msgspec
import pytest

from director.core.admission import DUE, WAITING
from director.core.moves.movingusers import MOVE_TIMEOUT
from director.core.ownclock import DOUBTED, SLICE, TOLERATED_STEP
from director.core.placement.users import LATEST, MOVING, RECORD, User, pack, unpack
from director.core.protocol.effects import Effect, LogEvent
from director.core.protocol.events import Event, Received, StoredHosts, StoredUsers, TimerFired
from director.core.protocol.messages import HostRow, Hosts, MemberRow, Ping, Pong, RingMessage, Users
from director.core.protocol.stamps import AHEAD
from director.types import HostId, LinkId, Now, Stamp, UserKey
from tests.unit.core.cores import BACKENDS, D2, START, Played, in_ring, messages, of, user

ROW = HostRow(str(BACKENDS[0]), "", True, 0, "", 0, 7, LATEST, True, 0)


class Set:
    """A director whose clock can be set."""

    def __init__(self, played: Played) -> None:
        self.played, self.core = played, played.core
        self.offset = float(START)
        """Of its clock: Unix seconds at the monotonic time 0."""

    def at(self, mono: float, event: Event | None = None) -> list[Effect]:
        return self.core.handle(event or TimerFired(), Now(mono, mono + self.offset))

    def pong(self, mono: float, link: int = 1) -> list[Effect]:
        """The neighbour is asked, and its clock is found to be right."""
        neighbour = self.core.ring.links[LinkId(link)]
        now = Now(mono, mono + self.offset)
        neighbour.ping(now)
        return self.played.core.handle(received(link, Pong(neighbour.last_ping, now.unix)), now)


def received(link: int, *said: RingMessage) -> Received:
    return Received(LinkId(link), said)


def ring() -> Set:
    return Set(in_ring())


def record(key: int, *, decided: int, seen: int = START) -> User:
    return User(UserKey(key), HostId(7), Stamp(decided), seen, 0)


def decided(one: Set, each: User) -> int:
    there = one.core.users.get(each.key)
    assert there is not None
    return there.decided


def events(effects: list[Effect]) -> list[str]:
    return [log.event for log in of(LogEvent, effects)]


@pytest.mark.parametrize("seconds", [0.0, 2.0, TOLERATED_STEP - 1])
def test_a_clock_set_back_by_less_than_a_minute_is_not_doubted(seconds: float) -> None:
    one = ring()
    one.at(1)
    one.offset -= seconds
    assert "clock_set_back" not in events(one.at(2))
    assert not one.core.clock.doubted


def test_a_clock_set_back_bit_by_bit_is_doubted_too() -> None:
    one = ring()
    said = []
    for mono in range(1, 30):
        one.offset -= 7
        said += events(one.at(mono))
    assert said.count("clock_set_back") == 1
    assert one.core.clock.doubted


def test_a_clock_set_forward_is_not_doubted_and_set_back_from_there_it_is() -> None:
    one = ring()
    one.at(1)
    one.offset += 10 * 365 * 86400
    one.at(2)
    assert not one.core.clock.doubted
    one.offset -= 10 * 365 * 86400
    one.at(3)
    assert one.core.clock.doubted


@pytest.mark.shows("rule 46")
def test_while_the_clock_is_doubted_nothing_is_clipped_and_then_all_is() -> None:
    one = ring()
    one.at(1)
    one.offset -= 86400
    one.at(2)
    one.at(2, StoredHosts((ROW,)))
    alice = user(b"alice", BACKENDS[1], decided=LATEST, seen=LATEST)
    one.at(2, StoredUsers(pack([alice])))
    assert one.core.hosts.rows[BACKENDS[0]].weight_at == LATEST
    assert one.core.users.get(alice.key) == alice
    effects = one.pong(3)
    unix = int(3 + one.offset)
    assert one.core.hosts.rows[BACKENDS[0]].weight_at == unix + AHEAD - 4
    said = [message for message in messages(effects, 2) if isinstance(message, Hosts)]
    assert [row.weight_at for message in said for row in message.rows] == [unix + AHEAD - 4]
    while one.core.next_deadline() == 0.0:
        effects += one.at(3)
    clipped = alice._replace(decided=Stamp(unix + AHEAD), seen=unix + AHEAD)
    assert one.core.users.get(alice.key) == clipped
    closed = [str(log.fields["reason"]) for log in of(LogEvent, effects) if log.event == "ring_link_closed"]
    assert closed == ["the clock was set; connecting again to compare all records"] * 2
    assert one.core.counters.stamps_clipped == {"memory": 2}
    assert events(effects).count("stamps_clipped") == 1  # once a minute


def test_the_answer_to_a_link_that_was_greeted_before_says_nothing() -> None:
    """Its clock was compared with ours before ours was set back."""
    one = ring()
    one.at(1)
    one.offset -= 86400
    one.at(2)
    assert one.core.clock.agreed(Now(2, 2 + one.offset), since=1.0) == []
    assert one.core.clock.doubted
    one.core.clock.agreed(Now(3, 3 + one.offset), since=2.0)
    assert not one.core.clock.doubted


def test_a_clock_that_is_set_right_again_is_believed_at_once() -> None:
    one = ring()
    one.at(1)
    one.offset -= 86400
    one.at(2)
    one.offset += 86400 - 3
    one.at(3)
    assert not one.core.clock.doubted


def test_former_stamps_come_back_ten_seconds_after_the_clock_was_set_forward() -> None:
    """The clocks of other directors are set forward a moment later or earlier."""
    one = ring()
    later = int(one.offset) + 3000
    row = HostRow(str(BACKENDS[0]), "", True, 0, "", 0, 7, later, True, 0)
    one.at(1, StoredHosts((row,)))
    one.offset -= 86400
    one.at(2)
    one.pong(3)
    stamps = []
    one.offset += 86400
    for mono in range(4, 20):
        one.at(mono)
        stamps.append(one.core.hosts.rows[BACKENDS[0]].weight_at)
    assert stamps == [int(3 + one.offset) - 86400 + AHEAD - 4] * 10 + [later] * 6


def test_stamps_of_a_time_that_is_still_to_come_do_not_come_back() -> None:
    one = ring()
    one.at(1)
    one.offset -= 86400
    one.at(2, StoredHosts((ROW,)))
    one.pong(3)
    row = one.core.hosts.rows[BACKENDS[0]]
    one.offset += 86400
    for mono in range(4, 20):
        one.at(mono)
        assert one.core.hosts.rows[BACKENDS[0]].weight_at == row.weight_at < LATEST


def test_without_another_director_a_clock_is_believed_after_an_hour_without_a_step() -> None:
    one = Set(Played())
    one.at(1)
    one.offset -= 86400
    one.at(2)
    one.at(3, StoredHosts((ROW,)))
    one.at(DOUBTED)
    one.offset -= 86400  # a step begins the hour anew
    one.at(DOUBTED + 1)
    one.at(2 * DOUBTED)
    assert one.core.clock.doubted
    assert one.core.clock.next_deadline() == 2 * DOUBTED + 1
    one.at(2 * DOUBTED + 1)
    assert not one.core.clock.doubted
    assert one.core.hosts.rows[BACKENDS[0]].weight_at < LATEST


def test_a_director_that_starts_in_doubt_is_believed_with_the_first_neighbour() -> None:
    played = Played(D2, started=False)
    played.core.clock.doubt(Now(0, START))
    played.handle(StoredHosts((ROW,)), 0)
    played.handle(TimerFired(), 0.1)
    assert played.core.hosts.rows[BACKENDS[0]].weight_at == LATEST
    played.link(1, D2, dialled=True, mono=0.2)
    assert not played.core.clock.doubted
    assert played.core.hosts.rows[BACKENDS[0]].weight_at == START + AHEAD - 4


@pytest.mark.shows("rule 46")
def test_many_users_are_clipped_in_slices_before_they_are_compared() -> None:
    one = ring()
    one.at(1)
    one.offset -= 86400
    one.at(2)
    many = [
        User(UserKey(number << 47 | 1 << 32), HostId(7), Stamp(LATEST), LATEST, 0)
        for number in range(1, 20000)
    ]
    one.at(2, StoredUsers(pack(many)))
    one.pong(3)
    largest = turns = counted = 0
    while one.core.clock.walking:
        assert not any(link.exchange_has_work for link in one.core.ring.links.values())
        one.at(3)
        before, counted = counted, one.core.counters.stamps_clipped.get("memory", 0)
        largest = max(largest, counted - before)
        turns += 1
    assert turns > 4
    assert largest * RECORD.size <= SLICE + 100 * RECORD.size
    found = [user for number in range(4096) for user in unpack(one.core.users.bucket(number))]
    assert len(found) == len(many)
    assert max(user.decided for user in found) == int(3 + one.offset) + AHEAD


def test_where_nothing_was_ahead_links_stay_when_the_clock_is_believed_again() -> None:
    one = ring()
    one.at(1)
    one.offset -= 86400
    one.at(2)
    one.pong(3)
    while one.core.next_deadline() == 0.0:
        one.at(3)
    assert len(one.core.ring.live_links()) == 2


def test_a_user_being_moved_is_clipped_and_the_move_ends() -> None:
    one = ring()
    one.at(1)
    one.offset -= 86400
    one.at(2)
    alice = user(b"alice", BACKENDS[1], decided=LATEST, seen=START, flags=MOVING)
    one.at(2, StoredUsers(pack([alice])))
    one.pong(3)
    mono = 3.0
    while mono < 3 + MOVE_TIMEOUT + 1:
        mono += 0.5
        one.at(mono)
        while one.core.next_deadline() == 0.0:
            one.at(mono)
    record = one.core.users.get(alice.key)
    assert record is not None
    assert record.flags & MOVING == 0
    assert record.decided <= int(3 + one.offset) + AHEAD + 12


@pytest.mark.shows("A-53")
def test_what_waits_for_the_bound_is_bounded() -> None:
    one = ring()
    limit = int(1 + one.offset) + AHEAD + 12
    many = [record(number << 44 | 1 << 32, decided=limit + 1) for number in range(1, WAITING + 5001)]
    one.at(1, received(2, Users(pack(many))))
    while one.core.next_deadline() == 0.0:
        one.at(1)
    assert len(one.core._admission._waiting) == WAITING
    assert {decided(one, each) for each in many} == {limit - 12}
    for mono in range(2, 6):
        for link in (1, 2):
            one.at(mono, received(link, Ping(1)))
    sizes: list[int] = []
    while one.core._admission._waiting:
        assert not sizes or one.core.next_deadline() == 0.0
        sizes += [len(m.records) for m in messages(one.at(8), 1) if isinstance(m, Users)]
    assert max(sizes) <= DUE * RECORD.size
    assert [decided(one, each) for each in many].count(limit + 1) == WAITING


def test_rows_that_wait_for_the_bound_are_bounded_too() -> None:
    one = ring()
    now = Now(1, 1 + one.offset)
    rows = [MemberRow(D2, True, int(now.unix) + AHEAD + 13) for _ in range(WAITING + 5)]
    one.core._admission.members(rows, "ring", now)
    assert len(one.core._admission._waiting) == WAITING


@pytest.mark.shows("rule 45")
def test_what_was_decided_since_a_row_came_too_early_outlives_that_row() -> None:
    """A member says far ahead what is known already; an operator decides otherwise before it is due."""
    one = ring()
    early = int(1 + one.offset) + AHEAD + 13
    address = str(BACKENDS[0])
    known = one.core.hosts.rows[BACKENDS[0]]
    one.at(1, received(2, Hosts([msgspec.structs.replace(known, weight_at=early, up_at=early)])))
    one.at(2, received(2, Hosts([HostRow(address, "", True, 0, "", 0, 7, int(2 + one.offset), True, 0)])))
    for mono in range(3, 12):
        for link in (1, 2):
            one.at(mono, received(link, Ping(1)))
    row = one.core.hosts.rows[BACKENDS[0]]
    assert (row.weight, row.weight_at, row.up_at) == (7, early + 1, early)
