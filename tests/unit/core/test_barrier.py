"""The token that goes round twice."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from director.core.protocol.messages import Token
from director.core.protocol.ringtimings import TOKEN_AGAIN
from director.core.ring.barrier import FIRST_LAPS, PROBE_EVERY, Barrier
from director.types import MemberId, Now

NAMES = [MemberId(f"10.0.0.{number}:9090") for number in (1, 2, 3)]
OLD, NEW = b"old host", b"new host"


def at(mono: float) -> Now:
    return Now(mono, 1_000_000 + mono)


def ring(digest: bytes = OLD) -> list[Barrier]:
    """Three members that have agreed on `digest`."""
    barriers = [Barrier(name) for name in NAMES]
    for barrier in barriers:
        barrier.release(tuple(NAMES), at(0), digest)
    return barriers


def waiting(barriers: list[Barrier], when: float = 1.0) -> Token:
    """All wait after a host change made by the first; its token."""
    for number, barrier in enumerate(barriers):
        barrier.wait(at(when), at_once=number == 0)
    token = barriers[0].due(at(when), NEW)
    assert token is not None
    return token


@pytest.mark.shows("rule 8")
def test_the_first_lap_shows_that_all_have_the_table_and_releases_no_user() -> None:
    barriers = ring()
    token: Token | None = waiting(barriers)
    for barrier in barriers[1:]:
        assert token is not None
        token = barrier.pass_on(token, at(1.1), NEW)
    assert token is not None
    assert (token.lap, token.passed) == (1, NAMES)
    assert [barrier.synced for barrier in barriers] == [False] * 3


@pytest.mark.shows("rule 11")
def test_the_second_lap_releases_one_after_the_other_and_its_members_are_the_ring() -> None:
    barriers = ring()
    token: Token | None = waiting(barriers)
    released = []
    for barrier in [*barriers[1:], *barriers, barriers[0]]:
        assert token is not None
        token = barrier.pass_on(token, at(1.1), NEW)
        released.append([b.synced for b in barriers].count(True))
    assert token is None
    assert released == [0, 0, 0, 1, 2, 3]
    assert {barrier.ring for barrier in barriers} == {tuple(NAMES)}


def test_the_ring_is_in_ring_order_whichever_director_began() -> None:
    barrier = Barrier(NAMES[2])
    barrier.wait(at(1), at_once=True)
    token = barrier.due(at(1), NEW)
    assert token is not None
    barrier.release((NAMES[2], NAMES[0], NAMES[1]), at(2), NEW)
    assert barrier.ring == tuple(NAMES)


@pytest.mark.shows("rule 8")
def test_a_token_dies_where_the_table_is_another_in_either_lap() -> None:
    barriers = ring()
    first = waiting(barriers)
    second = Token(NAMES[0], first.serial, 2, NEW, list(NAMES))
    assert barriers[1].pass_on(first, at(1.1), OLD) is None
    assert barriers[1].pass_on(second, at(1.1), OLD) is None
    assert not barriers[1].synced


def test_a_director_that_waits_repeats_its_token_within_300_ms() -> None:
    barriers = ring()
    first = waiting(barriers)
    assert barriers[0].next_deadline() == 1.0 + TOKEN_AGAIN
    assert barriers[0].due(at(1.29), NEW) is None
    again = barriers[0].due(at(1.3), NEW)
    assert again is not None
    assert again.serial > first.serial
    assert barriers[1].next_deadline() == 1.0 + TOKEN_AGAIN


def test_a_ring_in_which_two_laps_take_longer_than_the_pause_between_two_tokens_still_agrees() -> None:
    barriers = ring()
    first = waiting(barriers)
    assert barriers[0].due(at(1.3), NEW) is not None
    full = Token(NAMES[0], first.serial, 1, NEW, list(NAMES))
    assert barriers[0].pass_on(full, at(1.5), NEW) == Token(NAMES[0], first.serial, 2, NEW, list(NAMES))


def test_an_own_token_from_before_the_last_change_counts_no_more() -> None:
    barriers = ring()
    first = waiting(barriers)
    barriers[0].wait(at(1.1), at_once=True)
    full = Token(NAMES[0], first.serial, 1, NEW, list(NAMES))
    assert barriers[0].pass_on(full, at(1.2), NEW) is None


def test_a_token_of_an_earlier_life_counts_no_more() -> None:
    barrier = Barrier(NAMES[0], first_serial=1 << 24)
    barrier.wait(at(1), at_once=True)
    barrier.due(at(1), NEW)
    assert barrier.pass_on(Token(NAMES[0], 1, 2, NEW, list(NAMES)), at(1.1), NEW) is None
    assert not barrier.synced


def test_a_first_lap_that_meets_a_member_again_without_having_found_its_origin_dies() -> None:
    barrier = ring()[1]
    token = Token(NAMES[0], 1, 1, OLD, [NAMES[0], NAMES[1], NAMES[2]])
    assert barrier.pass_on(token, at(1), OLD) is None


def test_a_second_lap_does_not_release_a_user_who_was_not_in_the_first() -> None:
    barrier = ring()[1]
    barrier.wait(at(1), at_once=False)
    token = Token(NAMES[0], 1, 2, OLD, [NAMES[0], NAMES[2]])
    assert barrier.pass_on(token, at(1), OLD) is None
    assert not barrier.synced


def test_a_second_lap_whose_origin_has_died_does_not_go_round_without_end() -> None:
    barriers = ring()
    second = after_its_first_lap(barriers)
    assert barriers[1].pass_on(second, at(1.1), NEW) == second
    assert barriers[2].pass_on(second, at(1.1), NEW) == second
    assert barriers[1].pass_on(second, at(1.2), NEW) is None


def after_its_first_lap(barriers: list[Barrier]) -> Token:
    """The second lap of the first member's token, which has not left there."""
    token: Token | None = waiting(barriers)
    for barrier in [*barriers[1:], barriers[0]]:
        assert token is not None
        token = barrier.pass_on(token, at(1.1), NEW)
    assert token is not None
    return token


@pytest.mark.shows("rule 8")
def test_a_second_lap_whose_first_lap_has_not_passed_here_releases_no_user() -> None:
    barrier = ring()[1]
    barrier.wait(at(1), at_once=False)
    for origin in (NAMES[0], NAMES[2], MemberId("10.0.0.9:9090")):
        forged = Token(origin, 1, 2, NEW, list(NAMES))
        assert barrier.pass_on(forged, at(1.1), NEW) is None
    assert not barrier.synced


def test_a_second_lap_of_another_table_than_its_first_lap_releases_no_user() -> None:
    barriers = ring()
    second = after_its_first_lap(barriers)
    barriers[1].wait(at(1.2), at_once=True)
    later = b"a later table"
    assert barriers[1].pass_on(replace(second, digest=later), at(1.3), later) is None
    assert not barriers[1].synced


@pytest.mark.parametrize(
    "members",
    [NAMES[1:], [NAMES[1], NAMES[0], NAMES[2]], [NAMES[0], NAMES[1]], [NAMES[0], NAMES[1], "10.0.0.9:9090"]],
)
def test_a_second_lap_about_other_members_than_its_first_lap_releases_no_user(members: list[str]) -> None:
    barriers = ring()
    barriers[1].right = NAMES[2]
    second = after_its_first_lap(barriers)
    assert barriers[1].pass_on(replace(second, passed=members), at(1.2), NEW) is None
    assert not barriers[1].synced
    assert barriers[1].pass_on(second, at(1.3), NEW) == second


def test_an_own_token_that_comes_back_in_the_second_lap_without_the_first_counts_not() -> None:
    barriers = ring()
    first = waiting(barriers)
    assert barriers[0].pass_on(replace(first, lap=2, passed=list(NAMES)), at(1.1), NEW) is None
    assert not barriers[0].synced


def test_an_own_token_that_has_not_been_at_the_right_neighbour_counts_not() -> None:
    barriers = ring()
    barriers[0].right = NAMES[1]
    first = waiting(barriers)
    assert barriers[0].pass_on(replace(first, passed=[NAMES[0], NAMES[2]]), at(1.1), NEW) is None


def test_endless_first_laps_use_no_endless_memory() -> None:
    barrier = ring()[1]
    for serial in range(3 * FIRST_LAPS):
        barrier.pass_on(Token(NAMES[0], serial, 1, OLD, [NAMES[0]]), at(1), OLD)
    assert len(barrier._first_laps) == FIRST_LAPS


def test_a_released_member_sends_no_more_tokens() -> None:
    barrier = ring()[0]
    assert barrier.next_deadline() is None
    assert barrier.due(at(9), OLD) is None


def test_a_probe_is_sent_once_without_waiting() -> None:
    barrier = ring()[0]
    barrier.probe(at(5))
    assert barrier.due(at(5), OLD) is not None
    assert barrier.due(at(9), OLD) is None
    assert barrier.synced


@pytest.mark.shows("rule 14")
def test_after_a_silent_loss_a_host_change_is_neither_begun_nor_passed_before_everybody_noticed() -> None:
    barriers = ring()
    token = waiting(barriers)
    for barrier in barriers:
        barrier.hold(7.0)
    assert barriers[1].pass_on(token, at(6.9), NEW) is None
    assert barriers[0].due(at(6.9), NEW) is None
    assert barriers[1].pass_on(token, at(7.0), NEW) is not None
    assert barriers[0].due(at(7.3), NEW) is not None


def test_after_a_silent_loss_the_ring_closes_at_once_where_no_host_has_changed() -> None:
    barrier = ring()[0]
    barrier.hold(7.0)
    barrier.wait(at(1), at_once=True)
    assert barrier.due(at(1), OLD) is not None


def test_how_long_a_wait_took_is_kept_for_the_metrics() -> None:
    barrier = ring()[0]
    barrier.wait(at(1), at_once=True)
    barrier.wait(at(2), at_once=True)
    barrier.release(tuple(NAMES), at(3.5), NEW)
    assert (list(barrier.durations), barrier.took_ms, barrier.waiting_since) == ([2.5], 2500, None)
    assert barrier.synced_at == 3.5


def test_a_director_in_sync_that_misses_a_member_sends_a_token_every_five_seconds() -> None:
    barrier = ring()[0]
    barrier.probe_if_missing(at(1), missing=True)
    assert barrier.next_deadline() == 1 + PROBE_EVERY
    barrier.probe_if_missing(at(0.9 + PROBE_EVERY), missing=True)
    assert barrier.due(at(0.9 + PROBE_EVERY), OLD) is None
    barrier.probe_if_missing(at(1 + PROBE_EVERY), missing=True)
    assert barrier.due(at(1 + PROBE_EVERY), OLD) is not None
    barrier.probe_if_missing(at(2 + PROBE_EVERY), missing=False)
    assert barrier.next_deadline() is None


# The lowest limit of users


def go_round(barriers: list[Barrier], token: Token | None, when: float) -> None:
    """Carry a token from member to member until no member passes it on."""
    place = NAMES.index(MemberId(token.origin)) if token is not None else 0
    for _ in range(10):
        if token is None:
            return
        place = (place + 1) % len(barriers)
        token = barriers[place].pass_on(token, at(when), NEW)
    raise AssertionError("it goes round without end")


def limited(*limits: int) -> list[Barrier]:
    """A ring in sync of members with these limits."""
    barriers = [Barrier(name) for name in NAMES]
    for barrier, limit in zip(barriers, limits, strict=True):
        barrier.set_limit(limit)
        assert barrier.limit == limit
    token = waiting(barriers)
    go_round(barriers, token, 1.1)
    return barriers


def limits(barriers: list[Barrier]) -> list[int]:
    return [barrier.limit for barrier in barriers]


@pytest.mark.shows("rule 48", "A-31")
def test_the_lowest_limit_in_the_ring_holds_once_the_ring_is_in_sync() -> None:
    for own in ((10, 20, 30), (30, 10, 20), (20, 30, 10), (0, 30, 10)):
        barriers = limited(*own)
        assert limits(barriers) == [10] * 3
        assert [barrier.synced for barrier in barriers] == [True] * 3
    assert limits(limited(0, 0, 0)) == [0] * 3


@pytest.mark.shows("rule 48")
def test_a_limit_that_is_lowered_holds_at_once_and_everywhere_after_a_token() -> None:
    barriers = limited(30, 20, 30)
    barriers[2].set_limit(10)
    assert limits(barriers) == [20, 20, 10]
    go_round(barriers, barriers[2].due(at(2), NEW), 2.1)
    assert limits(barriers) == [10] * 3
    assert [barrier.next_deadline() for barrier in barriers] == [None] * 3


def test_a_limit_that_is_raised_holds_when_all_have_said_theirs() -> None:
    barriers = limited(30, 10, 20)
    barriers[1].set_limit(40)
    assert limits(barriers) == [10] * 3
    go_round(barriers, barriers[1].due(at(2), NEW), 2.1)
    assert limits(barriers) == [20] * 3


@pytest.mark.shows("rule 48")
def test_the_token_with_a_new_limit_is_repeated_until_it_returns_although_no_user_waits() -> None:
    barriers = limited(30, 30, 30)
    barriers[0].set_limit(10)
    assert barriers[0].due(at(2), NEW) is not None, "it is lost"
    again = barriers[0].due(at(2 + TOKEN_AGAIN), NEW)
    go_round(barriers, again, 2.5)
    assert limits(barriers) == [10] * 3
    assert barriers[0].due(at(9), NEW) is None


def test_the_limit_of_a_member_that_is_gone_holds_no_more() -> None:
    barriers = limited(30, 10, 20)[::2]
    for barrier in barriers:
        barrier.wait(at(2), at_once=True)
    token = barriers[0].due(at(2), NEW)
    for barrier in (barriers[1], barriers[0], barriers[1], barriers[0]):
        assert token is not None
        token = barrier.pass_on(token, at(2.1), NEW)
    assert limits(barriers) == [20, 20]
    barriers[1].release((NAMES[2],), at(3), NEW)
    assert barriers[1].limit == 20, "alone: its own"
