"""The facade: order of effects, gate, thaw, bad neighbours, deadlines."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from director.core import intake
from director.core.intake import RECALLED, TWO_HOSTS_NOTE
from director.core.moves.movestate import SUBJECT
from director.core.placement.addresses import host_id
from director.core.placement.assign import Gate
from director.core.placement.hashing import UserHash
from director.core.placement.names import LONGEST_NAME, entries_in, entry
from director.core.placement.users import MOVING, User, pack, unpack
from director.core.protocol.effects import (
    Answer,
    Claim,
    Close,
    Departed,
    Dial,
    Effect,
    Kick,
    LogEvent,
    OperationDone,
    Refuse,
    Send,
    StoreHosts,
)
from director.core.protocol.events import (
    Claimed,
    ClaimFailed,
    Congested,
    DialFailed,
    Dropped,
    HostChange,
    Kicked,
    KicksEnded,
    Leases,
    LinkClosed,
    LinkOpened,
    Lookup,
    ProcessStalled,
    Received,
    Seen,
    Started,
    Stopping,
    StoredHosts,
    StoredUsers,
    TableChanged,
    TimerFired,
)
from director.core.protocol.kicktypes import MOST_COUNTED, OnHost
from director.core.protocol.messages import (
    ROWS,
    Bye,
    Digests,
    HostRow,
    Hosts,
    KickRound,
    Leaving,
    MoveRound,
    Names,
    Ping,
    Pong,
    Proof,
    RingMessage,
    Token,
    Users,
)
from director.core.ring.link import LinkState, Neighbour
from director.core.ring.partition import Standing
from director.core.ring.ring import LEAVE_WITHIN
from director.types import Address, HostId, LinkId, MemberId, RequestId, Stamp, UserKey
from tests.unit.core.cores import (
    BACKENDS,
    D1,
    D2,
    D3,
    EXPIRE,
    START,
    Played,
    at,
    identity,
    messages,
    of,
    plain,
    user,
)

ALICE, BOB = UserHash().key(b"alice"), UserHash().key(b"bob")
ROW = HostRow(str(BACKENDS[0]), "", True, 0, "", 0, 7, START, True, 0)


def alone() -> Played:
    """The only director there is."""
    played = Played()
    assert played.core.assigner.gate is Gate.OPEN
    return played


def in_ring() -> Played:
    """d1 between d3 (left, link 2) and d2 (right, link 1), in sync."""
    played = Played(D2, D3)
    played.link(1, D2, dialled=True)
    played.link(2, D3, dialled=False)
    release(played)
    assert played.core.assigner.gate is Gate.OPEN
    return played


def release(played: Played, mono: float = 0.5) -> None:
    """Let a token of the right neighbour go round twice."""
    digest = played.core.hosts.digest()
    for lap, passed in ((1, [D2, D3]), (2, [D2, D3, D1])):
        played.hear(2, Token(D2, 1, lap, digest, list(passed)), mono=mono)


def partial(**settings: Any) -> Played:
    """d1 in a ring of two, while d3 holds a live lease outside it."""
    played = Played(D2, D3, **settings)
    played.link(1, D2, dialled=True)
    played.link(2, D2, dialled=False)
    digest = played.core.hosts.digest()
    for lap, passed in ((1, [D2]), (2, [D2, D1])):
        played.hear(2, Token(D2, 1, lap, digest, list(passed)), mono=0.5)
    played.handle(Leases(frozenset([D1, D2, D3])), 0.6)
    assert played.core.partial
    return played


def lookup(request: int, key: UserKey = ALICE, tag: bytes = b"", name: bytes = b"alice") -> Lookup:
    return Lookup(RequestId(request), key, tag, name)


def record(
    key: UserKey = ALICE, host: str = str(BACKENDS[0]), decided: int = START, seen: int = START
) -> bytes:
    return pack([User(key, host_id(host), Stamp(decided), seen, 0)])


def test_a_director_alone_answers_everybody_as_soon_as_it_has_started() -> None:
    played = Played(started=False)
    assert of(Answer, played.handle(lookup(1), 0)) == []
    assert [answer.request for answer in of(Answer, played.handle(Started(), 0))] == [1]


@pytest.mark.shows("rule 5")
def test_records_leave_before_tokens_and_tokens_before_answers() -> None:
    played = in_ring()
    played.hear(2, Hosts([ROW]))
    played.handle(lookup(1), 1.1)
    played.users.put(User(BOB, HostId(1), Stamp(START), START, 0))
    digest = played.core.hosts.digest()
    played.hear(2, Token(D2, 9, 1, digest, [D2, D3]), mono=1.2)
    played.users.put(User(BOB, HostId(1), Stamp(START), START, 0))
    effects = played.hear(2, Token(D2, 9, 2, digest, [D2, D3, D1]), mono=1.3)
    order = [type(m).__name__ for m in messages(effects, 1)]
    assert order[:2] == ["Users", "Token"]
    answer = next(at for at, effect in enumerate(effects) if isinstance(effect, Answer))
    last_users = max(at for at, e in enumerate(effects) if isinstance(e, Send) and of(Users, e.messages))
    assert last_users < answer


def test_a_choice_made_for_a_waiting_login_is_announced_before_its_answer() -> None:
    effects = in_ring().handle(lookup(1), 1)
    assert [type(effect).__name__ for effect in effects] == ["Send", "Send", "Answer"]
    assert len(of(Users, messages(effects))) == 2


@pytest.mark.shows("rule 5")
def test_a_user_released_by_the_ring_is_announced_before_the_login_is_answered() -> None:
    played = in_ring()
    played.hear(2, Hosts([ROW]))
    played.handle(lookup(1), 1.1)
    digest = played.core.hosts.digest()
    played.hear(2, Token(D2, 9, 1, digest, [D2, D3]), mono=1.2)
    effects = played.hear(2, Token(D2, 9, 2, digest, [D2, D3, D1]), mono=1.3)
    sends = [
        at for at, effect in enumerate(effects) if isinstance(effect, Send) and of(Users, messages([effect]))
    ]
    (answer,) = [at for at, effect in enumerate(effects) if isinstance(effect, Answer)]
    assert len(sends) == 2
    assert max(sends) < answer


def test_what_the_hot_path_has_put_goes_to_both_neighbours_in_one_message_each() -> None:
    played = in_ring()
    for number in range(3):
        played.users.put(User(UserKey(number + 1 << 32), HostId(1), Stamp(START), START, 0))
    effects = played.handle(TableChanged(), 1)
    assert [len(users.records) // 22 for users in of(Users, messages(effects))] == [3, 3]


def test_names_of_new_users_go_round_to_the_right_once() -> None:
    played = in_ring()
    played.hear(2, Users(record()))
    entries = (ALICE).to_bytes(8) + (5).to_bytes(2) + b"alice"
    effects = played.hear(2, Names(entries, 2))
    assert messages(effects) == [Names(entries, 1)]
    assert messages(played.hear(2, Names(entries, 1))) == []
    assert played.core.names.names(ALICE >> 52) == {ALICE: "alice"}


@pytest.mark.shows("A-59")
def test_names_that_are_to_go_round_without_end_go_round_once() -> None:
    played = in_ring()
    played.hear(2, Users(record()))
    entries = (ALICE).to_bytes(8) + (5).to_bytes(2) + b"alice"
    assert messages(played.hear(2, Names(entries, 1 << 63))) == [Names(entries, 2)]


@pytest.mark.shows("A-59")
@pytest.mark.parametrize("kind", [MoveRound, KickRound])
def test_a_count_of_sessions_at_the_maximum_does_not_grow(kind: type[MoveRound] | type[KickRound]) -> None:
    played = in_ring()
    played.hear(2, Users(record()))
    if kind is KickRound:
        effects = played.hear(2, KickRound(D3, 1, 1, OnHost(BACKENDS[0]), [D3], [], MOST_COUNTED))
        effects += played.hear(2, KickRound(D3, 1, 2, OnHost(BACKENDS[0]), [D3], [], MOST_COUNTED))
        (kick,) = of(Kick, effects)
    else:
        moving = user(b"alice", BACKENDS[1], decided=START + 5, flags=MOVING)
        effects = played.hear(2, Users(pack([moving])))
        (kick,) = of(Kick, effects)
        effects = played.hear(2, MoveRound(D3, 1, SUBJECT.pack(ALICE, START + 5), [D3], [], MOST_COUNTED))
    effects += played.handle(KicksEnded([Kicked(kick.kick, 3, "")]), 1.1)
    effects += played.until(1.5)
    rounds = of(kind, messages(effects, 1))
    assert rounds[-1].kicked == MOST_COUNTED


def test_the_lost_name_of_an_assigned_user_is_learnt_again_from_a_login_or_a_session() -> None:
    # all directors were killed before the name was stored: the user was listed by the hash from then on
    for seen in (Seen([b"alice"]), None):
        played = in_ring()
        played.core.assigner.remember_names = True
        played.hear(2, Users(record()))
        played.core.assigner.unix = START + EXPIRE // 3 + 1
        if seen is None:
            played.core.assigner.assign_named(ALICE, b"", b"alice")
        effects = played.handle(seen or TableChanged(), EXPIRE // 3 + 1)
        entries = ALICE.to_bytes(8) + (5).to_bytes(2) + b"alice"
        assert of(Names, messages(effects)) == [Names(entries, 2)]
        assert played.core.names.names(ALICE >> 52) == {ALICE: "alice"}


def test_of_many_assigned_users_without_names_some_are_looked_up_in_one_turn() -> None:
    """With ten million users each costs 10 µs: the login of a thousand at once would hold up the loop."""
    played = in_ring()
    played.core.assigner.remember_names = True
    users = [b"user%d" % number for number in range(RECALLED + 50)]
    played.hear(2, Users(b"".join(pack([user(name, BACKENDS[0])]) for name in users)))
    found = []
    for period in (1, 2):
        at = period * (EXPIRE // 3 + 1)
        played.core.assigner.unix = START + at
        for name in users[::-1] if period == 2 else users:
            played.core.assigner.assign_named(UserHash().key(name, b""), b"", name)
        [names] = of(Names, messages(played.handle(TableChanged(), at)))
        found.append([name for _, name in entries_in(names.entries)])
    assert found[0] == users[:RECALLED]
    assert sorted(found[1]) == sorted(users[RECALLED:])


def test_the_name_of_a_login_that_waited_for_the_ring_is_kept_and_announced() -> None:
    played = Played(D2, D3, remember_names=True)
    assert of(Answer, played.handle(lookup(1), 0)) == []
    played.link(1, D2, dialled=True)
    played.link(2, D3, dialled=False)
    assert played.core.names.names(ALICE >> 52) == {}, "the login is not answered yet"
    digest = played.core.hosts.digest()
    played.hear(2, Token(D2, 1, 1, digest, [D2, D3]), mono=0.5)
    effects = played.hear(2, Token(D2, 1, 2, digest, [D2, D3, D1]), mono=0.5)
    assert [answer.request for answer in of(Answer, effects)] == [1]
    assert played.core.names.names(ALICE >> 52) == {ALICE: "alice"}
    assert of(Names, messages(effects, 1)) == [Names(entry(ALICE, b"alice"), 2)]


def test_the_name_of_a_claimed_user_is_kept_and_announced_after_the_record() -> None:
    played = partial(remember_names=True)
    played.handle(lookup(1), 1)
    placed = record(host=str(BACKENDS[3]))
    effects = played.handle(Claimed(ALICE, placed), 1.1)
    assert len(of(Answer, effects)) == 1
    assert played.core.names.names(ALICE >> 52) == {ALICE: "alice"}
    told = [message for message in messages(effects, 1) if isinstance(message, Users | Names)]
    assert told == [Users(placed), Names(entry(ALICE, b"alice"), 2)]
    assert of(Names, messages(effects, 2)) == [], "names go round to the right"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"remember_names": False}, b"alice"),
        ({"remember_names": True}, b"a" * (LONGEST_NAME + 1)),
        ({"remember_names": True, "max_users": 1}, b"alice"),
    ],
    ids=["names are off", "too long", "the table is full"],
)
def test_a_login_that_waited_leaves_no_name_where_one_that_is_answered_at_once_leaves_none(
    settings: dict[str, Any], name: bytes
) -> None:
    """Anybody may log in under any name: a name without a record of its user would be kept without end."""
    played = partial(**settings)
    if "max_users" in settings:
        played.hear(1, Users(record(BOB)))
    played.handle(lookup(1, name=name), 1)
    placed = b"" if "max_users" in settings else record(host=str(BACKENDS[3]))
    effects = played.handle(Claimed(ALICE, placed), 1.1)
    assert len(of(Answer, effects)) == 1
    assert played.core.names.names(ALICE >> 52) == {}
    assert of(Names, messages(effects)) == []


def test_what_is_new_here_is_passed_on_and_what_is_not_dies() -> None:
    played = in_ring()
    assert of(Users, messages(played.hear(2, Users(record())), 1)) == [Users(record())]
    assert messages(played.hear(2, Users(record()))) == []


@pytest.mark.shows("I-19")
def test_a_refresh_keeps_a_user_in_every_tag_and_is_told_at_once() -> None:
    played = in_ring()
    played.handle(HostChange(1, Address("10.1.0.9"), add=True, tag="gold", weight=1), 1)
    gold = UserHash().key(b"alice", b"gold")
    played.hear(2, Users(record() + record(gold, "10.1.0.9")))
    effects = played.handle(Seen([b"alice"]), 500)
    assert [users.seen for users in map(played.users.get, (ALICE, gold)) if users] == [START + 500] * 2
    assert of(Users, messages(effects)) != []


@pytest.mark.shows("rule 2")
def test_a_director_that_renews_an_earlier_assignment_gets_the_later_one() -> None:
    """Expired records are not compared. A director that was unreachable has the earlier one."""
    played = in_ring()
    expired = START - 2 * EXPIRE
    played.handle(StoredUsers(record(host="10.1.0.2", decided=expired, seen=expired)), 1)
    earlier, known = record(decided=expired - 9, seen=START), record(BOB, seen=START)
    played.handle(StoredUsers(known), 1)
    merged = record(host="10.1.0.2", decided=expired, seen=START)
    effects = played.hear(2, Users(earlier + known))
    assert of(Users, messages(effects, 1)) == [Users(merged)]
    assert of(Users, messages(effects, 2)) == [Users(merged)]
    assert of(Users, messages(played.hear(1, Users(merged)))) == []


@pytest.mark.shows("rule 10")
def test_new_users_wait_from_the_merge_of_a_host_change_until_the_release_and_known_ones_do_not() -> None:
    played = in_ring()
    played.hear(1, Users(record()))
    played.hear(2, Hosts([ROW]))
    assert played.core.assigner.gate is Gate.KNOWN
    assert of(Answer, played.handle(lookup(1, ALICE), 1)) != []
    assert of(Answer, played.handle(lookup(2, BOB), 1)) == []


def test_a_row_that_changes_no_assignment_makes_no_user_wait() -> None:
    played = in_ring()
    effects = played.hear(2, Hosts([msgspec.structs.replace(ROW, weight=100)]))
    assert of(StoreHosts, effects) == [StoreHosts()]
    assert played.core.assigner.gate is Gate.OPEN


def test_a_director_that_was_unreachable_reassigns_users_of_a_host_that_was_removed_and_added() -> None:
    played = alone()
    played.handle(StoredUsers(record(decided=START - 50)), 0)
    again = msgspec.structs.replace(ROW, weight=100, present_at=START - 20)
    played.handle(StoredHosts([again]), 0)
    played.handle(lookup(1), 1)
    placed = played.users.get(ALICE)
    assert placed is not None
    assert placed.decided == START + 1


def test_a_host_name_that_a_neighbour_knows_is_in_the_answers_at_once() -> None:
    played = alone()
    played.handle(StoredHosts([msgspec.structs.replace(ROW, hostname="a.example", present_at=5)]), 0)
    played.handle(StoredHosts([msgspec.structs.replace(ROW, hostname="b.example", present_at=5)]), 0)
    played.handle(StoredUsers(record()), 0)
    (answer,) = of(Answer, played.handle(lookup(1), 1))
    assert answer.backend.hostname == "b.example"


@pytest.mark.shows("rule 28")
def test_a_started_director_answers_no_login_before_it_has_compared_its_memory() -> None:
    played = Played(D2, D3, started=False)
    played.handle(StoredUsers(record()), 0)
    played.handle(Started(), 0)
    assert (played.core.unverified, played.core.assigner.gate) == (True, Gate.CLOSED)
    assert of(Answer, played.handle(lookup(1), 0)) == []
    played.link(1, D2, dialled=True)
    assert (played.core.unverified, played.core.assigner.gate) == (False, Gate.KNOWN)


def test_an_exchange_with_a_director_that_has_just_started_too_does_not_verify_memory() -> None:
    played = Played(D2, D3)
    played.link(1, D2, dialled=True, compared=False)
    assert (played.state(1), played.core.unverified) == (LinkState.FULL, True)
    played.link(2, D3, dialled=False, compared=False)
    release(played)
    assert (played.core.unverified, played.core.assigner.gate) == (False, Gate.OPEN)


def test_the_leases_say_that_a_director_is_alone() -> None:
    played = Played(D2, D3)
    effects = played.handle(lookup(1), 0)
    effects += played.handle(Leases(frozenset([D1])), 0.1)
    assert [answer.request for answer in of(Answer, effects)] == [1]
    assert played.core.standing is Standing.COMPLETE


@pytest.mark.shows("rule 28")
def test_after_a_suspension_no_login_is_answered_before_a_neighbour_has_answered_a_ping() -> None:
    played = in_ring()
    effects = played.handle(ProcessStalled(3.0), 4)
    (ping,) = set(of(Ping, messages(effects)))
    assert played.core.assigner.gate is Gate.CLOSED
    assert of(Answer, played.handle(lookup(1), 4)) == []
    played.hear(1, Pong(ping.serial), mono=4.1)
    assert played.core.assigner.gate is Gate.CLOSED
    effects = played.hear(2, Pong(ping.serial), mono=4.1)
    assert [answer.request for answer in of(Answer, effects)] == [1]


def test_a_freeze_is_noticed_by_the_first_event_that_comes_too_late_whichever_it_is() -> None:
    played = in_ring()
    played.hear(1, Users(record()))
    due = played.core.next_deadline()
    assert due is not None
    effects = played.handle(lookup(1), due + 1.1)
    assert of(Answer, effects) == []
    assert of(LogEvent, effects)[0].event == "process_stalled"
    assert [played.state(link) for link in (1, 2)] == [LinkState.FULL, LinkState.FULL]


def test_a_freeze_that_was_noticed_already_is_not_one_more() -> None:
    played = in_ring()
    due = played.core.next_deadline()
    assert due is not None
    first = played.handle(TimerFired(), due + 5)
    second = played.handle(ProcessStalled(5.0), due + 5.2)
    assert [log.event for log in of(LogEvent, first + second)].count("process_stalled") == 1


def test_neighbours_are_not_given_up_for_the_silence_of_our_own_freeze() -> None:
    played = in_ring()
    played.core.next_deadline()
    played.handle(TimerFired(), 60)
    assert [played.state(link) for link in (1, 2)] == [LinkState.FULL, LinkState.FULL]


def test_after_a_freeze_in_which_all_neighbours_left_memory_is_a_hint_again() -> None:
    played = in_ring()
    played.hear(1, Users(record()))
    played.handle(ProcessStalled(30.0), 31)
    for link in (1, 2):
        played.handle(LinkClosed(LinkId(link), "connection closed"), 31)
    assert (played.core.unverified, played.core.assigner.gate) == (True, Gate.CLOSED)
    assert of(Answer, played.handle(lookup(1), 40)) == []


def test_leases_from_before_a_freeze_do_not_make_a_director_alone() -> None:
    played = Played(D2)
    played.handle(Leases(frozenset([D1])), 0)
    assert played.core.assigner.gate is Gate.OPEN
    played.handle(ProcessStalled(100.0), 100)
    assert played.core.assigner.gate is Gate.CLOSED
    played.handle(Leases(frozenset([D1])), 100.1)
    assert played.core.assigner.gate is Gate.OPEN


@pytest.mark.shows("rule 12", "S-45")
def test_after_a_suspension_the_majority_side_continues_to_claim_new_users() -> None:
    """Before the leases are read anew: on the word of its majority it would place them by itself."""
    played = partial()
    effects = played.handle(ProcessStalled(3.0), 4)
    for ping in set(of(Ping, messages(effects))):
        for link in (1, 2):
            effects += played.hear(link, Pong(ping.serial), mono=4.1)
    effects += played.handle(lookup(1), 4.2)
    assert played.core.standing is Standing.CLAIM
    assert len(of(Claim, effects)) == 1
    assert of(Answer, effects) == []


def test_a_director_that_has_lost_all_neighbours_tries_to_compare_its_memory_for_a_second() -> None:
    played = in_ring()
    played.hear(1, Users(record()))
    for link in (1, 2):
        played.handle(LinkClosed(LinkId(link), "connection closed"), 10)
    assert played.core.assigner.gate is Gate.CLOSED
    assert of(Answer, played.handle(lookup(1), 10)) == []
    assert of(Answer, played.handle(TimerFired(), 11.0)) != []


def test_a_director_that_can_reach_no_other_does_not_wait_for_that_second() -> None:
    played = in_ring()
    played.hear(1, Users(record()))
    effects = []
    for link in (1, 2):
        effects += played.handle(LinkClosed(LinkId(link), "connection closed"), 10)
    for _ in range(2):
        for dial in of(Dial, effects):
            effects = played.handle(DialFailed(dial.member, "refused"), 10.01)
    assert played.core.assigner.gate is Gate.KNOWN


def test_a_login_that_is_dropped_is_forgotten() -> None:
    played = Played(D2)
    played.handle(lookup(1), 0)
    played.handle(Dropped([RequestId(1)]), 1)
    assert len(played.core.pending) == 0


def test_a_login_that_cannot_be_answered_is_refused_after_thirty_seconds() -> None:
    played = Played(D2, D3)
    played.handle(lookup(1), 0)
    effects = played.handle(TimerFired(), 30.0)
    assert [(refuse.request, "waited 30 s" in refuse.reason) for refuse in of(Refuse, effects)] == [(1, True)]


def test_in_an_incomplete_ring_a_new_user_is_claimed_once_for_any_number_of_logins() -> None:
    played = partial()
    effects = played.handle(lookup(1), 1) + played.handle(lookup(2), 1)
    (claim,) = of(Claim, effects)
    assert claim.key == ALICE
    effects = played.handle(Claimed(ALICE, record(host=str(BACKENDS[3]))), 1.1)
    assert [(a.request, a.backend.address) for a in of(Answer, effects)] == [
        (1, BACKENDS[3]),
        (2, BACKENDS[3]),
    ]


def test_a_claim_on_a_host_with_a_new_tag_has_a_later_stamp_so_that_the_user_is_not_moved() -> None:
    played = partial()
    retagged = msgspec.structs.replace(ROW, tag="gold", tag_at=START + 60)
    played.hear(2, Hosts([retagged]), mono=1)
    digest = played.core.hosts.digest()
    for lap, passed in ((1, [D2]), (2, [D2, D1])):
        played.hear(2, Token(D2, 2, lap, digest, list(passed)), mono=1.1)
    key = UserHash().key(b"alice", b"gold")
    (claim,) = of(Claim, played.handle(lookup(1, key, b"gold"), 1.2))
    (candidate,) = unpack(claim.record)
    assert candidate.decided >= retagged.tag_at


@pytest.mark.shows("rule 48")
def test_over_the_limit_a_new_user_of_a_partial_ring_is_looked_up_in_the_store_and_not_put_there() -> None:
    played = partial(max_users=1)
    assert played.core.assigner.limit == 1
    played.hear(1, Users(record(UserHash().key(b"bob"))))
    (claim,) = of(Claim, played.handle(lookup(1), 1))
    assert claim.record == b""
    (answer,) = of(Answer, played.handle(Claimed(ALICE, b""), 1.1))
    home = played.core.assigner.place(ALICE >> 32, b"")
    assert home is not None
    assert answer.backend == home
    assert (len(played.users), played.core.assigner.not_remembered) == (1, 1)
    played.handle(lookup(2), 2)
    effects = played.handle(Claimed(ALICE, record(host=str(BACKENDS[3]))), 2.1)
    assert [one.backend.address for one in of(Answer, effects)] == [BACKENDS[3]], "the store knows the user"


def test_a_claim_that_failed_is_made_again_after_half_a_second() -> None:
    played = partial()
    played.handle(lookup(1), 1)
    assert of(Claim, played.handle(ClaimFailed(ALICE), 1.1)) == []
    assert of(Claim, played.handle(TimerFired(), 1.5)) == []
    assert len(of(Claim, played.handle(TimerFired(), 1.7))) == 1


def test_a_claim_without_a_result_is_not_repeated_at_once() -> None:
    played = partial()
    played.handle(lookup(1), 1)
    effects = played.handle(Claimed(ALICE, record(host="10.9.9.9")), 1.1)
    assert (of(Claim, effects), of(Answer, effects)) == ([], [])
    assert len(of(Claim, played.handle(TimerFired(), 1.7))) == 1


@pytest.mark.parametrize(
    ("host", "decided", "seen", "mono", "binds"),
    [
        (str(BACKENDS[0]), START, START, 1, True),
        (str(BACKENDS[0]), START, START, EXPIRE + 1, False),
        (str(BACKENDS[1]), START, START, 1, False),
        ("10.9.9.9", START, START, 1, True),
        ("10.9.9.9", START, START, 7, False),
    ],
    ids=[
        "alive",
        "expired",
        "on a removed host",
        "on a host not heard of yet",
        "on a host not heard of for long",
    ],
)
def test_a_claim_keeps_an_unexpired_assignment_to_a_host_that_was_not_removed(
    host: str, decided: int, seen: int, mono: float, binds: bool
) -> None:
    played = partial()
    removed = HostRow(str(BACKENDS[1]), "", False, START + 1, "", 0, 100, 0, True, 0)
    played.handle(lookup(1), 1)
    played.handle(StoredUsers(record(host=host, decided=decided, seen=seen)), 1)
    played.hear(1, Hosts([removed]))
    played.handle(TimerFired(), mono)
    assert played.core.binds(ALICE) is binds


@pytest.mark.shows("rule 20")
def test_users_on_two_hosts_are_counted_once_where_two_memories_meet_and_named() -> None:
    played = alone()
    played.handle(StoredUsers(record(host=str(BACKENDS[0]), decided=START - 10)), 0)
    effects = played.handle(StoredUsers(record(host=str(BACKENDS[1]))), 0)
    (log,) = [log for log in of(LogEvent, effects) if log.event == "user_on_two_hosts"]
    named = {"hash": ALICE >> 32, "from": BACKENDS[0], "to": BACKENDS[1], "note": TWO_HOSTS_NOTE}
    assert log.fields == named
    assert played.core.counters.conflicts == 1


@pytest.mark.shows("A-43")
def test_of_many_users_on_two_hosts_in_one_turn_the_first_is_named_and_all_are_counted() -> None:
    played = alone()
    for host, decided in ((BACKENDS[0], START - 10), (BACKENDS[1], START)):
        users = [User(UserKey(n << 32), host_id(host), Stamp(decided), START - 10, 0) for n in range(1, 100)]
        effects = played.handle(StoredUsers(pack(users)), 0)
    (log,) = [log for log in of(LogEvent, effects) if log.event == "user_on_two_hosts"]
    named = {"hash": 1, "from": BACKENDS[0], "to": BACKENDS[1], "users": 99, "note": TWO_HOSTS_NOTE}
    assert log.fields == named
    assert played.core.counters.conflicts == 99


@pytest.mark.shows("rule 20")
@pytest.mark.parametrize("seen", [START - EXPIRE - 10, START - EXPIRE - 1000])
def test_a_user_assigned_anew_after_the_assignment_expired_is_no_conflict(seen: int) -> None:
    played = alone()
    played.handle(StoredUsers(record(host=str(BACKENDS[0]), decided=START - 2000, seen=seen)), 0)
    played.handle(StoredUsers(record(host=str(BACKENDS[1]))), 0)
    assert played.core.counters.conflicts == 0


def test_the_store_is_read_as_a_file_once_and_then_as_another_memory() -> None:
    played = alone()
    stranger = HostRow("10.1.0.9", "", True, 0, "", 0, 100, 0, True, 0)
    played.handle(StoredHosts([stranger]), 0)
    assert played.core.hosts.get(Address("10.1.0.9")) is None
    played.handle(StoredHosts([stranger]), 0)
    assert played.core.hosts.get(Address("10.1.0.9")) == stranger


def test_a_store_that_was_unreachable_at_the_start_is_read_as_a_file_too() -> None:
    played = alone()
    played.handle(TimerFired(), 50)
    old = HostRow("10.1.0.9", "", True, 0, "", 0, 100, 0, True, 0)
    played.handle(StoredHosts([old, ROW]), 60)
    assert played.core.hosts.get(Address("10.1.0.9")) is None
    assert played.core.hosts.rows[BACKENDS[0]].weight == 7


def test_a_store_that_was_unreachable_is_only_merged_if_the_applied_configuration_is_known() -> None:
    played = alone()
    played.handle(TimerFired(), 50)
    old = HostRow("10.1.0.9", "", True, 0, "", 0, 100, 0, True, 0)
    lower = HostRow(BACKENDS[0], "", True, 0, "", 0, 7, 0, True, 0)
    played.handle(StoredHosts([old, lower], applied=True), 60)
    assert played.core.hosts.get(Address("10.1.0.9")) == old
    assert played.core.hosts.rows[BACKENDS[0]].weight == 7


def test_a_director_alone_confirms_a_change_at_once() -> None:
    played = alone()
    effects = played.handle(HostChange(1, BACKENDS[0], weight=7), 1)
    assert [done.row.weight for done in of(OperationDone, effects)] == [7]
    assert played.core.assigner.gate is Gate.OPEN


def test_the_record_of_a_user_of_a_removed_host_is_kept_so_that_no_older_record_counts() -> None:
    played = alone()
    known = User(ALICE, host_id(BACKENDS[0]), Stamp(START + 3), START + 3, 0)
    played.users.put(known)
    played.handle(HostChange(1, BACKENDS[0], remove=True), 5)
    older = known._replace(host=host_id(BACKENDS[1]), decided=Stamp(START + 1))
    played.handle(StoredUsers(pack([older])), 6)
    assert played.users.get(ALICE) == known
    answer = played.handle(lookup(1), 7)[-1]
    assert isinstance(answer, Answer)
    assert answer.backend.address != BACKENDS[0]


def test_a_user_assigned_in_the_second_of_a_removal_gets_a_later_stamp_on_the_next_host() -> None:
    played = alone()
    first = played.handle(lookup(1), 0.1)[-1]
    assert isinstance(first, Answer)
    played.handle(HostChange(1, Address(first.backend.address), remove=True), 0.2)
    while played.core.next_deadline() == 0.0:
        played.handle(TimerFired(), 0.3)
    second = played.handle(lookup(2), 0.4)[-1]
    assert isinstance(second, Answer)
    assert second.backend != first.backend
    placed = played.users.get(ALICE)
    assert placed is not None
    assert placed.decided > START


BAD: list[tuple[str, RingMessage]] = [
    ("records of 21 bytes", Users(bytes(21))),
    ("no address", Hosts([msgspec.structs.replace(ROW, address="somewhere")])),
    ("another spelling", Hosts([msgspec.structs.replace(ROW, address="2001:DB8::1")])),
    ("weight too large", Hosts([msgspec.structs.replace(ROW, weight=1001)])),
    ("weight below zero", Hosts([msgspec.structs.replace(ROW, weight=-1)])),
    ("tab in a tag", Hosts([msgspec.structs.replace(ROW, tag="a\tb")])),
    ("line feed in a name", Hosts([msgspec.structs.replace(ROW, hostname="a\nb")])),
    ("stamp beyond 32 bits", Hosts([msgspec.structs.replace(ROW, weight_at=1 << 32)])),
    ("stamp below zero", Hosts([msgspec.structs.replace(ROW, up_at=-1)])),
    ("token in lap 3", Token(D2, 1, 3, b"", [D2])),
    ("token from no member", Token("a name", 1, 1, b"", [D2])),
    ("token passed by no member", Token(D2, 1, 1, b"", ["rubbish"])),
    ("half a name", Names(b"\x00\x01", 1)),
    ("digests again", Digests(0, bytes(8))),
]


@pytest.mark.parametrize("message", [bad for _, bad in BAD], ids=[name for name, _ in BAD])
def test_what_cannot_be_right_closes_that_link_says_why_and_hurts_nothing_else(message: RingMessage) -> None:
    played = in_ring()
    before = (dict(played.core.hosts.rows), len(played.users))
    effects = played.hear(2, message)
    assert of(Close, effects) == [Close(LinkId(2))]
    assert [type(said) for said in messages(effects, 2)][-1] is Bye
    assert [log.fields["reason"] for log in of(LogEvent, effects) if log.event == "ring_link_closed"] != []
    assert (played.core.hosts.rows, len(played.users), played.state(1)) == (*before, LinkState.FULL)


def test_a_director_that_stops_sends_a_bye_on_all_links_and_dials_no_director() -> None:
    played = in_ring()
    effects = played.handle(Stopping(), 1)
    assert of(Leaving, messages(effects)) == [Leaving(D1, 7)] * 2
    assert of(Bye, messages(effects)) == []
    effects += played.hear(2, Bye("linked with another now", routine=True), mono=1.1)
    assert of(Bye, messages(effects)) == [Bye("the director stops", routine=True)]
    assert of(Departed, effects) == [Departed()]
    assert of(Dial, effects + played.handle(TimerFired(), 60)) == []


def test_a_director_that_ends_does_not_wait_for_others_longer_than_a_second() -> None:
    played = in_ring()
    assert of(Departed, played.handle(Stopping(), 1)) == []
    assert of(Departed, played.handle(TimerFired(), 1 + LEAVE_WITHIN)) == [Departed()]


def test_bulk_waits_while_a_link_is_congested() -> None:
    played = Played(D2)
    link = LinkId(9)
    played.handle(Congested(link), 0)
    played.link(1, D2, dialled=True)
    played.handle(Congested(LinkId(1)), 1)
    assert played.core.ring.links[LinkId(1)].congested
    played.handle(Congested(LinkId(1), clear=True), 1)
    assert not played.core.ring.links[LinkId(1)].congested


def test_links_that_are_gone_already_are_no_trouble() -> None:
    played = in_ring()
    assert messages(played.hear(99, Ping(1)), 99) == []
    played.handle(LinkClosed(LinkId(99), "connection closed"), 1)
    assert played.core.synced


@pytest.mark.parametrize("gap", [0.0, 0.3, 0.7, 5.0, 20.0, 30.0])
@pytest.mark.parametrize("build", [alone, in_ring, partial, Played], ids=lambda build: build.__name__)
def test_no_deadline_stays_in_the_past(build: Any, gap: float) -> None:
    played = build()
    played.handle(lookup(1), 1 + gap)
    for _ in range(100):
        due = played.core.next_deadline()
        assert due is not None
        played.handle(TimerFired(), max(due, 1 + gap))
        after = played.core.next_deadline()
        assert after is not None
        assert after > due or after == 0.0


def test_a_ring_of_one_address_family_dials_its_members_by_name() -> None:
    played = Played(MemberId("[2001:db8::2]:9090"), me=MemberId("[2001:db8::1]:9090"))
    effects = played.handle(LinkOpened(LinkId(1), b"", Address("2001:db8::2")), 0)
    assert of(Close, effects) == []


def proving(played: Played) -> tuple[Neighbour, list[RingMessage]]:
    """Link 1, of d2, where only its proof is still to come: the other end, and that proof."""
    other = Neighbour(LinkId(1), identity(D2), Address("10.0.0.1"), D1, b"theirs", at(0))
    (theirs,) = messages(other.open())
    (ours,) = messages(played.handle(LinkOpened(LinkId(1), b"ours", Address("10.0.0.2")), 0))
    played.handle(Received(LinkId(1), [theirs], plain(theirs)), 0)
    return other, messages(other.handle(ours, at(0), plain(ours)) or [])


def test_a_proof_alone_in_its_frame_makes_a_link_live() -> None:
    played = Played(D2, D3)
    _, proof = proving(played)
    played.handle(Received(LinkId(1), proof, plain(*proof)), 0)
    assert played.state(1) is LinkState.EXCHANGING


@pytest.mark.parametrize("behind", [True, False], ids=["behind it", "in front of it"])
def test_nothing_else_is_taken_from_the_frame_of_a_proof(behind: bool) -> None:
    played = Played(D2, D3)
    _, proof = proving(played)
    row = HostRow("192.0.2.66", "", True, START, "", START, 100, START, True, START)
    frame = [*proof, Hosts([row])] if behind else [Hosts([row]), *proof]
    effects = played.handle(Received(LinkId(1), frame, plain(*frame)), 0)
    assert of(Close, effects) == [Close(LinkId(1))]
    assert "192.0.2.66" not in played.core.hosts.rows


def test_a_plain_frame_on_a_live_link_closes_it() -> None:
    played = in_ring()
    frame = [Ping(1)]
    effects = played.handle(Received(LinkId(1), frame, plain(*frame)), 1)
    (log,) = [log for log in of(LogEvent, effects) if log.event == "ring_link_closed"]
    assert log.fields["reason"] == "a frame behind its proof is not sealed"


def test_a_proof_that_does_not_fit_is_counted() -> None:
    played = Played(D2, D3)
    proving(played)
    frame = [Proof(bytes(32))]
    played.handle(Received(LinkId(1), frame, plain(*frame)), 0)
    assert played.core.counters.proofs_refused == 1


def test_a_handshake_goes_on_while_much_else_waits_to_be_dealt_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MERGED", 0)
    played = Played(D2, D3)
    _, proof = proving(played)
    played.handle(Received(LinkId(1), proof, plain(*proof)), 0)
    assert played.state(1) is LinkState.EXCHANGING


def test_a_large_host_table_is_told_in_several_messages_to_a_new_neighbour_and_passed_on_so() -> None:
    played = in_ring()
    rows = [HostRow(f"10.9.{n // 250}.{n % 250}", "", True, 9, "", 9, 1, 9, True, 9) for n in range(1200)]
    effects: list[Effect] = []
    for start in range(0, len(rows), ROWS):
        effects += played.hear(2, Hosts(rows[start : start + ROWS]))
    effects += played.until(2)
    passed_on = [m.rows for m in messages(effects, 1) if isinstance(m, Hosts)]
    assert [row for part in passed_on for row in part] == rows
    told = [m.rows for m in played.core._agreement.all_rows() if isinstance(m, Hosts)]
    assert {row.address for part in told for row in part} > {row.address for row in rows}
    later = [msgspec.structs.replace(row, weight=2, weight_at=10) for row in rows]
    from_store = messages(played.handle(StoredHosts(later), 2.5), 1)
    announced = [m.rows for m in from_store if isinstance(m, Hosts)]
    assert sum(map(len, announced)) == len(rows)
    assert all(len(part) <= ROWS for part in [*passed_on, *told, *announced])
