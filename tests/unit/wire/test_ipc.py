"""The lines of Dovecot 2.3's ipc socket. Replies are those of 2.3.19."""

from __future__ import annotations

import msgspec
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
from director.wire.ipc import (
    REQUEST_LIMIT,
    Done,
    Failed,
    ListingRows,
    Malformed,
    Row,
    kick_requests,
    read_reply,
)
from director.wire.sessions import Census, SessionList

HEADER = b"username\tuser_dirkey\tservice\tsrc-ip\tdest-ip\tdest-port"
POP3 = [
    HEADER,
    b"u0\t1043549829@127.0.32.2\tpop3\t127.0.0.1\t127.0.32.2\t11110",
    b"u1\t3833023709@127.0.32.1\tpop3\t127.0.0.1\t127.0.32.1\t11110",
]
IMAP = [
    b"username\tuser_guest\tuser_dirkey\tservice\tsrc-ip\tdest-ip\tdest-port",
    b"u0\tno\t1043549829@127.0.32.2\timap\t127.0.0.1\t127.0.32.2\t11143",
    b"u0\tyes\t1043549829@127.0.32.1\timap\t127.0.0.1\t127.0.32.1\t11143",
]
SAMPLES: list[tuple[KickWhat, list[bytes], bytes]] = [
    (
        HashOnHosts(1043549829, ["127.0.32.1", "2001:db8::1"]),
        [b"proxy\t*\tKICK-ALT\tuser_dirkey\t1043549829@127.0.32.1\t1043549829@2001:db8::1\n"],
        b"\x93\x01\xce>3N\x85\x92\xaa127.0.32.1\xab2001:db8::1",
    ),
    (ByName(b"alice"), [b"proxy\t*\tKICK\talice\n"], b"\x92\x02\xc4\x05alice"),
    (
        ByField("user_guest", b"yes"),
        [b"proxy\t*\tKICK-ALT\tuser_guest\tyes\n"],
        b"\x93\x03\xaauser_guest\xc4\x03yes",
    ),
    (OnHost("127.0.32.1"), [b"proxy\t*\tKICK-HOST\t127.0.32.1\n"], b"\x92\x04\xaa127.0.32.1"),
    (Fence(), [], b"\x91\x05"),
]


@pytest.mark.parametrize(("what", "lines"), [sample[:2] for sample in SAMPLES])
def test_each_kick_has_its_line(what: KickWhat, lines: list[bytes]) -> None:
    assert kick_requests(what) == lines


@pytest.mark.parametrize(("what", "encoded"), [sample[::2] for sample in SAMPLES])
def test_each_kick_travels_in_the_ring_as_it_always_did(what: KickWhat, encoded: bytes) -> None:
    assert msgspec.msgpack.encode(what) == encoded
    assert msgspec.msgpack.decode(encoded, type=KickWhat) == what


def test_a_name_with_a_tab_and_a_line_feed_stays_one_word_of_one_line() -> None:
    assert kick_requests(ByName(b"a\tb\nc\rd\x01e")) == [b"proxy\t*\tKICK\ta\x01tb\x01nc\x01rd\x011e\n"]
    assert kick_requests(ByField("user_x", b"a\tb\n")) == [b"proxy\t*\tKICK-ALT\tuser_x\ta\x01tb\x01n\n"]


def test_a_kick_on_many_hosts_is_split_into_lines_of_limited_length() -> None:
    hosts = [f"2001:db8:1234:5678:9abc:def0:1234:{number:x}" for number in range(300)]
    lines = kick_requests(HashOnHosts(4294967295, hosts))
    words = [line[:-1].split(b"\t") for line in lines]
    assert max(map(len, lines)) <= REQUEST_LIMIT
    assert min(map(len, lines[:-1])) > REQUEST_LIMIT - 60
    assert {tuple(line[:4]) for line in words} == {(b"proxy", b"*", b"KICK-ALT", b"user_dirkey")}
    assert [word for line in words for word in line[4:]] == [f"4294967295@{h}".encode() for h in hosts]


def test_a_line_may_be_as_long_as_the_limit_and_no_longer() -> None:
    start = len(b"proxy\t*\tKICK-ALT\tuser_dirkey\n")
    room = REQUEST_LIMIT - start - len(b"\t1@")
    assert [len(line) for line in kick_requests(HashOnHosts(1, ["h" * room]))] == [REQUEST_LIMIT]
    assert len(kick_requests(HashOnHosts(1, ["h" * (room - 5), "hh"]))) == 1
    assert len(kick_requests(HashOnHosts(1, ["h" * (room - 5), "hhh"]))) == 2


def test_a_kick_on_no_host_is_no_line() -> None:
    assert kick_requests(HashOnHosts(1, [])) == []


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b":" + HEADER, Row(HEADER)),
        (b":", Row(b"")),
        (b"+2", Done(2)),
        (b"+", Done(0)),
        (b"+(null)", Done(0)),
        (b"+" + b"9" * 5000, Done(0)),
        (b"-Unknown command", Failed("Unknown command")),
        (b"-\xff", Failed("\\xff")),
        (b"-", Failed("no reason given")),
    ],
)
def test_each_reply_is_understood(line: bytes, reply: Row | Done | Failed) -> None:
    assert read_reply(line) == reply


@pytest.mark.parametrize("line", [b"", b"OK", b"VERSION\tipc-proxy\t1\t0"])
def test_what_is_no_reply_is_malformed(line: bytes) -> None:
    with pytest.raises(Malformed):
        read_reply(line)


def listed(*rows: bytes) -> list[ProxiedSession]:
    listing = SessionList()
    taken = ListingRows(listing)
    for row in rows:
        taken.add(row)
    return listing.sessions


def counted(*rows: bytes) -> Census:
    census = Census()
    taken = ListingRows(census)
    for row in rows:
        taken.add(row)
    return census


def test_columns_are_found_by_the_header_each_login_process_sends() -> None:
    assert listed(*POP3, *IMAP) == [
        ProxiedSession(b"u0", "127.0.32.2", 1043549829),
        ProxiedSession(b"u1", "127.0.32.1", 3833023709),
        ProxiedSession(b"u0", "127.0.32.2", 1043549829),
        ProxiedSession(b"u0", "127.0.32.1", 1043549829),
    ]


@pytest.mark.parametrize("key", [b"", b"@127.0.32.1", b"12", b"x@127.0.32.1", b"4294967296@127.0.32.1"])
def test_a_session_that_no_director_sent_has_no_hash(key: bytes) -> None:
    row = b"u0\t%s\timap\t127.0.0.1\t127.0.32.1\t143" % key
    assert listed(HEADER, row) == [ProxiedSession(b"u0", "127.0.32.1", None)]


def test_a_login_process_without_any_fields_lists_its_sessions_too() -> None:
    rows = [b"username\tservice\tsrc-ip\tdest-ip\tdest-port", b"bob\timap\t127.0.0.1\t127.0.32.1\t143"]
    assert listed(*rows) == [ProxiedSession(b"bob", "127.0.32.1", None)]


def test_names_in_a_listing_are_unescaped() -> None:
    row = b"a\x01tb\t7@127.0.32.1\timap\t127.0.0.1\t127.0.32.1\t143"
    assert listed(HEADER, row) == [ProxiedSession(b"a\tb", "127.0.32.1", 7)]


def test_rows_that_do_not_fit_their_header_are_left_out() -> None:
    assert listed(POP3[1], HEADER, b"u0\tx\t127.0.32.1\t143", b"") == []


def test_a_user_called_like_the_header_is_no_header() -> None:
    row = b"username\t7@127.0.32.1\timap\t127.0.0.1\t127.0.32.1\t143"
    assert listed(HEADER, row, POP3[1]) == [
        ProxiedSession(b"username", "127.0.32.1", 7),
        ProxiedSession(b"u0", "127.0.32.2", 1043549829),
    ]


@pytest.mark.parametrize(
    ("what", "sessions"),
    [
        (HashOnHosts(1043549829, ["127.0.32.2"]), 2),
        (HashOnHosts(1043549829, ["127.0.32.1", "127.0.32.2"]), 3),
        (HashOnHosts(1, ["127.0.32.2"]), 0),
        (ByName(b"u0"), 3),
        (ByName(b"imap"), 0),
        (ByField("user_guest", b"yes"), 1),
        (ByField("username", b"u0"), 0),
        (OnHost("127.0.32.1"), 2),
        (OnHost("127.0.0.1"), 0),
        (Fence(), 0),
    ],
)
def test_the_sessions_a_kick_ends_are_counted_in_a_listing(what: KickWhat, sessions: int) -> None:
    census = counted(*POP3, *IMAP)
    assert census.take(what) == sessions
    assert census.take(what) == 0
