"""The lines of Dovecot 2.4's anvil. Listings are those of 2.4.1."""

from __future__ import annotations

import pytest

from director.core.kicktypes import ByField, ByName, Fence, HashOnHosts, KickWhat, OnHost, ProxiedSession
from director.wire.anvil import Rows, Session, Sessions, kick_one, kick_requests, matches, read_count
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


def taken(*lines: bytes) -> list[Session]:
    listing = Sessions()
    rows = Rows(listing)
    for line in lines:
        rows.add(line)
    return listing.sessions


def test_who_is_not_proxied_is_not_listed_and_a_field_seen_later_is_no_loss() -> None:
    assert taken(*LISTING) == [BOB, ANN, PAST]


def test_the_sessions_are_those_the_director_compares() -> None:
    listing = SessionList()
    rows = Rows(listing)
    for line in LISTING:
        rows.add(line)
    assert listing.sessions == [
        ProxiedSession(b"bob", "127.0.41.4", 2677887420),
        ProxiedSession(b"ann", "127.0.41.1", 2114813834),
        ProxiedSession(b"ann", "127.0.41.1", None),
    ]


def test_without_any_field_the_first_line_is_empty() -> None:
    assert taken(b"", b"1\ta\x01tb\timap-login\t127.0.0.1\tid\t127.0.41.1") == [
        Session(1, b"a\tb", "imap-login", b"id", b"127.0.41.1", b"", {})
    ]


@pytest.mark.parametrize(
    "line", [b"x\tann\timap-login\t127.0.0.1\tid\t127.0.41.1", b"1\tann", b"1\t2\t3\t4\t5\t6\t7\t8\t9"]
)
def test_a_line_that_is_no_session_is_left_out(line: bytes) -> None:
    assert taken(LISTING[0], line) == []


@pytest.mark.parametrize(
    ("what", "lines", "ended"),
    [
        (
            HashOnHosts(2114813834, ["127.0.41.1", "127.0.41.4"]),
            [
                b"KICK-ALT-USER\tuser_dirkey\t2114813834@127.0.41.1\n",
                b"KICK-ALT-USER\tuser_dirkey\t2114813834@127.0.41.4\n",
            ],
            [ANN],
        ),
        (ByName(b"ann"), [b"KICK-USER\tann\n"], [ANN, PAST]),
        (ByName(b"a\tb\n"), [b"KICK-USER\ta\x01tb\x01n\n"], []),
        (ByField("user_guest", b"yes"), [b"KICK-ALT-USER\tuser_guest\tyes\n"], [ANN]),
        (ByField("user_dirkey", BOB.key), [b"KICK-ALT-USER\tuser_dirkey\t" + BOB.key + b"\n"], [BOB]),
        (ByField("username", b"ann"), [], []),
        (OnHost("127.0.41.1"), [b"KICK-ALT-USER\tuser_dirkey\t2114813834@127.0.41.1\n"], [ANN, PAST]),
        (OnHost("127.0.41.2"), [], []),
        (Fence(), [], []),
    ],
)
def test_each_kick_has_its_lines_and_its_sessions(
    what: KickWhat, lines: list[bytes], ended: list[Session]
) -> None:
    sessions = [BOB, ANN, PAST]
    assert kick_requests(what, sessions) == lines
    assert [session for session in sessions if matches(session, what)] == ended


def test_one_session_is_ended_by_its_id() -> None:
    assert kick_one(ANN) == b"KICK-USER\tann\te0fc\n"


@pytest.mark.parametrize(("line", "count"), [(b"0", 0), (b"12", 12), (b"+1", 1)])
def test_the_number_ended_is_read(line: bytes, count: int) -> None:
    assert read_count(line) == count


@pytest.mark.parametrize("line", [b"", b"-", b"-1", b"one", b"+", b"9" * 5000])
def test_what_is_no_number_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not the number"):
        read_count(line)
