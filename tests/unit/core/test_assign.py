"""The assigner, in plain Python and compiled: every test runs on both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from director.core.placement.addresses import host_id
from director.core.placement.assign import Assigner, Backend, Gate, Wait
from director.core.placement.hashing import UserHash
from director.core.placement.users import (
    BUCKET_SHIFT,
    BUCKETS,
    BY_HAND,
    LATEST,
    MOVING,
    ONE_LOGIN,
    PINNED,
    User,
    margin,
)
from director.types import HostId, Stamp, UserKey
from tests.twins import NAMES, PURE, HotPath, compiled, hot_path

VECTORS = json.loads(Path(__file__).parents[2].joinpath("data/hash-vectors.json").read_text())
HOST_SETS = {vector["name"]: vector["hosts"] for vector in VECTORS["hosts_hash"]["sets"]}
EDGES = VECTORS["ring_edges"]

EXPIRE = 300
MARGIN = 30  # of that expiry
NOW = 1_000_000
ALICE = UserHash().key(b"alice")  # placed on .1, and on .2 while .1 is not there
TAGGED = UserHash().key(b"alice", b"blue")


@pytest.fixture(scope="module", params=NAMES)
def hot(request: pytest.FixtureRequest) -> HotPath:
    return hot_path(request.param)


@pytest.fixture(scope="module")
def fast() -> HotPath:
    return compiled()


def backend(number: int, **fields: Any) -> Backend:
    address = f"127.0.1.{number}"
    plain = Backend(host_id(address), address, hostname=None, tag="", weight=100, up=True, since=0)
    return plain._replace(**fields)


FOUR = [backend(number) for number in (1, 2, 3, 4)]
ONE, TWO, THREE, FOURTH = FOUR
NO_HOST = backend(0, id=HostId(0))  # where a forgotten user is


def of_vector(host: dict[str, Any]) -> Backend:
    address, weight = host["ip"], host["vhosts"]
    return Backend(host_id(address), address, None, host["tag"], weight, not host["down"], since=0)


def director(hot: HotPath, backends: list[Backend] = FOUR, gate: Gate = Gate.OPEN) -> Assigner:
    assigner = hot.Assigner(hot.UserTable(EXPIRE), UserHash())
    assigner.set_backends(backends)
    assigner.gate = gate
    assigner.unix = NOW
    return assigner


def known(assigner: Assigner, host: Backend = THREE, **fields: Any) -> User:
    """Assign alice to a host that the circle would not select, and take the announcement."""
    user = User(ALICE, host.id, Stamp(NOW - 50), NOW - 100, 0)._replace(**fields)
    assigner.users.put(user)
    assigner.users.take_changes()
    return user


# New users


def test_a_new_user_is_assigned_to_the_host_that_the_circle_selects_and_is_announced(hot: HotPath) -> None:
    assigner = director(hot)
    assert assigner.assign(ALICE, b"") is ONE
    assert assigner.users.get(ALICE) == User(ALICE, ONE.id, Stamp(NOW), NOW, 0)
    assert len(assigner.users.take_changes()) == 22


@pytest.mark.parametrize("change", [{"up": False}, {"weight": 0}], ids=["down", "without weight"])
def test_a_new_user_is_never_put_on_a_host_that_is_down_or_has_no_weight(
    hot: HotPath, change: dict[str, Any]
) -> None:
    assigner = director(hot, [backend(1, **change), TWO, THREE, FOURTH])
    assert assigner.assign(ALICE, b"") is TWO


def test_a_new_user_waits_for_a_host_where_there_is_none(hot: HotPath) -> None:
    assigner = director(hot, [backend(1, up=False)])
    assert assigner.assign(ALICE, b"") is Wait.NO_HOST
    assert len(assigner.users) == 0


def test_a_new_user_waits_for_a_host_of_the_pool(hot: HotPath) -> None:
    assigner = director(hot)
    assert assigner.assign(TAGGED, b"blue") is Wait.NO_HOST


@pytest.mark.shows("R-37")
def test_each_tag_has_a_circle_of_its_own(hot: HotPath) -> None:
    blue = backend(9, tag="blue")
    assigner = director(hot, [*FOUR, blue])
    assert assigner.assign(TAGGED, b"blue") is blue
    assert assigner.assign(ALICE, b"") is ONE


@pytest.mark.shows("rule 10")
def test_a_new_user_waits_while_the_ring_is_not_in_sync(hot: HotPath) -> None:
    assigner = director(hot, gate=Gate.KNOWN)
    assert assigner.assign(ALICE, b"") is Wait.RING
    assert len(assigner.users) == 0


# Assigned users


def test_an_assigned_user_keeps_the_host_and_is_refreshed(hot: HotPath) -> None:
    assigner = director(hot)
    user = known(assigner)
    assert assigner.assign(ALICE, b"") is THREE
    assert assigner.users.get(ALICE) == user._replace(seen=NOW)


@pytest.mark.shows("I-24")
@pytest.mark.parametrize(
    "host", [backend(3, up=False), backend(3, weight=0), backend(3, tag="blue")], ids=["down", "0", "tag"]
)
def test_an_assigned_user_keeps_a_host_that_is_down_or_has_weight_0(hot: HotPath, host: Backend) -> None:
    assigner = director(hot, [ONE, TWO, host])
    known(assigner)
    assert assigner.assign(ALICE, b"") is host


def test_an_assigned_user_does_not_wait_for_the_ring(hot: HotPath) -> None:
    assigner = director(hot, gate=Gate.KNOWN)
    known(assigner)
    assert assigner.assign(ALICE, b"") is THREE


def test_no_user_is_answered_before_memory_has_been_compared(hot: HotPath) -> None:
    assigner = director(hot, gate=Gate.CLOSED)
    user = known(assigner)
    assert assigner.assign(ALICE, b"") is Wait.UNVERIFIED
    assert assigner.users.get(ALICE) == user


def test_a_user_who_is_being_moved_waits(hot: HotPath) -> None:
    assigner = director(hot)
    user = known(assigner, flags=MOVING | BY_HAND)
    assert assigner.assign(ALICE, b"") is Wait.MOVING
    assert assigner.users.get(ALICE) == user


# Users whose assignments do not count any more


def test_an_assignment_lives_until_the_last_second_of_its_expiry(hot: HotPath) -> None:
    assigner = director(hot, [backend(1, up=False)])
    known(assigner, backend(1), seen=NOW - EXPIRE + 1)
    assert assigner.assign(ALICE, b"") == backend(1, up=False)
    known(assigner, backend(1), seen=NOW - EXPIRE)
    assert assigner.assign(ALICE, b"") is Wait.NO_HOST


def test_a_user_whose_assignment_expired_is_assigned_anew_with_a_later_stamp(hot: HotPath) -> None:
    assigner = director(hot)
    known(assigner, seen=NOW - EXPIRE - EXPIRE // 3, flags=BY_HAND)
    assert assigner.assign(ALICE, b"") is ONE
    assert assigner.users.get(ALICE) == User(ALICE, ONE.id, Stamp(NOW), NOW, 0)


def test_a_user_whose_assignment_expired_waits_while_the_ring_is_not_in_sync(hot: HotPath) -> None:
    assigner = director(hot, gate=Gate.KNOWN)
    known(assigner, seen=NOW - EXPIRE)
    assert assigner.assign(ALICE, b"") is Wait.RING


def test_a_pinned_user_does_not_expire(hot: HotPath) -> None:
    assigner = director(hot)
    known(assigner, seen=0, flags=PINNED)
    assert assigner.assign(ALICE, b"") is THREE


def test_a_user_whose_host_is_not_in_the_table_is_placed_anew(hot: HotPath) -> None:
    assigner = director(hot, [ONE, TWO])
    known(assigner, flags=PINNED)
    assert assigner.assign(ALICE, b"") is ONE


def test_what_was_decided_before_a_host_came_back_is_not_used(hot: HotPath) -> None:
    assigner = director(hot, [ONE, TWO, backend(3, since=NOW - 49)])
    known(assigner)
    assert assigner.assign(ALICE, b"") is ONE


def test_what_was_decided_when_a_host_came_back_is_used(hot: HotPath) -> None:
    back = backend(3, since=NOW - 50)
    assigner = director(hot, [ONE, TWO, back])
    known(assigner)
    assert assigner.assign(ALICE, b"") is back


@pytest.mark.shows("rule 3")
def test_a_new_stamp_is_later_than_the_one_it_replaces_even_against_a_clock_ahead(hot: HotPath) -> None:
    assigner = director(hot, [ONE])
    known(assigner, decided=NOW + 5, seen=NOW + 7)
    assert assigner.assign(ALICE, b"") is ONE
    assert assigner.users.get(ALICE) == User(ALICE, ONE.id, Stamp(NOW + 6), NOW + 7, 0)


def test_a_stamp_at_the_end_of_time_does_not_start_again(hot: HotPath) -> None:
    assigner = director(hot, [ONE])
    known(assigner, decided=LATEST, seen=LATEST)
    assert assigner.assign(ALICE, b"") is ONE
    assert assigner.users.get(ALICE) == User(ALICE, ONE.id, Stamp(LATEST), LATEST, 0)


def test_a_choice_is_never_older_than_the_host_and_its_tag(hot: HotPath) -> None:
    assigner = director(hot, [backend(1, since=NOW + 2, retagged=NOW + 4)])
    assigner.assign(ALICE, b"")
    assert assigner.users.get(ALICE) == User(ALICE, ONE.id, Stamp(NOW + 4), NOW, 0)


# Users who are being moved, or were forgotten


@pytest.mark.parametrize("seen", [NOW, NOW - EXPIRE, 0], ids=["alive", "expired", "long ago"])
@pytest.mark.parametrize("gate", [Gate.KNOWN, Gate.OPEN])
def test_a_user_who_is_being_moved_waits_whether_the_assignment_has_expired_or_not(
    hot: HotPath, gate: Gate, seen: int
) -> None:
    assigner = director(hot, gate=gate)
    user = known(assigner, seen=seen, flags=MOVING)
    assert assigner.assign(ALICE, b"") is Wait.MOVING
    assert assigner.users.get(ALICE) == user


def test_a_user_who_is_being_forgotten_waits(hot: HotPath) -> None:
    assigner = director(hot)
    known(assigner, NO_HOST, seen=0, flags=MOVING | BY_HAND)
    assert assigner.assign(ALICE, b"") is Wait.MOVING


@pytest.mark.parametrize(
    "hosts", [[ONE, TWO], [ONE, TWO, backend(3, since=NOW)]], ids=["removed", "removed and back"]
)
def test_a_user_on_the_move_to_a_host_that_was_removed_waits_for_the_end_of_the_move(
    hot: HotPath, hosts: list[Backend]
) -> None:
    assigner = director(hot, hosts)
    known(assigner, flags=MOVING)
    assert assigner.assign(ALICE, b"") is Wait.MOVING


def test_a_forgotten_user_is_a_new_one_with_a_later_stamp(hot: HotPath) -> None:
    assigner = director(hot, gate=Gate.KNOWN)
    known(assigner, NO_HOST, decided=NOW + 9, flags=BY_HAND)
    assert assigner.assign(ALICE, b"") is Wait.RING
    assigner.gate = Gate.OPEN
    assert assigner.assign(ALICE, b"") is ONE
    assert assigner.users.get(ALICE) == User(ALICE, ONE.id, Stamp(NOW + 10), NOW, 0)


def test_even_a_pinned_user_who_was_forgotten_is_unassigned(hot: HotPath) -> None:
    assigner = director(hot)
    known(assigner, NO_HOST, flags=PINNED)
    assert assigner.assign(ALICE, b"") is ONE


# Users whose host has another address now


@pytest.mark.parametrize("flags", [0, PINNED, MOVING])
def test_a_user_of_a_host_that_has_another_address_since_waits_for_the_new_record(
    hot: HotPath, flags: int
) -> None:
    left = backend(3, up=False, weight=0, since=0xFFFFFFFF, readdressed=True)
    assigner = director(hot, [ONE, left], gate=Gate.KNOWN)
    known(assigner, flags=flags)
    assert assigner.assign(ALICE, b"") is Wait.READDRESSED


def test_a_user_of_a_host_that_took_over_an_address_is_answered_and_a_former_user_of_it_waits(
    hot: HotPath,
) -> None:
    for since, answered in ((NOW - 50, True), (NOW - 49, False)):
        other = backend(3, since=since, readdressed=True)
        assigner = director(hot, [ONE, other])
        known(assigner)
        answer = assigner.assign(ALICE, b"")
        assert answer is (other if answered else Wait.READDRESSED)


# Users whose host has another tag now


def test_a_user_assigned_before_the_host_changed_its_tag_waits_to_be_moved(hot: HotPath) -> None:
    assigner = director(hot, [ONE, TWO, backend(3, tag="blue", retagged=NOW - 49)], gate=Gate.KNOWN)
    user = known(assigner)
    assert assigner.assign(ALICE, b"") is Wait.RETAGGED
    assert assigner.users.get(ALICE) == user


def test_a_user_assigned_when_the_host_changed_its_tag_stays(hot: HotPath) -> None:
    tagged = backend(3, tag="blue", retagged=NOW - 50)
    assigner = director(hot, [ONE, TWO, tagged])
    known(assigner)
    assert assigner.assign(ALICE, b"") is tagged


def test_even_a_pinned_user_waits_to_be_moved_off_a_host_of_another_tag(hot: HotPath) -> None:
    assigner = director(hot, [ONE, backend(3, retagged=NOW)])
    known(assigner, flags=PINNED)
    assert assigner.assign(ALICE, b"") is Wait.RETAGGED


def test_a_user_whose_assignment_expired_on_a_host_with_another_tag_is_assigned_anew(hot: HotPath) -> None:
    assigner = director(hot, [ONE, backend(3, tag="blue", retagged=NOW)])
    known(assigner, seen=NOW - EXPIRE - EXPIRE // 3)
    assert assigner.assign(ALICE, b"") is ONE


def test_a_user_just_expired_on_a_host_with_another_tag_asks_the_ring(hot: HotPath) -> None:
    assigner = director(hot, [ONE, backend(3, tag="blue", retagged=NOW)])
    known(assigner, seen=NOW - EXPIRE)
    assert assigner.assign(ALICE, b"") is Wait.NEAR


# Users near expiry


@pytest.mark.parametrize(
    ("expire", "seconds"), [(10, 5), (50, 5), (59, 5), (60, 6), (299, 29), (300, 30), (900, 30)]
)
def test_the_margin_is_a_tenth_of_the_expiry_within_bounds(expire: int, seconds: int) -> None:
    assert margin(expire) == seconds


@pytest.mark.shows("rule 21")
@pytest.mark.parametrize(
    ("age", "answer"),
    [
        (EXPIRE - MARGIN - 1, THREE),
        (EXPIRE - MARGIN, Wait.NEAR),
        (EXPIRE, Wait.NEAR),
        (EXPIRE + MARGIN - 1, Wait.NEAR),
        (EXPIRE + MARGIN, ONE),
    ],
)
def test_a_user_with_another_host_shortly_before_or_after_expiry_asks_the_ring(
    hot: HotPath, age: int, answer: Backend | Wait
) -> None:
    assigner = director(hot)
    known(assigner, seen=NOW)  # as it is stored, too
    assigner.unix = NOW + age
    assert assigner.assign(ALICE, b"") is answer


@pytest.mark.shows("rule 21")
@pytest.mark.parametrize("younger", [1, 50, EXPIRE // 3 - 1])
@pytest.mark.parametrize(("age", "answer"), [(EXPIRE + MARGIN - 1, Wait.NEAR), (EXPIRE + MARGIN, ONE)])
def test_the_ring_is_asked_as_long_as_a_later_sign_of_life_may_not_have_been_passed_on(
    hot: HotPath, younger: int, age: int, answer: Backend | Wait
) -> None:
    assigner = director(hot)
    known(assigner, seen=NOW - younger)  # stored as NOW, like all that come up to then
    assigner.unix = NOW + age
    assert assigner.assign(ALICE, b"") is answer


def test_nothing_is_decided_or_refreshed_for_a_user_who_asks_the_ring(hot: HotPath) -> None:
    assigner = director(hot)
    user = known(assigner, seen=NOW - EXPIRE)
    assigner.assign(ALICE, b"")
    assert assigner.users.get(ALICE) == user
    assert not assigner.users.has_changes


@pytest.mark.parametrize("age", [EXPIRE - MARGIN, EXPIRE - 1, EXPIRE, EXPIRE + MARGIN - 1])
def test_a_user_near_expiry_with_another_host_now_waits_while_the_ring_is_not_in_sync(
    hot: HotPath, age: int
) -> None:
    assigner = director(hot, gate=Gate.KNOWN)
    known(assigner, seen=NOW - age)
    assert assigner.assign(ALICE, b"") is Wait.RING


@pytest.mark.parametrize("gate", [Gate.KNOWN, Gate.OPEN])
def test_a_user_near_expiry_whose_hash_selects_the_same_host_is_answered_at_once(
    hot: HotPath, gate: Gate
) -> None:
    assigner = director(hot, gate=gate)
    user = known(assigner, ONE, seen=NOW - EXPIRE + 1)
    assert assigner.assign(ALICE, b"") is ONE
    assert assigner.users.get(ALICE) == user._replace(seen=NOW)


def test_a_user_whose_assignment_has_just_expired_is_assigned_anew_even_to_the_same_host(
    hot: HotPath,
) -> None:
    assigner = director(hot)
    known(assigner, ONE, seen=NOW - EXPIRE)
    assert assigner.assign(ALICE, b"") is ONE
    assert assigner.users.get(ALICE) == User(ALICE, ONE.id, Stamp(NOW), NOW, 0)


def test_a_user_near_expiry_with_no_other_usable_host_is_answered_at_once(hot: HotPath) -> None:
    assigner = director(hot)
    user = User(TAGGED, THREE.id, Stamp(NOW), NOW - EXPIRE + 1, 0)
    assigner.users.put(user)
    assert assigner.assign(TAGGED, b"blue") is THREE


def test_a_pinned_user_is_never_near_expiry(hot: HotPath) -> None:
    assigner = director(hot)
    known(assigner, seen=NOW - EXPIRE, flags=PINNED)
    assert assigner.assign(ALICE, b"") is THREE


def test_a_user_near_expiry_on_a_host_that_was_added_again_meanwhile_is_assigned_anew(hot: HotPath) -> None:
    assigner = director(hot, [ONE, TWO, backend(3, since=NOW)])
    known(assigner, seen=NOW - EXPIRE)
    assert assigner.assign(ALICE, b"") is ONE


# Held users, and choices made for the ring


def test_a_held_user_is_not_answered_whatever_the_record_says(hot: HotPath) -> None:
    assigner = director(hot, gate=Gate.KNOWN)
    assigner.hold(ALICE)
    assert assigner.assign(ALICE, b"") is Wait.HELD
    user = known(assigner, seen=NOW - 1)
    assert assigner.assign(ALICE, b"") is Wait.HELD
    assert assigner.users.get(ALICE) == user
    known(assigner, flags=MOVING)
    assert assigner.assign_named(ALICE, b"", b"alice") is Wait.HELD


def test_a_held_user_waits_for_the_first_exchange_before_all(hot: HotPath) -> None:
    assigner = director(hot, gate=Gate.CLOSED)
    assigner.hold(ALICE)
    assert assigner.assign(ALICE, b"") is Wait.UNVERIFIED


def test_other_users_are_answered_while_a_user_is_held(hot: HotPath) -> None:
    assigner = director(hot)
    assigner.hold(UserKey(ALICE + 1))
    assert assigner.assign(ALICE, b"") is ONE


def test_holding_and_releasing_again_changes_nothing(hot: HotPath) -> None:
    assigner = director(hot)
    assigner.release(ALICE)
    assigner.hold(ALICE)
    assigner.hold(ALICE)
    assert assigner.users_held == 1
    assigner.release(ALICE)
    assigner.release(ALICE)
    assert assigner.users_held == 0
    assert assigner.assign(ALICE, b"") is ONE


@pytest.mark.parametrize(
    "record",
    [{}, {"flags": MOVING}, {"flags": PINNED}, {"host": NO_HOST}],
    ids=["alive", "moving", "pinned", "forgotten"],
)
def test_a_user_is_assigned_anew_whatever_the_record_says(hot: HotPath, record: dict[str, Any]) -> None:
    assigner = director(hot)
    known(assigner, **record, decided=NOW + 3)
    assigner.hold(ALICE)
    assert assigner.choose(ALICE, b"") is ONE
    assert assigner.users.get(ALICE) == User(ALICE, ONE.id, Stamp(NOW + 4), NOW, 0)
    assert assigner.users.has_changes


def test_an_unknown_user_can_be_chosen_and_leaves_no_name(hot: HotPath) -> None:
    assigner = director(hot, [backend(1, since=NOW + 1, retagged=NOW + 2)])
    assigner.remember_names = True
    assigner.choose(ALICE, b"")
    assert assigner.users.get(ALICE) == User(ALICE, ONE.id, Stamp(NOW + 2), NOW, 0)
    assert assigner.take_names() == b""


@pytest.mark.parametrize("gate", [Gate.CLOSED, Gate.KNOWN])
def test_no_user_is_assigned_while_the_ring_is_not_in_sync(hot: HotPath, gate: Gate) -> None:
    assigner = director(hot, gate=gate)
    user = known(assigner)
    assert assigner.choose(ALICE, b"") is Wait.RING
    assert assigner.users.get(ALICE) == user


def test_no_user_is_assigned_without_a_host(hot: HotPath) -> None:
    assigner = director(hot)
    user = known(assigner)
    assert assigner.choose(ALICE, b"blue") is Wait.NO_HOST
    assert assigner.users.get(ALICE) == user


# The table of hosts


def test_the_circle_alone_can_be_asked(hot: HotPath) -> None:
    assigner = director(hot)
    known(assigner)
    assert assigner.place(ALICE >> 32, b"") is ONE
    assert assigner.place(ALICE >> 32, b"blue") is None


@pytest.mark.parametrize("vector", VECTORS["lookups"], ids=lambda vector: vector["host_set"])
def test_every_user_gets_the_host_that_dovecot_2_3_selects(hot: HotPath, vector: dict[str, Any]) -> None:
    assigner = director(hot, [of_vector(host) for host in HOST_SETS[vector["host_set"]]])
    placed = {
        user: assigner.place(UserHash().hash(user.encode()), vector["tag"].encode()) for user in vector["map"]
    }
    assert {user: host and host.address for user, host in placed.items()} == vector["map"]


@pytest.mark.parametrize("case", EDGES["cases"], ids=lambda case: str(case["hash"]))
def test_a_hash_on_a_point_belongs_to_it_and_behind_the_last_wraps(
    hot: HotPath, case: dict[str, Any]
) -> None:
    host = director(hot, [of_vector(host) for host in EDGES["hosts"]]).place(case["hash"], b"")
    assert host is not None
    assert host.address == case["host"]


def test_of_two_equal_points_the_lowest_address_counts(hot: HotPath) -> None:
    first, second = backend(1, address="10.0.0.42", weight=72), backend(2, address="10.0.0.184", weight=659)
    assert director(hot, [second, first]).place(1932360320, b"") is first
    assert director(hot, [first, second]).place(1932360320, b"") is first


def test_a_new_table_of_hosts_counts_from_the_next_user_on(hot: HotPath) -> None:
    assigner = director(hot)
    assigner.set_backends([TWO, THREE, FOURTH])
    assert assigner.assign(ALICE, b"") is TWO
    assigner.set_backends([])
    assert assigner.assign(UserHash().key(b"bob"), b"") is Wait.NO_HOST


@pytest.mark.parametrize(
    "later",
    [FOUR[1:], FOUR[:-1], FOUR[::-1], [backend(1, weight=10), *FOUR[1:]], [*FOUR, backend(5)], [backend(7)]],
    ids=["first gone", "last gone", "other order", "other weight", "one more", "others"],
)
def test_a_changed_table_of_hosts_places_as_if_it_had_never_been_another(
    hot: HotPath, later: list[Backend]
) -> None:
    changed, fresh = director(hot), director(hot, later)
    changed.set_backends(later)
    hashes = range(0, 2**32, 2**24)
    assert [changed.place(hash32, b"") for hash32 in hashes] == [
        fresh.place(hash32, b"") for hash32 in hashes
    ]


def test_a_host_that_changes_nothing_but_its_stamp_is_given_as_it_is_now(hot: HotPath) -> None:
    assigner = director(hot)
    newer = backend(1, since=NOW)
    assigner.set_backends([newer, TWO, THREE, FOURTH])
    assert assigner.assign(ALICE, b"") is newer


@pytest.mark.shows("rule 17")
def test_what_is_appended_says_refresh_host_and_key(hot: HotPath) -> None:
    assigner = director(hot)
    assert (
        assigner.suffix(ONE, ALICE)
        == b"\tproxy_refresh=100\thost=127.0.1.1\tuser_dirkey=1669653170@127.0.1.1"
    )


@pytest.mark.shows("R-36")
def test_a_host_with_a_name_is_appended_by_name_and_address(hot: HotPath) -> None:
    named = backend(1, hostname="mail1.example.com")
    assert director(hot, [named]).suffix(named, ALICE) == (
        b"\tproxy_refresh=100\thost=mail1.example.com\thostip=127.0.1.1\tuser_dirkey=1669653170@127.0.1.1"
    )


def test_no_names_are_kept_of_users_assigned_by_key(hot: HotPath) -> None:
    assigner = director(hot)
    assigner.remember_names = True
    assigner.assign(ALICE, b"")
    assert assigner.take_names() == b""


# Both are one

hosts = st.lists(
    st.builds(
        backend,
        st.integers(1, 8),
        tag=st.sampled_from(["", "blue", "grün"]),
        weight=st.sampled_from([0, 1, 2, 50]),
        up=st.booleans(),
        since=st.sampled_from([0, 5]),
        retagged=st.sampled_from([0, 4, 6]),
        hostname=st.sampled_from([None, "", "mail"]),
    ),
    max_size=6,
    unique_by=lambda host: host.address,
)
keys = st.sampled_from([1 << 32, ALICE, TAGGED, 0xFFFFFFFF << 32 | 5]) | st.integers(1 << 32, 2**64 - 1)
tags = st.sampled_from([b"", b"blue", "grün".encode(), b"none"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set_backends"), hosts),
        st.tuples(st.just("assign"), keys, tags),
        st.tuples(st.just("assign"), keys, tags),
        st.tuples(st.just("choose"), keys, tags),
        st.tuples(st.sampled_from(["hold", "release"]), keys),
        st.tuples(st.just("place"), st.integers(0, 2**32 - 1), tags),
        st.tuples(st.just("gate"), st.sampled_from(Gate)),
        st.tuples(st.just("unix"), st.integers(0, 1500)),
        st.tuples(
            st.just("put"),
            st.builds(
                User,
                keys.map(UserKey),
                st.integers(1, 8).map(lambda number: HostId(backend(number).id)) | st.just(HostId(0)),
                st.sampled_from([0, 4, 5, LATEST]).map(Stamp),
                st.integers(0, 1500),
                st.integers(0, 15) | st.just(ONE_LOGIN),
            ),
        ),
        st.tuples(st.just("limit"), st.integers(0, 6)),
        st.tuples(st.just("touch"), keys, st.integers(0, 1500)),
        st.tuples(st.just("digests"), st.integers(0, 1500)),
        st.tuples(st.just("confirm"), st.just(0), st.sampled_from([1, BUCKETS])),
        st.tuples(st.just("shed"), keys.map(lambda key: key >> BUCKET_SHIFT), st.integers(0, 1500)),
    ),
    max_size=25,
)


def carry_out(assigner: Assigner, name: str, arguments: list[Any]) -> Any:
    match name:
        case "gate" | "unix" | "limit":
            return setattr(assigner, name, *arguments)
        case "put" | "touch" | "digests" | "shed" | "confirm":
            return getattr(assigner.users, name)(*arguments)
        case _:
            return getattr(assigner, name)(*arguments)


@settings(max_examples=100)
@given(backends=hosts, steps=steps)
def test_the_compiled_assigner_does_what_the_plain_one_does(
    fast: HotPath, backends: list[Backend], steps: list[tuple[Any, ...]]
) -> None:
    plain, packed = director(PURE, backends), director(fast, backends)
    for name, *arguments in steps:
        assert carry_out(packed, name, arguments) == carry_out(plain, name, arguments)
        assert (packed.users_held, packed.full) == (plain.users_held, plain.full)
        assert packed.not_remembered == plain.not_remembered
    assert packed.users.take_changes() == plain.users.take_changes()


def test_an_assignment_counts_although_the_host_was_added_by_a_clock_that_is_ahead(hot: HotPath) -> None:
    assigner = director(hot, [backend(1, since=NOW + 2)])
    assigner.assign(ALICE, b"")
    assigner.gate = Gate.KNOWN
    assert assigner.assign(ALICE, b"") == backend(1, since=NOW + 2)


# Users whose buckets have not been read from the store yet


def test_no_unassigned_user_is_assigned_before_the_bucket_has_been_read(hot: HotPath) -> None:
    assigner = director(hot)
    assigner.await_store([ALICE >> BUCKET_SHIFT, 5])
    assert assigner.assign(ALICE, b"") is Wait.UNREAD
    assert (len(assigner.users), assigner.unread) == (0, 2)
    assigner.have_read([ALICE >> BUCKET_SHIFT])
    assert assigner.assign(ALICE, b"") is ONE
    assert assigner.unread == 1


def test_a_user_in_memory_is_answered_while_the_store_is_being_read(hot: HotPath) -> None:
    assigner = director(hot)
    known(assigner)
    assigner.await_store(range(BUCKETS))
    assert assigner.assign(ALICE, b"") is THREE


def test_while_memory_is_a_hint_that_comes_first(hot: HotPath) -> None:
    assigner = director(hot, gate=Gate.CLOSED)
    assigner.await_store(range(BUCKETS))
    assert assigner.assign(ALICE, b"") is Wait.UNVERIFIED
