"""Who is dialled, who is the neighbour, who is sent away."""

from __future__ import annotations

import pytest

from director.core.effects import Close, Dial, Effect, Log
from director.core.member import Neighbour, State
from director.core.messages import Bye, Linked, Redirect
from director.core.ring import PATIENCE, RETRY_REFUSED, RETRY_UNREACHABLE, Ring
from director.types import Address, LinkId, MemberId, Now
from tests.unit.core.cores import at, identity, messages, of

D1, D2, D3, D4, D5 = (MemberId(f"10.0.0.{number}:9090") for number in (1, 2, 3, 4, 5))
ALL = [D1, D2, D3, D4, D5]


def ring(me: MemberId = D3) -> Ring:
    one = Ring(identity(me), ALL)
    one.start()
    return one


def linked(
    one: Ring, number: int, peer: MemberId, *, dialled: bool, state: State = State.FULL, incarnation: int = 1
) -> Neighbour:
    """A link in a state, without the talk that leads there."""
    address = Address(peer.rpartition(":")[0])
    one.opened(LinkId(number), address, peer if dialled else None, b"", at(0))
    neighbour = one.links[LinkId(number)]
    neighbour.peer, neighbour.peer_incarnation = peer, incarnation
    neighbour.state, neighbour.was_live = state, state in (State.EXCHANGING, State.FULL)
    return neighbour


def dialled(one: Ring, now: Now) -> list[MemberId]:
    return [dial.member for dial in of(Dial, one.dials(now))]


def reasons(effects: list[Effect]) -> list[object]:
    return [log.fields["reason"] for log in of(Log, effects)]


def test_nobody_is_dialled_before_the_start() -> None:
    one = Ring(identity(D3), ALL)
    assert (dialled(one, at(0)), one.next_deadline()) == ([], None)


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


def test_one_that_was_reached_and_did_not_want_us_is_left_alone_longer() -> None:
    one = Ring(identity(D1), [D1, D2])
    one.start()
    now = 0.0
    for number in range(10):
        one.dials(at(now))
        linked(one, number, D2, dialled=True, state=State.CLOSED)
        one.review(at(now))
        due = one.next_deadline()
        assert due is not None
        pause, now = due - now, due
    assert pause == RETRY_REFUSED


def test_a_link_that_was_closed_right_after_the_greeting_counts_as_refused() -> None:
    one = Ring(identity(D1), [D1, D2])
    one.start()
    linked(one, 1, D2, dialled=True).close("two directors say they are this")
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


def test_a_nearer_neighbour_takes_over_only_when_tokens_can_pass_through_it() -> None:
    one = ring()
    far, near = linked(one, 1, D5, dialled=True), linked(one, 2, D4, dialled=True, state=State.EXCHANGING)
    one.review(at(0))
    near.state = State.FULL
    assert (one.review(at(0)), one.right) == ([], far)
    near.linked = True
    effects = one.review(at(0))
    assert (one.right, far.state) == (near, State.CLOSED)
    assert reasons(effects) == [f"{D4} is nearer"]


def test_the_search_goes_on_among_those_who_are_nearer() -> None:
    one = ring()
    linked(one, 1, D5, dialled=True)
    one.review(at(0))
    assert dialled(one, at(1)) == [D4]
    linked(one, 2, D4, dialled=True).linked = True
    one.review(at(1))
    assert (dialled(one, at(2)), one.next_deadline() is None) == ([], False)


def test_the_left_neighbour_is_the_nearest_who_has_dialled_us_and_others_are_sent_to_him() -> None:
    one = ring()
    far, near = linked(one, 1, D1, dialled=False), linked(one, 2, D2, dialled=False)
    effects = one.review(at(0))
    assert one.left is near
    assert messages(effects, far.link) == [Redirect(D2)]
    assert messages(effects, near.link) == []
    assert messages(one.review(at(0)), far.link) == []


def test_those_on_the_left_are_told_once_that_tokens_can_pass() -> None:
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
def test_a_redirect_to_somebody_unlisted_is_ignored(member: str) -> None:
    one = ring()
    right = linked(one, 1, D4, dialled=True)
    one.review(at(0))
    one.redirected(right, MemberId(member), at(0))
    assert dialled(one, at(0)) == []


def test_an_address_that_is_not_in_servers_is_told_so_and_closed() -> None:
    one = ring()
    effects = one.opened(LinkId(1), Address("10.0.0.9"), None, b"", at(0))
    assert "10.0.0.9 is not in ring.servers" in str(reasons(effects))
    assert of(Bye, messages(effects)) != []
    assert of(Close, effects) == [Close(LinkId(1))]


def test_a_name_that_is_not_in_servers_is_told_so_and_closed() -> None:
    one = ring()
    stranger = linked(one, 1, D2, dialled=False, state=State.PROVING)
    stranger.peer = MemberId("10.0.0.2:7777")
    effects = one.greeted(stranger, at(0))
    assert "10.0.0.2:7777 is not in ring.servers" in str(reasons(effects))
    assert of(Bye, messages(effects)) != []


def test_two_directors_with_one_name_are_told_apart_by_their_start_and_the_second_is_refused() -> None:
    one = ring()
    first = linked(one, 1, D2, dialled=False, incarnation=1)
    second = linked(one, 2, D2, dialled=False, incarnation=2)
    effects = one.greeted(second, at(1))
    assert (first.state, second.state) == (State.FULL, State.CLOSED)
    assert reasons(effects) == [f"two directors say they are {D2}: give each its own address"]
    assert of(Bye, messages(effects, 2)) != []


def test_a_director_that_was_started_anew_replaces_the_silent_link_of_its_former_life() -> None:
    one = ring()
    first = linked(one, 1, D2, dialled=False, incarnation=1)
    second = linked(one, 2, D2, dialled=False, incarnation=2)
    one.greeted(second, at(2.0))
    assert (first.state, second.state) == (State.CLOSED, State.FULL)


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
    assert (first.state, second.state) == (State.CLOSED, State.FULL)


def test_alone_is_who_could_reach_nobody() -> None:
    one = Ring(identity(D1), [D1, D2, D3])
    one.start()
    one.dial_failed(D2, at(0))
    assert not one.alone
    one.dial_failed(D3, at(0))
    assert one.alone
    linked(one, 1, D3, dialled=False, state=State.GREETING)
    assert not one.alone


def test_what_was_known_before_a_freeze_does_not_make_a_director_alone() -> None:
    one = Ring(identity(D1), [D1, D2])
    one.start()
    one.dial_failed(D2, at(0))
    assert dialled(one, at(5)) == [D2]
    one.thawed(at(60))
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
