"""Sessions that login processes proxied while their director did not run (docs/ring.md, rule 29)."""

from __future__ import annotations

import gc

import pytest

from director.core.moves.kicks import Kicks
from director.core.moves.sessions import SLICE, SessionReview
from director.core.placement.addresses import host_id
from director.core.placement.assign import Assigner
from director.core.placement.hashing import UserHash
from director.core.placement.users import MOVING, User, UserTable
from director.core.protocol.counters import Counters
from director.core.protocol.effects import Kick, ListSessions
from director.core.protocol.events import HostMove
from director.core.protocol.kicktypes import HashOnHosts, ProxiedSession
from director.core.protocol.messages import HostRow
from director.core.tables.hosts import BackendSetting, HostTable
from director.core.tables.movedhosts import moved_rows
from director.types import Address, Stamp
from tests.unit.core.cores import BACKENDS, EXPIRE, START, at, of, user

ALICE = user(b"alice", BACKENDS[0], seen=START - 100)


class Review:
    def __init__(self) -> None:
        self.users = UserTable(EXPIRE)
        self.hosts = HostTable(BackendSetting(address, "", "", 100) for address in BACKENDS)
        self.kicks = Kicks(self.hosts, self.users, Counters())
        self.assigner = Assigner(self.users, UserHash())
        self.review = SessionReview(self.hosts, self.assigner, self.kicks)

    def of(self, *sessions: ProxiedSession, late: bool = False) -> list[HashOnHosts]:
        """Return the kicks that these sessions cause."""
        self.review.begin(sessions, late=late)
        while self.review.has_work:
            self.review.turn(at(0))
        whats = [kick.what for kick in of(Kick, self.kicks.turn(at(0)))]
        return [what for what in whats if isinstance(what, HashOnHosts)]


def session(host: Address, name: bytes = b"alice", hash32: int | None = None) -> ProxiedSession:
    return ProxiedSession(name, host, hash32)


def test_a_session_on_the_host_of_the_record_refreshes_it() -> None:
    one = Review()
    one.users.put(ALICE)
    assert one.of(session(BACKENDS[0])) == []
    assert one.users.get(ALICE.key) == ALICE._replace(seen=START)


@pytest.mark.shows("rule 29")
def test_a_session_on_another_host_is_ended_there() -> None:
    one = Review()
    one.users.put(ALICE)
    assert one.of(session(BACKENDS[1])) == [HashOnHosts(ALICE.key >> 32, [BACKENDS[1]])]
    assert one.users.get(ALICE.key) == ALICE


@pytest.mark.shows("rule 29")
def test_a_user_without_a_record_is_assigned_to_the_host_of_all_their_sessions() -> None:
    one = Review()
    assert one.of(session(BACKENDS[2]), session(BACKENDS[2])) == []
    assert one.users.get(ALICE.key) == User(ALICE.key, host_id(BACKENDS[2]), ALICE.decided, START, 0)


@pytest.mark.shows("rule 48")
def test_a_user_of_a_listed_session_gets_a_record_though_the_table_is_full() -> None:
    review = Review()
    review.users.put(ALICE)
    review.assigner.limit = 1
    assert review.of(session(BACKENDS[1], b"bob")) == []
    assert review.users.get(user(b"bob", BACKENDS[1]).key) is not None


def test_sessions_of_an_unknown_user_on_two_hosts_are_all_ended() -> None:
    one = Review()
    assert one.of(session(BACKENDS[2]), session(BACKENDS[1])) == [
        HashOnHosts(ALICE.key >> 32, [BACKENDS[1], BACKENDS[2]])
    ]
    assert one.users.get(ALICE.key) is None


def test_sessions_to_unknown_hosts_are_ignored() -> None:
    one = Review()
    assert one.of(session(Address("10.9.9.9"))) == []
    assert len(one.users) == 0


def test_when_a_host_turns_out_to_be_ours_later_the_sessions_are_listed_again_once() -> None:
    one = Review()
    late = Address("127.0.1.77")
    assert one.of(session(late), session(Address("10.9.9.9"))) == []
    assert one.review.turn(at(0)) == []
    one.hosts.merge([HostRow(late, "", True, 1, "", 0, 100, 0, True, 0)])
    assert one.review.turn(at(0)) == [ListSessions()]
    assert one.review.turn(at(0)) == []
    assert one.of(session(late)) == []
    assert one.users.get(ALICE.key) == User(ALICE.key, host_id(late), ALICE.decided, START, 0)


@pytest.mark.shows("I-17")
def test_a_session_under_another_name_is_found_by_the_hash_it_was_given() -> None:
    one = Review()
    one.users.put(ALICE)
    assert one.of(session(BACKENDS[1], b"destuser", ALICE.key >> 32)) == [
        HashOnHosts(ALICE.key >> 32, [BACKENDS[1]])
    ]


@pytest.mark.parametrize("count", [SLICE, 2 * SLICE + 1])
def test_many_sessions_take_several_turns(count: int) -> None:
    one = Review()
    one.review.begin([session(BACKENDS[0], b"user%d" % number) for number in range(count)])
    turns = 0
    while one.review.has_work:
        one.review.turn(at(0))
        turns += 1
    assert turns == 2 * -(-count // SLICE) - 1  # each session is looked at, and then each user
    assert len(one.users) == count


def test_once_they_are_listed_the_director_is_blind_no_more() -> None:
    one = Review()
    assert one.kicks.blind
    one.review.begin([])
    assert not one.kicks.blind


def test_a_session_that_reached_the_old_host_after_the_kick_is_ended() -> None:
    one = Review()
    one.users.put(ALICE)
    assert one.of(session(BACKENDS[1]), session(BACKENDS[0]), late=True) == [
        HashOnHosts(ALICE.key >> 32, [BACKENDS[1]])
    ]
    assert one.users.get(ALICE.key) == ALICE


def test_a_listing_after_a_kick_assigns_no_forgotten_user() -> None:
    one = Review()
    assert one.of(session(BACKENDS[1]), session(Address("10.9.9.9")), late=True) == []
    assert len(one.users) == 0


def test_a_listing_after_a_kick_does_not_disturb_a_review() -> None:
    one = Review()
    one.users.put(ALICE)
    one.review.begin([session(BACKENDS[1])])
    assert one.of(late=True) == [HashOnHosts(ALICE.key >> 32, [BACKENDS[1]])]


def test_sessions_of_a_user_who_is_being_moved_are_left_to_the_move_which_counts_them() -> None:
    one = Review()
    one.users.put(ALICE._replace(flags=MOVING))
    assert one.of(session(BACKENDS[1]), late=True) == []


def test_a_session_that_reaches_a_removed_host_is_ended_whatever_the_record_says() -> None:
    one = Review()
    one.users.put(ALICE)
    one.hosts.change(BACKENDS[0], START, remove=True)
    ended = [HashOnHosts(ALICE.key >> 32, [BACKENDS[0]])]
    assert one.of(session(BACKENDS[0]), late=True) == ended
    assert one.of(session(BACKENDS[0], b"bob"), late=True) != []
    one.hosts.change(BACKENDS[0], START + 1)
    assert one.hosts.get(BACKENDS[0]) is not None
    assert one.of(session(BACKENDS[0]), late=True) == ended
    one.users.put(ALICE._replace(decided=Stamp(START + 100)))
    assert one.of(session(BACKENDS[0]), late=True) == []


def test_a_session_that_reaches_the_former_address_of_the_backend_is_ended() -> None:
    one = Review()
    one.users.put(ALICE)
    one.hosts.merge([HostRow(BACKENDS[0], "b0", True, 1, "", 0, 100, 0, True, 0)])
    after = Address("127.0.1.77")
    one.hosts.put(moved_rows(one.hosts.rows, [HostMove("b0", BACKENDS[0], after)], START))
    assert one.of(session(BACKENDS[0]), late=True) == [HashOnHosts(ALICE.key >> 32, [BACKENDS[0]])]
    heir = one.hosts.moved_record(ALICE)
    assert heir is not None
    one.users.put(heir)
    assert one.of(session(BACKENDS[0]), session(after), late=True) == [
        HashOnHosts(ALICE.key >> 32, [BACKENDS[0]])
    ]


@pytest.mark.shows("A-41")
def test_a_collection_of_garbage_does_not_look_at_all_sessions_that_wait_for_their_turn() -> None:
    one = Review()
    listed = [session(BACKENDS[1], b"user%d" % number) for number in range(10_000)]
    for each in listed:
        one.users.put(user(each.name, BACKENDS[0]))
    gc.collect()
    gc.disable()
    try:
        one.review.begin(listed)
        one.review.turn(at(0))
        assert sum(map(len, map(gc.get_referents, gc.get_objects(generation=0)))) < 1000
        while one.review.has_work:
            one.review.turn(at(0))
        assert sum(map(len, map(gc.get_referents, gc.get_objects(generation=0)))) < 1000
    finally:
        gc.enable()
    assert len(one.kicks) == len(listed)
