"""Logins that wait."""

from __future__ import annotations

import pytest

from director.core.logins.pending import PENDING_TIMEOUT, Pending
from director.core.placement.assign import Wait
from director.core.protocol.events import Lookup
from director.types import RequestId, UserKey


def waiting(*logins: tuple[int, int, float]) -> Pending:
    """Logins as (request, user, since)."""
    pending = Pending()
    for request, key, since in logins:
        pending.add(Lookup(RequestId(request), UserKey(key), b"", b""), since, Wait.RING)
    return pending


def requests(pending: Pending, limit: int = 100) -> list[int]:
    return [one.request for one in pending.to_try(limit)]


@pytest.mark.shows("I-16")
def test_each_login_has_its_own_thirty_seconds() -> None:
    pending = waiting((1, 7, 100.0), (2, 8, 117.0))
    assert pending.next_deadline() == 100 + PENDING_TIMEOUT
    assert [one.request for one in pending.overdue(130.0, 9)] == [1]
    assert pending.next_deadline() == 117 + PENDING_TIMEOUT
    assert [one.request for one in pending.overdue(146.9, 9)] == []
    assert [one.request for one in pending.overdue(147.0, 9)] == [2]
    assert (len(pending), pending.next_deadline()) == (0, None)


def test_logins_that_time_out_together_are_taken_out_some_at_a_time() -> None:
    pending = waiting(*((number, number, 0) for number in range(5)))
    assert [one.request for one in pending.overdue(31, 2)] == [0, 1]
    assert [one.request for one in pending.overdue(31, 9)] == [2, 3, 4]


def test_no_login_is_tried_again_before_a_wake() -> None:
    pending = waiting((1, 7, 0), (2, 8, 0))
    assert not pending.awake
    assert requests(pending) == []


def test_a_wake_tries_everybody_in_slices_in_order_of_arrival() -> None:
    pending = waiting((1, 7, 0), (2, 8, 0), (3, 9, 0))
    pending.wake()
    assert (requests(pending, 2), pending.awake) == ([1, 2], True)
    assert (requests(pending, 2), pending.awake) == ([3], False)


@pytest.mark.shows("A-40")
def test_wakes_that_keep_coming_do_not_hold_up_the_last_in_the_line() -> None:
    pending = waiting(*((number, number, 0) for number in range(10)))
    tried = set()
    for _ in range(5):
        pending.wake()
        tried.update(requests(pending, 2))
    assert tried == set(range(10))


@pytest.mark.shows("A-40")
def test_those_tried_before_another_wake_are_tried_again_behind_the_others() -> None:
    pending = waiting((1, 7, 0), (2, 8, 0), (3, 9, 0))
    pending.wake()
    assert requests(pending, 2) == [1, 2]
    pending.wake()
    assert requests(pending, 2) == [3]
    assert (requests(pending), pending.awake) == ([1, 2], False)


def test_a_login_woken_alone_and_with_all_logins_is_tried_once() -> None:
    pending = waiting((1, 7, 0), (2, 8, 0), (3, 9, 0))
    pending.wake()
    pending.wake_users([UserKey(9), UserKey(8)])
    assert requests(pending) == [3, 2, 1]
    assert not pending.awake


def test_users_woken_alone_without_end_do_not_hold_up_everybody() -> None:
    pending = waiting(*((number, number, 0) for number in range(20)))
    pending.wake()
    tried = set()
    for _ in range(10):
        pending.wake_users(UserKey(number) for number in range(10))
        tried.update(requests(pending, 4))
    assert tried == set(range(20))


def test_a_login_just_answered_for_its_user_is_not_tried_with_everybody_woken_before() -> None:
    pending = waiting((1, 7, 0), (2, 8, 0))
    pending.wake()
    pending.calm(UserKey(7))
    assert requests(pending) == [2]


def test_logins_that_come_after_a_wake_are_not_tried_with_it() -> None:
    pending = waiting((1, 7, 0))
    pending.wake()
    pending.add(Lookup(RequestId(2), UserKey(8), b"", b""), 0, Wait.RING)
    assert requests(pending) == [1]


def test_a_change_of_one_user_wakes_the_logins_of_this_user_only() -> None:
    pending = waiting((1, 7, 0), (2, 8, 0), (3, 7, 0))
    pending.wake_users([UserKey(7), UserKey(99)])
    assert requests(pending) == [1, 3]


def test_a_login_that_is_gone_is_neither_tried_nor_refused() -> None:
    pending = waiting((1, 7, 0), (2, 8, 0))
    pending.wake()
    pending.drop([RequestId(1), RequestId(99)])
    assert requests(pending) == [2]
    assert [one.request for one in pending.overdue(31, 9)] == [2]
    assert pending.of(UserKey(7)) == []


def test_all_logins_of_a_user_are_found_the_oldest_first() -> None:
    pending = waiting((1, 7, 0), (2, 8, 1), (3, 7, 2))
    assert [one.request for one in pending.of(UserKey(7))] == [1, 3]


def test_what_logins_wait_for_is_counted_through_every_way_in_and_out() -> None:
    pending = waiting((1, 7, 0), (2, 8, 0), (3, 8, 0))
    assert pending.reasons() == {Wait.RING: 3}
    pending.set_reason(pending.of(UserKey(7))[0], Wait.NO_HOST)
    assert pending.reasons() == {Wait.RING: 2, Wait.NO_HOST: 1}
    pending.drop([RequestId(2), RequestId(2), RequestId(9)])
    assert pending.reasons() == {Wait.RING: 1, Wait.NO_HOST: 1}
    assert len(list(pending.overdue(31, 9))) == 2
    assert pending.reasons() == {}
