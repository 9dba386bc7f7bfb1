"""The lines of Dovecot 2.4's anvil. Listings are those of 2.4.1."""

from __future__ import annotations

import pytest

from director.core.protocol.kicktypes import (
    ByField,
    ByName,
    Fence,
    HashOnHosts,
    KickWhat,
    OnHost,
    ProxiedSession,
)
from director.wire.anvil import Session, SessionRows, Sessions, kick_one, kick_requests, read_count
from director.wire.sessions import SessionList

LISTING = [
    b"user_dirkey\tuser_guest",
    b"2040\tbob\tpop3-login\t127.0.0.1\tb1e9\t127.0.41.4\t2677887420@127.0.41.4",
    b"1999\tann\timap-login\t127.0.0.1\te0fc\t127.0.41.1\t2114813834@127.0.41.1\tyes",
    b"1999\tann\timap-login\t127.0.0.1\t7d85\t127.0.41.1\t\t",
    b"2050\tlocal\timap\t127.0.0.1\t5896\t\t\t",
]
BOB = Session(2040, b"bob", "pop3-login", b"b1e9", b"127.0.41.4", b"2677887420@127.0.41.4", {})
ANN = Session(
    1999, b"ann", "imap-login", b"e0fc", b"127.0.41.1", b"2114813834@127.0.41.1", {b"user_guest": b"yes"}
)
PAST = Session(1999, b"ann", "imap-login", b"7d85", b"127.0.41.1", b"", {})


def taken(*lines: bytes) -> Sessions:
    listing = Sessions()
    rows = SessionRows(listing)
    for line in lines:
        rows.add(line)
    return listing


def test_a_session_that_is_not_proxied_is_not_listed_and_a_field_seen_later_is_no_loss() -> None:
    assert taken(*LISTING).sessions == [BOB, ANN, PAST]


def test_the_sessions_are_those_the_director_compares() -> None:
    listing = SessionList()
    rows = SessionRows(listing)
    for line in LISTING:
        rows.add(line)
    assert listing.sessions == [
        ProxiedSession(b"bob", "127.0.41.4", 2677887420),
        ProxiedSession(b"ann", "127.0.41.1", 2114813834),
        ProxiedSession(b"ann", "127.0.41.1", None),
    ]


def test_without_any_field_the_first_line_is_empty() -> None:
    assert taken(b"", b"1\ta\x01tb\timap-login\t127.0.0.1\tid\t127.0.41.1").sessions == [
        Session(1, b"a\tb", "imap-login", b"id", b"127.0.41.1", b"", {})
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"x\tann\timap-login\t127.0.0.1\tid\t127.0.41.1",
        b"1\tann",
        b"1\t2\t3\t4\t5\t6\t7\t8\t9",
        b"9" * 5000 + b"\tann\timap-login\t127.0.0.1\tid\t127.0.41.1",
    ],
)
def test_a_line_that_is_no_session_is_left_out(line: bytes) -> None:
    assert taken(LISTING[0], line).sessions == []


KICK_ANN = b"KICK-ALT-USER\tuser_dirkey\t2114813834@127.0.41.1\n"
ON_BOTH = HashOnHosts(2114813834, ["127.0.41.1", "127.0.41.4"])


@pytest.mark.parametrize(
    ("what", "lines", "ended"),
    [
        (ON_BOTH, [KICK_ANN, KICK_ANN.replace(b".1\n", b".4\n")], [ANN]),
        (ByName(b"bob"), [b"KICK-ALT-USER\tuser_dirkey\t" + BOB.key + b"\n"], [BOB]),
        (ByName(b"a\tb\n"), [], []),
        (ByField("user_guest", b"yes"), [KICK_ANN], [ANN]),
        (ByField("user_guest", b""), [], []),
        (ByField("user_dirkey", BOB.key), [b"KICK-ALT-USER\tuser_dirkey\t" + BOB.key + b"\n"], [BOB]),
        (ByField("user_dirkey", b""), [], []),
        (ByField("username", b"ann"), [], []),
        (OnHost("127.0.41.1"), [KICK_ANN], [ANN, PAST]),
        (OnHost("127.0.41.2"), [], []),
        (Fence(), [], []),
    ],
)
def test_each_kick_has_its_lines_and_its_sessions(
    what: KickWhat, lines: list[bytes], ended: list[Session]
) -> None:
    there = taken(*LISTING)
    assert kick_requests(what, there) == lines
    assert there.of(what) == ended


@pytest.mark.parametrize(
    ("what", "line"),
    [
        (ByName(b"ann"), b"KICK-USER\tann\n"),
        (ByField("user_guest", b"yes"), b"KICK-ALT-USER\tuser_guest\tyes\n"),
    ],
)
@pytest.mark.parametrize(
    "other",
    [
        b"1\tanna\timap-login\t127.0.0.1\tid\t127.0.41.1\t2114813834@127.0.41.1",
        b"1\tann\timap-login\t127.0.0.1\tid\t127.0.41.1\t\tyes",
    ],
)
def test_where_a_key_is_not_that_of_the_meant_alone_they_are_ended_as_they_are_named(
    what: KickWhat, line: bytes, other: bytes
) -> None:
    assert kick_requests(what, taken(*LISTING[:3], other)) == [line]


def test_a_session_here_that_a_director_sent_here_is_ended_and_no_other_that_is_not_proxied() -> None:
    sent = b"7\tlocal\timap\t127.0.0.1\t5897\t\t12@127.0.41.9\t"
    there = taken(*LISTING, sent)
    here = Session(7, b"local", "imap", b"5897", b"127.0.41.9", b"12@127.0.41.9", {})
    for what in (ByName(b"local"), OnHost("127.0.41.9"), HashOnHosts(12, ["127.0.41.9"])):
        assert there.of(what) == [here]
        assert kick_requests(what, there) == [b"KICK-ALT-USER\tuser_dirkey\t12@127.0.41.9\n"]


def test_one_session_is_ended_by_its_id() -> None:
    assert kick_one(ANN) == b"KICK-USER\tann\te0fc\n"


@pytest.mark.parametrize(("line", "count"), [(b"0", 0), (b"12", 12), (b"+1", 1)])
def test_the_number_ended_is_read(line: bytes, count: int) -> None:
    assert read_count(line) == count


@pytest.mark.parametrize("line", [b"", b"-", b"-1", b"one", b"+", b"9" * 5000])
def test_what_is_no_number_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not the number"):
        read_count(line)
