"""Dials, neighbours, and connections that are refused."""

from __future__ import annotations

import pytest

from director.core.protocol.effects import Close, Dial, Effect, LogEvent
from director.core.protocol.events import LinkOpened
from director.core.protocol.messages import Bye, Leaving, Linked, Present, Redirect
from director.core.ring.dials import (
    LEFTLESS,
    PATIENCE,
    RETRY_FIRST,
    RETRY_REFUSED,
    RETRY_UNMET,
    RETRY_UNREACHABLE,
)
from director.core.ring.link import LinkState, Neighbour
from director.core.ring.meetings import AT_ONCE
from director.core.ring.ring import LEAVE_WITHIN, UNPROVED, Ring
from director.types import Address, LinkId, MemberId, Now
from tests.unit.core.cores import at, identity, messages, of

D1, D2, D3, D4, D5 = (MemberId(f"10.0.0.{number}:9090") for number in (1, 2, 3, 4, 5))
ALL = [D1, D2, D3, D4, D5]


def ring(me: MemberId = D3) -> Ring:
    one = Ring(identity(me), ALL)
    one.start()
    return one


def linked(
    one: Ring,
    number: int,
    peer: MemberId,
    *,
    dialled: bool,
    state: LinkState = LinkState.FULL,
    incarnation: int = 1,
) -> Neighbour:
    """A link in a state, without the talk that leads there."""
    address = Address(peer.rpartition(":")[0])
    one.opened(LinkOpened(LinkId(number), b"", address, peer if dialled else None), at(0))
    neighbour = one.links[LinkId(number)]
    neighbour.peer, neighbour.peer_incarnation = peer, incarnation
    neighbour.state, neighbour.was_live = state, state in (LinkState.EXCHANGING, LinkState.FULL)
    return neighbour


def dialled(one: Ring, now: Now) -> list[MemberId]:
    return [dial.member for dial in of(Dial, one.dials(now))]


def reasons(effects: list[Effect]) -> list[object]:
    return [log.fields["reason"] for log in of(LogEvent, effects)]


def test_no_director_is_dialled_before_the_start() -> None:
    one = Ring(identity(D3), ALL)
    assert (dialled(one, at(0)), one.next_deadline()) == ([], None)


@pytest.mark.shows("I-38")
def test_the_nearest_to_the_right_is_dialled_first_and_given_a_moment() -> None:
    one = ring()
    assert dialled(one, at(0)) == [D4]
    assert one.next_deadline() == PATIENCE
    assert dialled(one, at(PATIENCE - 0.01)) == []
    assert dialled(one, at(PATIENCE)) == [D5]


def test_one_that_cannot_be_reached_makes_room_for_the_next_at_once() -> None:
    one = ring()
    one.dials(at(0))
    one.dial_failed(D4, at(0.01))
    assert dialled(one, at(0.01)) == [D5]


@pytest.mark.shows("R-47")
def test_retries_slow_down_to_one_a_second_and_go_on() -> None:
    one = Ring(identity(D1), [D1, D2])
    one.start()
    now, pauses = 0.0, []
    for _ in range(8):
        assert dialled(one, at(now)) == [D2]
        one.dial_failed(D2, at(now))
        due = one.next_deadline()
        assert due is not None
        pauses.append(round(due - now, 3))
        now = due
    assert pauses == [0.1, 0.2, 0.4, 0.8, *[RETRY_UNREACHABLE] * 4]


@pytest.mark.shows("I-51")
def test_one_that_was_reached_and_did_not_want_us_is_left_alone_longer() -> None:
    one = Ring(identity(D1), [D1, D2])
    one.start()
    now = 0.0
    for number in range(10):
        one.dials(at(now))
        linked(one, number, D2, dialled=True, state=LinkState.CLOSED)
        one.review(at(now))
        due = one.next_deadline()
        assert due is not None
        pause, now = due - now, due
    assert pause == RETRY_REFUSED


def test_a_link_that_was_closed_right_after_the_greeting_counts_as_refused() -> None:
    one = Ring(identity(D1), [D1, D2])
    one.start()
    linked(one, 1, D2, dialled=True).close("two directors use the address this")
    one.review(at(0.1))
    assert one.next_deadline() == pytest.approx(0.2)


def test_a_neighbour_that_is_lost_is_dialled_again_at_once() -> None:
    one = Ring(identity(D1), [D1, D2])
    one.start()
    linked(one, 1, D2, dialled=True)
    one.review(at(0))
    one.closed(LinkId(1), "connection closed", at(60))
    one.review(at(60))
    assert dialled(one, at(60)) == [D2]
    assert one.failed_at[D2] == at(60).unix


def test_without_a_right_neighbour_the_first_full_link_makes_one() -> None:
    one = ring()
    far = linked(one, 1, D1, dialled=True)
    one.review(at(0))
    assert one.right is far


@pytest.mark.shows("rule 6", "rule 7")
def test_a_nearer_neighbour_takes_over_only_when_tokens_can_pass_through_it() -> None:
    one = ring()
    far, near = linked(one, 1, D5, dialled=True), linked(one, 2, D4, dialled=True, state=LinkState.EXCHANGING)
    one.review(at(0))
    near.state = LinkState.FULL
    assert (one.review(at(0)), one.right) == ([], far)
    near.linked = True
    effects = one.review(at(0))
    assert (one.right, far.state) == (near, LinkState.CLOSED)
    assert reasons(effects) == [f"{D4} is nearer"]


def test_the_search_goes_on_among_those_who_are_nearer() -> None:
    one = ring()
    linked(one, 1, D5, dialled=True)
    one.review(at(0))
    assert dialled(one, at(1)) == [D4]
    linked(one, 2, D4, dialled=True).linked = True
    one.review(at(1))
    assert (dialled(one, at(1.5)), one.next_deadline() is None) == ([], False)


def test_the_left_neighbour_is_the_nearest_dialler_and_others_are_redirected_to_it() -> None:
    one = ring()
    far, near = linked(one, 1, D1, dialled=False), linked(one, 2, D2, dialled=False)
    effects = one.review(at(0))
    assert one.left is near
    assert messages(effects, far.link) == [Redirect(D2)]
    assert messages(effects, near.link) == []
    assert messages(one.review(at(0)), far.link) == []


def test_left_neighbours_learn_once_that_tokens_can_pass() -> None:
    one = ring()
    linked(one, 1, D2, dialled=False)
    assert messages(one.review(at(0))) == []
    linked(one, 2, D4, dialled=True)
    assert messages(one.review(at(0)), 1) == [Linked()]
    assert messages(one.review(at(0)), 1) == []


def test_a_redirect_of_the_right_neighbour_is_followed_at_once() -> None:
    one = ring()
    one.dials(at(0))
    one.dial_failed(D4, at(0))
    right = linked(one, 1, D5, dialled=True)
    one.review(at(0))
    one.redirected(right, D4, at(0.01))
    assert dialled(one, at(0.01)) == [D4]


@pytest.mark.parametrize("member", ["10.0.0.9:9090", "rubbish", D3])
def test_a_redirect_to_an_unlisted_director_is_ignored(member: str) -> None:
    one = ring()
    right = linked(one, 1, D4, dialled=True)
    one.review(at(0))
    one.redirected(right, MemberId(member), at(0))
    assert dialled(one, at(0)) == []


def test_an_address_that_is_not_in_servers_is_told_so_and_closed() -> None:
    one = ring()
    effects = one.opened(LinkOpened(LinkId(1), b"", Address("10.0.0.9")), at(0))
    assert "10.0.0.9 is not in ring.servers" in str(reasons(effects))
    assert of(Bye, messages(effects)) != []
    assert of(Close, effects) == [Close(LinkId(1))]


@pytest.mark.shows("I-12", "K9")
def test_a_name_that_is_not_in_servers_is_told_so_and_closed() -> None:
    one = ring()
    stranger = linked(one, 1, D2, dialled=False, state=LinkState.PROVING)
    stranger.peer = MemberId("10.0.0.2:7777")
    effects = one.greeted(stranger, at(0))
    assert "10.0.0.2:7777 is not in ring.servers" in str(reasons(effects))
    assert of(Bye, messages(effects)) != []


def test_two_directors_with_one_name_are_told_apart_by_their_start_and_the_second_is_refused() -> None:
    one = ring()
    first = linked(one, 1, D2, dialled=False, incarnation=1)
    second = linked(one, 2, D2, dialled=False, incarnation=2)
    effects = one.greeted(second, at(1))
    assert (first.state, second.state) == (LinkState.FULL, LinkState.CLOSED)
    assert reasons(effects) == [f"two directors use the address {D2}: give each its own in ring.listen"]
    assert of(Bye, messages(effects, 2)) != []


def test_a_director_that_was_started_anew_replaces_the_silent_link_of_its_former_life() -> None:
    one = ring()
    first = linked(one, 1, D2, dialled=False, incarnation=1)
    second = linked(one, 2, D2, dialled=False, incarnation=2)
    one.greeted(second, at(2.0))
    assert (first.state, second.state) == (LinkState.CLOSED, LinkState.FULL)


def test_in_a_ring_of_two_each_dials_the_other_and_both_links_stay() -> None:
    one = Ring(identity(D1), [D1, D2])
    right, left = linked(one, 1, D2, dialled=True), linked(one, 2, D2, dialled=False)
    one.greeted(left, at(0))
    one.review(at(0))
    assert (one.right, one.left) == (right, left)


def test_a_second_link_in_the_same_direction_replaces_the_first() -> None:
    one = ring()
    first, second = linked(one, 1, D2, dialled=False), linked(one, 2, D2, dialled=False)
    one.greeted(second, at(0))
    assert (first.state, second.state) == (LinkState.CLOSED, LinkState.FULL)


def test_a_director_that_could_reach_no_other_is_alone() -> None:
    one = Ring(identity(D1), [D1, D2, D3])
    one.start()
    one.dial_failed(D2, at(0))
    assert not one.alone
    one.dial_failed(D3, at(0))
    assert one.alone
    linked(one, 1, D3, dialled=False, state=LinkState.GREETING)
    assert not one.alone


def test_what_was_known_before_a_freeze_does_not_make_a_director_alone() -> None:
    one = Ring(identity(D1), [D1, D2])
    one.start()
    one.dial_failed(D2, at(0))
    assert dialled(one, at(5)) == [D2]
    one.resumed(at(60))
    one.dial_failed(D2, at(60))
    assert not one.alone
    assert dialled(one, at(60)) == [D2]
    one.dial_failed(D2, at(60))
    assert one.alone


def test_a_good_bye_goes_to_everybody_and_ends_all_dials() -> None:
    one = ring()
    linked(one, 1, D4, dialled=True)
    linked(one, 2, D2, dialled=False)
    effects = one.stop("the director stops")
    assert messages(effects) == [Bye("the director stops", routine=True)] * 2
    one.review(at(1))
    assert dialled(one, at(100)) == []


def to_the_left(one: Ring, now: Now) -> list[MemberId]:
    return [dial.member for dial in of(Dial, one.dials(now)) if dial.leftwards]


def without_a_left(me: MemberId = D3) -> Ring:
    """Linked with the next to the right, without a dial from the left."""
    one = ring(me)
    linked(one, 1, D4, dialled=True)
    one.review(at(0))
    return one


def test_a_director_without_a_left_neighbour_for_two_seconds_dials_leftwards_the_nearest_first() -> None:
    one = without_a_left()
    assert to_the_left(one, at(LEFTLESS - 0.01)) == []
    assert to_the_left(one, at(LEFTLESS)) == [D2]
    assert to_the_left(one, at(LEFTLESS + 0.1)) == []


def test_where_the_nearest_to_the_left_cannot_be_reached_the_next_is_dialled() -> None:
    one = without_a_left()
    one.dials(at(LEFTLESS))
    one.dial_failed(D2, at(LEFTLESS + 0.1), leftwards=True)
    assert to_the_left(one, at(LEFTLESS + 0.2)) == [D1]


def test_all_to_the_left_are_tried_again_after_a_pause() -> None:
    one = without_a_left(D1)
    now = LEFTLESS
    tried = []
    for _ in range(4):
        tried += [member for member in to_the_left(one, at(now))]
        one.dial_failed(tried[-1], at(now), leftwards=True)
        now += 0.1
    assert tried == [D5, D4, D3, D2]
    assert to_the_left(one, at(now)) == []
    assert to_the_left(one, at(now + RETRY_UNREACHABLE)) == [D5]


def test_a_director_that_dials_leftwards_becomes_the_right_neighbour_of_the_director_it_reaches() -> None:
    one = ring()
    asker = linked(one, 1, D4, dialled=False)
    asker.leftwards = True
    one.review(at(0))
    assert (one.right, one.left) == (asker, None)


def test_the_one_dialled_leftwards_is_our_left_neighbour() -> None:
    one = without_a_left()
    one.opened(LinkOpened(LinkId(2), b"", Address("10.0.0.2"), D2, leftwards=True), at(2))
    reached = one.links[LinkId(2)]
    reached.state = LinkState.FULL
    one.review(at(2.1))
    assert one.left is reached
    assert to_the_left(one, at(60)) == []


def leaving_ring() -> tuple[Ring, Neighbour]:
    """d4, our right neighbour, has said good-bye."""
    one = ring()
    right = linked(one, 1, D4, dialled=True, incarnation=3)
    one.review(at(0))
    one.presence.hear(Leaving(D4, 3), right, at(0))
    assert one.departed == {D4}
    return one, right


def test_a_right_neighbour_that_leaves_is_kept_until_tokens_can_pass_through_the_next() -> None:
    one, right = leaving_ring()
    assert dialled(one, at(0.1)) == [D5]
    following = linked(one, 2, D5, dialled=True)
    assert (one.review(at(0.2)), one.right) == ([], right)
    following.linked = True
    effects = one.review(at(0.3))
    assert (one.right, right.state) == (following, LinkState.CLOSED)
    assert reasons(effects) == [f"{D3} is linked with {D5} now"]


def test_the_link_with_a_leaving_right_neighbour_is_closed_if_no_other_director_can_be_reached() -> None:
    one, right = leaving_ring()
    for member in (D5, D1, D2):
        one.dial_failed(member, at(0.1))
    one.review(at(0.1))
    assert (one.right, right.state) == (right, LinkState.CLOSED)
    one.review(at(0.1))
    assert one.right is None


def test_a_member_that_has_said_good_bye_is_not_dialled_until_it_says_that_it_is_there() -> None:
    one = ring()
    other = linked(one, 1, D2, dialled=False)
    one.presence.hear(Leaving(D4, 3), other, at(0))
    assert dialled(one, at(0)) == [D5]
    one.presence.hear(Present(D4, 4), other, at(1))
    assert D4 in one.expected()


def with_unmet() -> Ring:
    """d4 and d5 were added and never seen."""
    one = ring()
    one.set_servers(ALL, unmet=[D4, D5])
    return one


def test_a_right_neighbour_that_names_a_member_again_and_again_has_it_dialled_once_a_second() -> None:
    one = ring(D1)
    right = linked(one, 1, D5, dialled=True)
    one.review(at(0))
    for _ in range(5):
        for member in (D2, D3, D4):
            one.dial_failed(member, at(0))
    named = 0
    for step in range(250):
        now = at(5 + step / 100)
        one.redirected(right, D2, now)
        if one._dials._next_try[D2] == now.mono:
            named += 1
    assert named == 3


def test_members_that_were_never_met_are_dialled_behind_all_others_while_there_is_no_right_neighbour() -> (
    None
):
    one = with_unmet()
    assert dialled(one, at(0)) == [D1]
    assert dialled(one, at(PATIENCE)) == [D2]
    assert dialled(one, at(2 * PATIENCE)) == [D4]


def test_a_director_is_alone_although_members_that_were_never_met_were_not_tried() -> None:
    one = with_unmet()
    for member in (D1, D2):
        one.dial_failed(member, at(0))
    assert one.alone
    assert one.counted == [D1, D2, D3]


def test_a_member_that_was_never_met_counts_from_its_first_link_on() -> None:
    one = with_unmet()
    linked(one, 1, D4, dialled=True)
    assert one.meet() == {D4}
    assert one.counted == [D1, D2, D3, D4]
    one.named = ALL
    assert one.meet() == set()
    assert one.counted == [D1, D2, D3, D4]
    linked(one, 2, D5, dialled=False)
    assert one.meet() == {D5}
    assert one.counted == ALL


def test_a_member_that_was_met_counts_by_the_store_too() -> None:
    one = with_unmet()
    assert one.meet([D5, D1]) == {D5}
    assert one.counted == [D1, D2, D3, D5]


MANY = [MemberId(f"127.0.5.{number}:9090") for number in range(1, 200)]
"""Directors that were added, or made up."""


def with_many(named: list[MemberId]) -> Ring:
    """d4 is the right neighbour, d2 the left one; many directors were added, and a token has named these."""
    one = ring()
    one.set_servers([*ALL, *MANY], unmet=MANY)
    for neighbour in (linked(one, 1, D4, dialled=True), linked(one, 2, D2, dialled=False)):
        neighbour.heard, neighbour._ping_sent = 5000.0, at(5000)
    one.review(at(0))
    one.named = named
    return one


def test_a_director_that_a_token_names_is_dialled_although_it_is_no_neighbour_and_no_other_is() -> None:
    one = with_many([D1, D4, MANY[7]])
    assert dialled(one, at(0)) == [MANY[7]]
    assert dialled(one, at(5)) == []
    one.dial_failed(MANY[7], at(5))
    assert one.next_deadline() == 5 + RETRY_FIRST
    assert dialled(one, at(5 + RETRY_FIRST)) == [MANY[7]]


@pytest.mark.shows("rule 47")
def test_a_link_that_was_made_to_meet_a_director_is_closed_once_it_is_proved_and_not_before() -> None:
    one = with_many([MANY[7]])
    assert dialled(one, at(0)) == [MANY[7]]
    link = linked(one, 3, MANY[7], dialled=True, state=LinkState.PROVING)
    assert one.meet() == set()
    assert one.review(at(0.1)) == []
    link.state, link.was_live = LinkState.EXCHANGING, True
    assert one.meet() == {MANY[7]}
    assert reasons(one.review(at(0.2))) == [f"{D4} is nearer"]
    assert one.right is not None
    assert one.right.peer == D4
    one.review(at(0.3))
    assert one.failed_at == {}
    assert dialled(one, at(100)) == []


@pytest.mark.shows("rule 47")
def test_a_few_directors_at_once_are_dialled_to_be_met_and_each_every_thirty_seconds_at_last() -> None:
    one = with_many(MANY)
    dials: list[MemberId] = []
    under_way: list[tuple[float, MemberId]] = []
    for step in range(10 * 300):
        now = step / 10
        for begun, member in list(under_way):
            if now >= begun + 2:  # no director answers
                under_way.remove((begun, member))
                one.dial_failed(member, at(now))
        new = dialled(one, at(now))
        dials += new
        under_way += [(now, member) for member in new]
        assert len(under_way) <= AT_ONCE
    assert set(dials) == set(MANY)
    assert len(dials) <= 300 / 2 * AT_ONCE


def test_a_director_that_was_not_tried_yet_is_met_before_those_that_were_tried_in_vain() -> None:
    one = with_many(MANY[:-1])
    for step in range(1200):
        for member in dialled(one, at(step)):
            one.dial_failed(member, at(step))
    one.named = MANY
    assert MANY[-1] in dialled(one, at(1200))


def test_a_member_that_was_never_met_is_dialled_every_thirty_seconds_at_last() -> None:
    one = with_unmet()
    for _ in range(20):
        one.dial_failed(D4, at(100))
        one.dial_failed(D1, at(100))
    assert D4 not in dialled(one, at(100 + RETRY_UNMET - 0.1))
    linked(one, 1, D5, dialled=True)
    one.review(at(129))
    assert dialled(one, at(100 + RETRY_UNMET)) == [D4]


def test_a_director_that_leaves_announces_it_dials_no_director_and_waits_for_its_left_neighbours() -> None:
    one = ring()
    linked(one, 1, D4, dialled=True)
    left = linked(one, 2, D2, dialled=False)
    one.review(at(0))
    assert of(Leaving, messages(one.leave(at(5)))) == [Leaving(D3, 7)] * 2
    assert (one.has_left(at(5.5)), one.has_left(at(5 + LEAVE_WITHIN))) == (False, True)
    assert dialled(one, at(60)) == []
    left.close("linked with another now")
    assert one.has_left(at(5.6))


def test_a_removed_director_dials_no_director_and_its_links_end() -> None:
    one = ring()
    link = linked(one, 1, D4, dialled=True)
    one.review(at(0))
    one.set_servers([D1, D2, D3, D5])
    assert link.state is LinkState.CLOSED
    one.set_servers([D1, D2, D5])
    one.review(at(1))
    assert (one.removed, of(Dial, one.dials(at(100)))) == (True, [])


@pytest.mark.parametrize("begun", [0.1, 0.7, 1.1, 3.3])
def test_a_deadline_that_has_come_is_dealt_with_whatever_the_rounding(begun: float) -> None:
    one = ring()
    one.dials(at(begun))
    for _ in range(3):
        due = one.next_deadline()
        assert due is not None
        one.dials(at(due))
        after = one.next_deadline()
        assert after is None or after > due


@pytest.mark.shows("A-25")
def test_of_many_connections_from_one_address_that_prove_nothing_the_oldest_are_closed() -> None:
    one = ring()
    standing = linked(one, 1, D2, dialled=False)
    effects: list[Effect] = []
    for number in range(2, 102):
        effects += one.opened(LinkOpened(LinkId(number), b"", Address("10.0.0.2")), at(0))
    effects += one.opened(LinkOpened(LinkId(102), b"", Address("10.0.0.4")), at(0))
    closed = [close.link for close in of(Close, effects)]
    assert closed == list(range(2, 102 - UNPROVED))
    assert standing.live
    assert len(set(reasons(effects))) == 1
    assert "10.0.0.2 has more than 16 unproved connections; the oldest is closed" in str(reasons(effects))
