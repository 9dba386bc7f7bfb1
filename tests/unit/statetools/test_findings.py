"""Each kind of damage is found, explained, and repaired without dropping records that can be kept."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest

from director.core.placement.names import entry
from director.core.placement.users import BY_HAND, LATEST, PINNED, RECORD, User, pack
from director.statetools.findings import CheckedStore, TimeLimits, check_names, check_users, unknown_hosts
from director.types import HostId, Stamp, UserKey
from state.base import Bucket, version_of

NOW = 1_795_000_000
LIMITS = TimeLimits.at(NOW, expire=900)
NUMBER = 291
HOSTS = frozenset({HostId(1), HostId(2)})


def user(
    low: int, host: int = 1, decided: int = NOW, seen: int = NOW, flags: int = 0, bucket: int = NUMBER
) -> User:
    return User(UserKey(bucket << 52 | 1 << 32 | low), HostId(host), Stamp(decided), seen, flags)


def users(blob: bytes, version: bytes | None = None) -> Bucket:
    return Bucket("users", NUMBER, version_of(blob) if version is None else version, blob)


def names(blob: bytes) -> Bucket:
    return Bucket("names", NUMBER, version_of(blob), blob)


def problems(checked: CheckedStore) -> list[str]:
    found = [finding.problem for finding in checked.findings]
    return found if checked.strays is None else [*found, checked.strays.problem]


def repaired(blob: bytes, hosts: frozenset[HostId] | None = HOSTS) -> bytes:
    """The bucket after its repair, which must have no findings."""
    checked = check_users(users(blob), hosts, LIMITS)
    assert checked.blob != blob
    again = check_users(users(checked.blob), hosts, LIMITS)
    assert (problems(again), again.unknown) == ([], {})
    return checked.blob


A, B, C = user(1), user(2, host=2), user(3)


@pytest.mark.parametrize(
    "blob", [b"", pack([A, B, C]), pack([user(1, host=0, flags=BY_HAND)]), pack([user(1, seen=NOW + 300)])]
)
def test_a_correct_bucket_is_not_changed(blob: bytes) -> None:
    checked = check_users(users(blob), HOSTS, LIMITS)
    assert (problems(checked), checked.blob, checked.unknown) == ([], blob, {})


def test_a_truncated_record_is_dropped_and_all_others_are_kept() -> None:
    blob = pack([A, B]) + b"xyz"
    assert problems(check_users(users(blob), HOSTS, LIMITS)) == ["3 bytes after the last whole record"]
    assert repaired(blob) == pack([A, B])


def test_records_out_of_order_are_sorted() -> None:
    blob = pack([B, A])
    assert problems(check_users(users(blob), HOSTS, LIMITS)) == [
        "the records are not in the order of their keys"
    ]
    assert repaired(blob) == pack([A, B])


def test_of_two_records_of_a_key_the_later_decision_is_kept() -> None:
    pinned = user(1, host=2, decided=NOW + 5, flags=PINNED | BY_HAND)
    blob = pack([A, pinned])
    assert problems(check_users(users(blob), HOSTS, LIMITS)) == ["records of a key that has one already: 1"]
    assert repaired(blob) == pack([pinned])


def test_records_of_another_bucket_are_found_and_kept_until_they_are_moved_there() -> None:
    stray = user(1, bucket=7)
    checked = check_users(users(pack([stray, A])), HOSTS, LIMITS)
    assert problems(checked) == ["records that belong to other buckets: 1"]
    assert set(checked.records) == {stray.key, A.key}


def test_records_of_unknown_hosts_are_dropped_unless_an_operator_wrote_them() -> None:
    pinned = user(2, host=9, flags=PINNED | BY_HAND)
    checked = check_users(users(pack([user(1, host=9), pinned, C])), HOSTS, LIMITS)
    assert (problems(checked), checked.unknown, checked.kept) == ([], {9: 2}, {9: 1})
    assert checked.blob == pack([pinned, C])


def test_no_record_is_dropped_because_of_its_host_if_the_hosts_are_not_known() -> None:
    blob = pack([user(1, host=9)])
    checked = check_users(users(blob), None, LIMITS)
    assert (problems(checked), checked.blob, checked.unknown) == ([], blob, {})


@pytest.mark.parametrize("late", [user(1, decided=LATEST), user(1, seen=LATEST)])
def test_a_time_in_the_far_future_becomes_now_and_the_host_stays(late: User) -> None:
    assert problems(check_users(users(pack([late])), HOSTS, LIMITS)) == [
        "records with a time in the far future: 1"
    ]
    assert repaired(pack([late])) == pack([A])


def test_flags_that_do_not_exist_are_removed() -> None:
    assert repaired(pack([user(1, flags=0x8000 | PINNED)])) == pack([user(1, flags=PINNED)])


@pytest.mark.parametrize("bad", [user(1, host=0), User(UserKey(5), HostId(1), Stamp(NOW), NOW, 0)])
def test_a_record_that_no_director_writes_is_dropped(bad: User) -> None:
    assert problems(check_users(users(pack(sorted([bad, B]))), HOSTS, LIMITS)) == [
        "records without a user hash or without a host: 1"
    ]
    assert repaired(pack(sorted([bad, B]))) == pack([B])


def test_a_version_that_does_not_fit_the_content_is_found() -> None:
    checked = check_users(users(pack([A]), version=b"another1"), HOSTS, LIMITS)
    assert problems(checked) == ["the version is not that of the content"]
    assert checked.blob == pack([A])


@hypothesis.given(st.binary(max_size=5 * RECORD.size))
def test_a_second_repair_of_any_bucket_of_users_finds_nothing(blob: bytes) -> None:
    once = check_users(users(blob), HOSTS, LIMITS)
    again = check_users(users(once.blob), HOSTS, LIMITS)
    assert again.findings == []
    assert again.unknown == again.kept


@hypothesis.given(st.binary(max_size=100))
def test_a_second_repair_of_any_bucket_of_names_finds_nothing(blob: bytes) -> None:
    assert check_names(names(check_names(names(blob)).blob)).findings == []


def test_correct_names_are_not_changed() -> None:
    blob = entry(A.key, b"alice") + entry(B.key, b"bob\xff")
    checked = check_names(names(blob))
    assert (problems(checked), checked.blob) == ([], blob)


@pytest.mark.parametrize(
    ("blob", "problem", "after"),
    [
        (
            entry(A.key, b"alice") + entry(B.key, b"bob")[:-1],
            "12 bytes after the last whole name",
            entry(A.key, b"alice"),
        ),
        (
            entry(B.key, b"bob") + entry(A.key, b"alice"),
            "the names are not in the order of their keys",
            entry(A.key, b"alice") + entry(B.key, b"bob"),
        ),
        (
            entry(A.key, b"alice") + entry(A.key, b"malice"),
            "names of a key that has one already: 1",
            entry(A.key, b"malice"),
        ),
        (
            entry(A.key, b"ali\tce") + entry(B.key, b"bob"),
            "names that are empty, have control characters, or have no user hash: 1",
            entry(B.key, b"bob"),
        ),
        (
            entry(A.key, b"") + entry(B.key, b"bob"),
            "names that are empty, have control characters, or have no user hash: 1",
            entry(B.key, b"bob"),
        ),
        (
            entry(A.key, b"x" * 256) + entry(B.key, b"y" * 255),
            "names of more than 255 bytes: 1",
            entry(B.key, b"y" * 255),
        ),
    ],
)
def test_damaged_names_are_found_and_complete_names_are_kept(blob: bytes, problem: str, after: bytes) -> None:
    checked = check_names(names(blob))
    assert problems(checked) == [problem]
    assert checked.blob == after


def test_an_unknown_host_is_one_finding_however_many_users_it_has() -> None:
    checked = check_users(users(pack([user(1, host=9), user(2, host=9, flags=PINNED)])), HOSTS, LIMITS)
    (finding,) = unknown_hosts(checked.unknown, checked.kept, checked.unknown - checked.kept)
    assert finding.problem.endswith("not even as removed: 2")
    assert finding.outcome.startswith("dropped: 1, kept: 1; `director add` the host")
    assert not finding.fixed
