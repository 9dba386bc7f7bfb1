"""The table of docs/operating.md, "When things fail": who may place new users, and how."""

from __future__ import annotations

import pytest

from director.core.ring.barrier import Barrier
from director.core.ring.partition import CLAIM_AFTER, Partition, Standing, judge
from director.types import MemberId, Now

A, B, C, D = (MemberId(f"10.0.0.{number}:9090") for number in (1, 2, 3, 4))


@pytest.mark.shows("rule 12", "rule 13")
@pytest.mark.parametrize(
    ("listed", "ring", "leases", "waited", "standing"),
    [
        # the ring is whole: no store is asked
        ([A], [A], None, False, Standing.COMPLETE),
        ([A, B, C], [A, B, C], None, False, Standing.COMPLETE),
        ([A, B, C], [A, B, C], {A, B, C}, False, Standing.COMPLETE),
        ([A, B, C], [A, B, C], set(), False, Standing.COMPLETE),
        # a shared store says that the missing are dead
        ([A, B, C], [A, B], {A, B}, False, Standing.COMPLETE),
        ([A, B, C], [C], {C}, False, Standing.COMPLETE),
        ([A, B, C], [C], set(), False, Standing.COMPLETE),
        # one of them holds a lease: claims, on every side
        ([A, B, C], [A, B], {A, B, C}, False, Standing.CLAIM),
        ([A, B, C], [C], {B, C}, False, Standing.CLAIM),
        ([A, B, C], [C], {A, B, C}, True, Standing.CLAIM),
        # no leases are known: more than half continues at once
        ([A, B, C], [B, C], None, False, Standing.MAJORITY),
        ([A, B, C], [C], None, False, Standing.WAIT),
        ([A, B, C], [C], None, True, Standing.ISOLATED),
        # at half the side with the lowest address
        ([A, B], [A], None, False, Standing.MAJORITY),
        ([A, B], [B], None, False, Standing.WAIT),
        ([A, B, C, D], [A, D], None, False, Standing.MAJORITY),
        ([A, B, C, D], [B, C], None, False, Standing.WAIT),
        ([A, B, C, D], [B, C, D], None, False, Standing.MAJORITY),
        ([A, B, C, D], [D], None, True, Standing.ISOLATED),
    ],
)
def test_the_standing_follows_from_ring_leases_and_patience(
    listed: list[MemberId],
    ring: list[MemberId],
    leases: set[MemberId] | None,
    waited: bool,
    standing: Standing,
) -> None:
    alive = None if leases is None else frozenset(leases)
    assert judge(listed, ring, alive, waited=waited) is standing


def at(mono: float) -> Now:
    return Now(mono, 1_000_000 + mono)


def released(*ring: MemberId) -> Barrier:
    barrier = Barrier(ring[0])
    barrier.release(ring, at(0), b"digest")
    return barrier


def test_the_minority_side_waits_for_isolation_wait_and_no_longer() -> None:
    partition, barrier = Partition([A, B, C], isolation_wait=20), released(C)
    partition.review(barrier, at(100), ())
    assert (partition.standing, partition.next_deadline(barrier)) == (Standing.WAIT, 120)
    partition.review(barrier, at(119.9), ())
    assert partition.standing is Standing.WAIT
    partition.review(barrier, at(120), ())
    assert (partition.standing, partition.next_deadline(barrier)) == (Standing.ISOLATED, None)


@pytest.mark.shows("I-7")
def test_a_ring_that_was_complete_meanwhile_waits_for_isolation_wait_again() -> None:
    partition, alone, whole = Partition([A, B, C], isolation_wait=20), released(C), released(A, B, C)
    partition.review(alone, at(100), ())
    partition.review(whole, at(110), ())
    partition.review(alone, at(121), ())
    assert (partition.standing, partition.next_deadline(alone)) == (Standing.WAIT, 141)


@pytest.mark.shows("rule 37")
def test_after_five_seconds_without_sync_new_users_are_claimed_if_a_store_answers() -> None:
    partition, barrier = Partition([A, B], isolation_wait=20), released(A, B)
    partition.leases = frozenset([A, B])
    barrier.wait(at(100), at_once=True)
    partition.review(barrier, at(104.9), ())
    assert (partition.standing, partition.next_deadline(barrier)) == (Standing.COMPLETE, 100 + CLAIM_AFTER)
    partition.review(barrier, at(105), ())
    assert (partition.standing, partition.next_deadline(barrier)) == (Standing.CLAIM, None)


def test_without_a_shared_store_new_users_wait_for_sync() -> None:
    partition, barrier = Partition([A, B], isolation_wait=20), released(A, B)
    barrier.wait(at(100), at_once=True)
    partition.review(barrier, at(200), ())
    assert (partition.standing, partition.next_deadline(barrier)) == (Standing.COMPLETE, None)


def test_a_host_change_in_a_partial_ring_is_agreed_before_users_are_claimed_by_it() -> None:
    partition, barrier = Partition([A, B, C], isolation_wait=20), released(A, B)
    partition.leases = frozenset([A, B, C])
    partition.review(barrier, at(100), ())
    assert partition.claiming
    barrier.wait(at(101), at_once=True)
    partition.review(barrier, at(101), ())
    assert (partition.standing, partition.claiming, partition.next_deadline(barrier)) == (
        Standing.CLAIM,
        False,
        106,
    )
    partition.review(barrier, at(106), ())
    assert (partition.claiming, partition.next_deadline(barrier)) == (True, None)
