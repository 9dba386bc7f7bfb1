"""A table with a limit: who is remembered, and which records are dropped early. Plain and compiled."""

from __future__ import annotations

from typing import Any

import pytest

from director.core.placement.addresses import host_id
from director.core.placement.assign import NO_LIMIT, Assigner, Backend, Gate, Wait
from director.core.placement.hashing import UserHash
from director.core.placement.users import (
    BUCKET_SHIFT,
    BUCKETS,
    BY_HAND,
    EARLIEST_DROP,
    MOVING,
    ONE_LOGIN,
    PINNED,
    User,
    UserTable,
    merged,
    pack,
)
from director.types import HostId, Stamp, UserKey
from tests.twins import NAMES, HotPath, hot_path

EXPIRE = 900
NOW = 1_000_000
LATER = NOW + EARLIEST_DROP


@pytest.fixture(scope="module", params=NAMES)
def hot(request: pytest.FixtureRequest) -> HotPath:
    return hot_path(request.param)


def backend(number: int, **fields: Any) -> Backend:
    address = f"127.0.1.{number}"
    return Backend(host_id(address), address, None, "", 100, True, since=0)._replace(**fields)


HOSTS = [backend(number) for number in (1, 2, 3)]


def director(hot: HotPath, limit: int = NO_LIMIT, hosts: list[Backend] = HOSTS) -> Assigner:
    assigner = hot.Assigner(hot.UserTable(EXPIRE), UserHash())
    assigner.set_backends(hosts)
    assigner.gate, assigner.unix, assigner.limit, assigner.remember_names = Gate.OPEN, NOW, limit, True
    return assigner


def key(name: str, tag: bytes = b"") -> UserKey:
    return UserHash().key(name.encode(), tag)


def log_in(assigner: Assigner, *names: str) -> list[Backend | Wait]:
    return [assigner.assign_named(key(name), b"", name.encode()) for name in names]


def names(count: int) -> list[str]:
    return [f"user{number}" for number in range(count)]


def shed(users: UserTable, unix: int) -> int:
    return sum(users.shed(number, unix) for number in range(BUCKETS))


def record(assigner: Assigner, name: str) -> User:
    found = assigner.users.get(key(name))
    assert found is not None
    return found


# Users with a record


@pytest.mark.shows("rule 48", "A-31")
def test_an_unknown_user_over_the_limit_is_placed_by_the_hash_and_not_remembered(hot: HotPath) -> None:
    assigner, free = director(hot, 4), director(hot)
    everybody = names(9)
    assert log_in(assigner, *everybody) == log_in(free, *everybody)
    assert (len(assigner.users), assigner.not_remembered, assigner.full) == (4, 5, True)
    assert assigner.take_names().count(b"user") == 4
    assert len(assigner.users.take_changes()) == 4 * 22
    assert log_in(assigner, *everybody) == log_in(free, *everybody), "the same again"


@pytest.mark.shows("A-33")
def test_an_assigned_user_is_answered_refreshed_and_reassigned_although_the_table_is_full(
    hot: HotPath,
) -> None:
    assigner = director(hot, 2)
    log_in(assigner, *names(5))
    assigner.unix += EXPIRE // 2
    log_in(assigner, "user0")
    assert record(assigner, "user0").seen == assigner.unix
    assigner.unix += 2 * EXPIRE
    log_in(assigner, "user0")
    assert record(assigner, "user0").decided == assigner.unix
    assert len(assigner.users) == 2


@pytest.mark.shows("rule 48")
def test_what_operators_and_neighbours_say_is_taken_in_though_the_table_is_full(hot: HotPath) -> None:
    assigner = director(hot, 1)
    log_in(assigner, "user0")
    assigner.users.put(User(key("moved"), HOSTS[0].id, Stamp(NOW), NOW, BY_HAND))
    assigner.users.merge(pack([User(key("theirs"), HOSTS[0].id, Stamp(NOW), NOW, 0)]))
    assert len(assigner.users) == 3


def test_over_the_limit_unknown_users_still_wait_while_the_ring_is_not_in_sync(hot: HotPath) -> None:
    assigner = director(hot, 1)
    log_in(assigner, "user0")
    assigner.gate = Gate.KNOWN
    assert log_in(assigner, "user1") == [Wait.RING]
    assert assigner.not_remembered == 0


# The flag of a record


def test_only_unknown_users_of_a_table_that_is_half_full_may_be_dropped_early(hot: HotPath) -> None:
    assigner = director(hot, 6)
    log_in(assigner, *names(6))
    assert [record(assigner, name).flags for name in names(6)] == [0, 0, 0, ONE_LOGIN, ONE_LOGIN, ONE_LOGIN]
    assigner.unix += 3 * EXPIRE
    log_in(assigner, "user5")
    assert record(assigner, "user5").flags == 0, "a second login, even after the expiry"


@pytest.mark.shows("rule 49")
@pytest.mark.parametrize("seconds", [0, 1, EXPIRE // 2])
def test_the_second_login_is_announced_and_keeps_the_user_from_being_dropped_early(
    hot: HotPath, seconds: int
) -> None:
    assigner = director(hot, 2)
    log_in(assigner, "user0", "user1")
    assigner.users.take_changes()
    assigner.unix += seconds
    for _ in range(3):
        log_in(assigner, "user1")
    expected = User(key("user1"), record(assigner, "user1").host, Stamp(NOW), NOW + seconds, 0)
    assert assigner.users.take_changes() == pack([expected])


def test_a_refresh_by_a_session_keeps_the_user_too(hot: HotPath) -> None:
    assigner = director(hot, 1)
    log_in(assigner, "user0")
    assert assigner.users.touch(key("user0"), NOW)
    assert not assigner.users.touch(key("user0"), NOW)
    assert record(assigner, "user0").flags == 0


def test_of_two_directors_that_know_a_user_the_one_that_saw_the_second_login_is_believed() -> None:
    once = User(UserKey(1), HostId(7), Stamp(NOW), NOW, ONE_LOGIN)
    twice = once._replace(flags=0)
    assert merged(once, twice) == merged(twice, once) == twice


@pytest.mark.parametrize("first", [0, ONE_LOGIN])
def test_a_second_login_elsewhere_is_news(hot: HotPath, first: int) -> None:
    users = hot.UserTable(EXPIRE)
    once = User(UserKey(1), HostId(7), Stamp(NOW), NOW, ONE_LOGIN)
    users.merge(pack([once._replace(flags=first)]))
    users.take_dirty()
    twice = pack([once._replace(flags=0)])
    assert users.merge(twice) == (twice if first else b"")
    assert users.get(UserKey(1)) == once._replace(flags=0)


# Dropped early


@pytest.mark.shows("rule 49", "A-32")
def test_users_who_logged_in_once_are_dropped_after_a_minute_and_no_others(hot: HotPath) -> None:
    assigner = director(hot, 6)
    log_in(assigner, *names(6))
    assigner.unix += 30
    log_in(assigner, "user4")
    assert shed(assigner.users, LATER - 1) == 0
    assert shed(assigner.users, LATER) == 2
    assert [assigner.users.get(key(name)) is not None for name in names(6)] == [True] * 3 + [
        False,
        True,
        False,
    ]
    assert len(assigner.users) == 4


@pytest.mark.shows("rule 49", "A-32")
@pytest.mark.parametrize("flags", [BY_HAND, PINNED, MOVING, BY_HAND | ONE_LOGIN, PINNED | ONE_LOGIN, 0])
def test_a_user_moved_by_hand_or_pinned_is_never_dropped_early(hot: HotPath, flags: int) -> None:
    assigner = director(hot, 1)
    home = assigner.place(key("user0") >> 32, b"")
    assert home is not None
    assigner.users.put(User(key("user0"), home.id, Stamp(NOW), NOW, flags))
    assert shed(assigner.users, NOW + EXPIRE) == 0
    assert len(assigner.users) == 1


@pytest.mark.shows("rule 49")
def test_a_user_whose_host_is_not_the_choice_of_the_hash_is_not_dropped_early(hot: HotPath) -> None:
    assigner = director(hot, 1, HOSTS[:2])
    everybody = names(40)
    assigner.limit = 40
    log_in(assigner, *everybody)
    assigner.limit = 1
    late = {name for name in everybody if record(assigner, name).flags == ONE_LOGIN}
    assigner.set_backends(HOSTS)
    moved = {name for name in late if assigner.place(key(name) >> 32, b"") is HOSTS[2]}
    assert 0 < len(moved) < len(late)
    shed(assigner.users, LATER)
    assert {name for name in late if assigner.users.get(key(name)) is not None} == moved


@pytest.mark.parametrize(
    "change",
    [{"since": NOW + 1}, {"retagged": NOW + 1}, {"tag": "gold"}, {"up": False}, {"weight": 0}],
    ids=str,
)
def test_a_user_of_a_host_that_was_changed_since_is_not_dropped_early(
    hot: HotPath, change: dict[str, Any]
) -> None:
    assigner = director(hot, 1, HOSTS[:1])
    log_in(assigner, "user0")
    assigner.set_backends([HOSTS[0]._replace(**change)])
    shed(assigner.users, LATER)
    alone_in_its_pool = "tag" in change
    assert len(assigner.users) == (0 if alone_in_its_pool else 1)


def test_a_user_of_a_pool_is_at_home_where_the_hash_of_that_pool_puts_the_user(hot: HotPath) -> None:
    gold = [backend(number, tag="gold") for number in (7, 8)]
    assigner = director(hot, 2, [*HOSTS, *gold])
    for name in ("user0", "user1", "user2"):
        assigner.assign(key(name, b"gold"), b"gold")
    assert len(assigner.users) == 2
    assert shed(assigner.users, LATER) == 1


def test_records_that_are_gone_are_dropped_on_the_way(hot: HotPath) -> None:
    assigner = director(hot, 2)
    log_in(assigner, "user0")
    assert shed(assigner.users, NOW + 4 * EXPIRE) == 1


# Messages between directors


@pytest.mark.shows("rule 49")
def test_a_record_that_may_be_dropped_early_is_in_no_digest_whether_it_was_dropped_or_not(
    hot: HotPath,
) -> None:
    one, other = director(hot, 4), director(hot, 4)
    log_in(one, *names(4))
    other.users.merge(b"".join(map(one.users.bucket, range(BUCKETS))))
    assert one.users.digests(LATER - 1) == other.users.digests(LATER - 1)
    assert shed(one.users, LATER) == 2
    assert one.users.digests(LATER) == other.users.digests(LATER)
    for number in range(BUCKETS):
        assert one.users.summary(number, LATER) == other.users.summary(number, LATER)
        assert other.users.missing(number, one.users.summary(number, LATER), LATER) == b""


def test_a_digest_changes_when_a_record_comes_of_age_and_when_hosts_change(hot: HotPath) -> None:
    assigner = director(hot, 1, HOSTS[:1])
    log_in(assigner, "user0")
    number = key("user0") >> BUCKET_SHIFT
    young = assigner.users.digest(number, LATER - 1)
    assert young != bytes(8)
    assert assigner.users.digest(number, LATER) == bytes(8)
    assigner.set_backends([HOSTS[0]._replace(up=False), HOSTS[1]])
    assert assigner.users.digest(number, LATER) == young, "it is not at home: it is told to who connects"
    assigner.set_backends(HOSTS[:1])
    assert assigner.users.digest(number, LATER) == bytes(8)


@pytest.mark.shows("rule 49", "A-34")
def test_users_that_a_host_change_would_put_elsewhere_are_told_to_directors_that_have_dropped_them(
    hot: HotPath,
) -> None:
    one, other = director(hot, 40, HOSTS[:2]), director(hot, 40, HOSTS[:2])
    log_in(one, *names(40))
    other.users.merge(one.users.take_changes())
    assert shed(other.users, LATER) == 20
    for assigner in (one, other):
        assigner.set_backends(HOSTS)
    confirmed = one.users.confirm(0, BUCKETS)
    news = one.users.take_changes()
    assert len(news) == 22 * confirmed > 0
    assert len(other.users.merge(news)) > 0
    assert one.users.digests(LATER) == other.users.digests(LATER)
    for name in names(40):
        mine, theirs = one.users.get(key(name)), other.users.get(key(name))
        assert mine is not None
        assert mine == theirs or (mine.flags == ONE_LOGIN and theirs is None)
        assert mine.flags == 0 or one.place(key(name) >> 32, b"") is not HOSTS[2]
    assert one.users.confirm(0, BUCKETS) == 0


def test_a_table_without_an_assigner_drops_no_record_early(hot: HotPath) -> None:
    users = hot.UserTable(EXPIRE)
    users.put(User(UserKey(1), HostId(7), Stamp(NOW), NOW, ONE_LOGIN))
    assert users.shed(0, LATER) == 0
    assert users.digest(0, LATER) != bytes(8)


def test_the_time_until_a_record_may_be_dropped_can_be_told(hot: HotPath) -> None:
    assigner = hot.Assigner(hot.UserTable(EXPIRE, 5), UserHash())
    assigner.set_backends(HOSTS)
    assigner.gate, assigner.unix, assigner.limit = Gate.OPEN, NOW, 1
    log_in(assigner, "user0")
    assert (shed(assigner.users, NOW + 4), shed(assigner.users, NOW + 5)) == (0, 1)
