"""The codec of the admin protocol: every command in its good and bad forms, every reply byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.errors import PeerError
from director.records import HostInfo, MemberInfo, UserInfo, UserStatus
from director.types import Address
from director.wire.admin import (
    GREETING,
    AdminSyntaxError,
    Command,
    DirectorAdd,
    DirectorList,
    DirectorRemove,
    HostDown,
    HostFlush,
    HostList,
    HostListRemoved,
    HostRemove,
    HostResetUsers,
    HostSet,
    HostUp,
    HostUpdate,
    UserKick,
    UserKickAlt,
    UserList,
    UserLookup,
    UserMove,
    check_version,
    director_list,
    host_list,
    parse,
    refusal,
    removed_hosts,
    user_lookup,
    user_rows,
)

B5 = Address("127.0.1.5")

GOOD: list[tuple[bytes, Command]] = [
    (b"HOST-LIST", HostList()),
    (b"HOST-LIST\textra", HostList()),
    (b"HOST-LIST-REMOVED", HostListRemoved()),
    (b"HOST-SET\t127.0.1.5", HostSet(B5)),
    (b"HOST-SET\t127.0.1.5\t50", HostSet(B5, None, 50)),
    (b"HOST-SET\t127.0.1.5\t0", HostSet(B5, None, 0)),
    (b"HOST-SET\t127.0.1.5\t4294967295", HostSet(B5, None, 4294967295)),
    (b"HOST-SET\t127.0.1.5@t1\t50", HostSet(B5, "t1", 50)),
    (b"HOST-SET\t127.0.1.5@", HostSet(B5)),
    (b"HOST-SET\t127.0.1.5@a@b", HostSet(B5, "a@b")),
    (b"HOST-SET\t2001:DB8:0::1@v6", HostSet(Address("2001:db8::1"), "v6")),
    (b"HOST-SET\t[2001:db8::1]", HostSet(Address("2001:db8::1"))),
    (b"HOST-UPDATE\t127.0.1.5\t30", HostUpdate(B5, 30)),
    (b"HOST-UPDATE\t127.0.1.5@t1\t30", HostUpdate(B5, 30, "t1")),
    (b"HOST-UP\t127.0.1.5", HostUp(B5)),
    (b"HOST-DOWN\t127.0.1.5", HostDown(B5)),
    (b"HOST-REMOVE\t127.0.1.5", HostRemove(B5)),
    (b"HOST-FLUSH", HostFlush()),
    (b"HOST-FLUSH\t", HostFlush()),
    (b"HOST-FLUSH\t127.0.1.5", HostFlush(B5)),
    (b"HOST-RESET-USERS", HostResetUsers()),
    (b"HOST-RESET-USERS\t\t7", HostResetUsers(None, 7)),
    (b"HOST-RESET-USERS\t127.0.1.5\t10", HostResetUsers(B5, 10)),
    (b"USER-LOOKUP", UserLookup("")),
    (b"USER-LOOKUP\talice", UserLookup("alice")),
    (b"USER-LOOKUP\talice\t", UserLookup("alice")),
    (b"USER-LOOKUP\talice\tt1\tmore", UserLookup("alice", "t1")),
    (b"USER-LOOKUP\ta\x01tb", UserLookup("a\tb")),
    (b"USER-LOOKUP\tj\xc3\xbcrgen", UserLookup("jürgen")),
    (b"USER-LOOKUP\tj\xfcrgen", UserLookup("j\udcfcrgen")),
    (b"USER-LIST", UserList()),
    (b"USER-LIST\t", UserList()),
    (b"USER-LIST\t127.0.1.5", UserList(B5)),
    (b"USER-MOVE\t4242\t127.0.1.5", UserMove("4242", B5)),
    (b"USER-KICK\tmallory", UserKick("mallory")),
    (b"USER-KICK\tmallory\tnowait", UserKick("mallory", wait=False)),
    (b"USER-KICK\tmallory\twait", UserKick("mallory")),
    (b"USER-KICK-ALT\tfield\tvalue", UserKickAlt("field", "value")),
    (b"USER-KICK-ALT\tfield\tvalue\tnowait", UserKickAlt("field", "value", wait=False)),
    (b"DIRECTOR-LIST", DirectorList()),
    (b"DIRECTOR-ADD\t127.0.1.5", DirectorAdd(B5)),
    (b"DIRECTOR-ADD\t127.0.1.5\t9090", DirectorAdd(B5, 9090)),
    (b"DIRECTOR-REMOVE\t127.0.1.5\t65535", DirectorRemove(B5, 65535)),
]

BAD = [
    (b"", "doveadm sent empty command line"),
    (b"BOGUS", "doveadm sent unknown command: 'BOGUS'"),
    (b"host-list", "doveadm sent unknown command: 'host-list'"),
    (b"\tHOST-LIST", "doveadm sent unknown command: ''"),
    (b"HOST-SET", "doveadm sent invalid HOST-SET parameters: the address is missing"),
    (b"HOST-SET\tx", "doveadm sent invalid HOST-SET parameters: 'x' is not an IP address"),
    (b"HOST-SET\t@t1", "doveadm sent invalid HOST-SET parameters: the address is missing"),
    (
        b"HOST-SET\t127.0.1.5\tabc",
        "doveadm sent invalid HOST-SET parameters: 'abc' is not a number from 0 to 4294967295",
    ),
    (
        b"HOST-SET\t127.0.1.5\t-1",
        "doveadm sent invalid HOST-SET parameters: '-1' is not a number from 0 to 4294967295",
    ),
    (
        b"HOST-SET\t127.0.1.5\t4294967296",
        "doveadm sent invalid HOST-SET parameters: '4294967296' is not a number from 0 to 4294967295",
    ),
    (
        b"HOST-SET\t127.0.1.5\t",
        "doveadm sent invalid HOST-SET parameters: '' is not a number from 0 to 4294967295",
    ),
    (b"HOST-UPDATE\t127.0.1.1", "doveadm sent invalid HOST-UPDATE parameters: the vhost count is missing"),
    (b"HOST-UP", "doveadm sent invalid HOST-UP parameters: the address is missing"),
    (b"HOST-DOWN\tx", "doveadm sent invalid HOST-DOWN parameters: 'x' is not an IP address"),
    (b"HOST-REMOVE\t", "doveadm sent invalid HOST-REMOVE parameters: the address is missing"),
    (b"HOST-FLUSH\tx", "doveadm sent invalid HOST-FLUSH parameters: 'x' is not an IP address"),
    (b"HOST-RESET-USERS\tx", "doveadm sent invalid HOST-RESET-USERS parameters: 'x' is not an IP address"),
    (
        b"HOST-RESET-USERS\t127.0.1.1\t0",
        "doveadm sent invalid HOST-RESET-USERS parameters: with 0 moves at a time it would never end",
    ),
    (b"USER-LIST\tx", "doveadm sent invalid USER-LIST parameters: 'x' is not an IP address"),
    (b"USER-MOVE\tu", "doveadm sent invalid USER-MOVE parameters: user or host is missing"),
    (b"USER-MOVE\tu\tx", "doveadm sent invalid USER-MOVE parameters: 'x' is not an IP address"),
    (b"USER-KICK", "doveadm sent invalid USER-KICK parameters: the user is missing"),
    (b"USER-KICK-ALT\tf", "doveadm sent invalid USER-KICK-ALT parameters: field or value is missing"),
    (b"DIRECTOR-ADD", "doveadm sent invalid DIRECTOR-ADD parameters: the address is missing"),
    (b"DIRECTOR-ADD\t127.0.1.5\t0", "doveadm sent invalid DIRECTOR-ADD parameters: 0 is not a port"),
    (
        b"DIRECTOR-REMOVE\t127.0.1.5\t65536",
        "doveadm sent invalid DIRECTOR-REMOVE parameters: '65536' is not a number from 0 to 65535",
    ),
]


@pytest.mark.shows("R-53")
@pytest.mark.parametrize(("line", "command"), GOOD, ids=[line.decode("latin-1") for line, _ in GOOD])
def test_a_line_is_the_command_it_names(line: bytes, command: Command) -> None:
    assert parse(line) == command


@pytest.mark.shows("I-2", "K5")
@pytest.mark.parametrize(("line", "text"), BAD, ids=[line.decode() for line, _ in BAD])
def test_a_line_that_is_no_command_is_refused_with_the_reason(line: bytes, text: str) -> None:
    with pytest.raises(AdminSyntaxError) as refused:
        parse(line)
    assert str(refused.value) == text


@given(st.binary(max_size=80))
def test_any_bytes_are_a_command_or_refused_in_one_line(line: bytes) -> None:
    assert "\n" not in _outcome(line)


@given(st.sampled_from([line for line, _ in GOOD]), st.lists(st.binary(max_size=20), max_size=4))
def test_any_parameters_make_a_command_or_are_refused(line: bytes, values: list[bytes]) -> None:
    assert _outcome(b"\t".join([line, *values])).startswith(("command", "doveadm sent invalid "))


def _outcome(line: bytes) -> str:
    try:
        return f"command {type(parse(line)).__name__}"
    except PeerError as exc:
        return str(exc)


def test_a_long_wrong_value_is_quoted_only_in_part() -> None:
    with pytest.raises(AdminSyntaxError) as refused:
        parse(b"x" * 1000)
    assert len(str(refused.value)) < 120


@pytest.mark.parametrize("line", [GREETING[:-1], b"VERSION\tdirector-doveadm\t1\t99"])
def test_our_protocol_is_accepted_with_any_minor_version(line: bytes) -> None:
    check_version(line)
    assert GREETING == b"VERSION\tdirector-doveadm\t1\t0\n"


@pytest.mark.parametrize(
    "line",
    [
        b"VERSION\tdirector-doveadm\t2\t0",
        b"VERSION\tdirector\t1\t0",
        b"VERSION\tdirector-doveadm\t1",
        b"VERSION\tdirector-doveadm\t1\tx",
        b"VERSION\tdirector-doveadm\t\xb9\t0",
        b"HOST-LIST",
        b"",
    ],
)
def test_another_protocol_or_major_version_is_refused(line: bytes) -> None:
    with pytest.raises(
        AdminSyntaxError, match=r"doveadm not compatible with this server .* expected VERSION"
    ):
        check_version(line)


def test_hosts_are_listed_as_by_the_director_of_dovecot_2_3() -> None:
    hosts = [
        HostInfo(address="127.0.1.5", weight=20, up=False, changed=1795452422),
        HostInfo(address="127.0.1.6", weight=60, up=True, tag="t1", users=3, hostname="imap6"),
    ]
    assert host_list(hosts) == b"127.0.1.5\t20\t0\t\tD\t1795452422\n127.0.1.6\t60\t3\tt1\tU\t0\n\n"


def test_an_empty_list_is_an_empty_line() -> None:
    assert [host_list([]), removed_hosts([]), director_list([])] == [b"\n", b"\n", b"\n"]


def test_removed_hosts_are_listed_as_by_the_director_of_dovecot_2_3() -> None:
    assert removed_hosts(["127.0.1.4", "::1"]) == b"127.0.1.4\n::1\n\n"


def test_users_are_listed_as_by_the_director_of_dovecot_2_3() -> None:
    users = [
        UserInfo(hash=1669653170, key="6384e2b200000000", host="127.0.1.1", expires=1795453314),
        UserInfo(hash=1, key="0000000100000000", host="::1", expires=1795453315),
    ]
    assert user_rows(users) == b"1669653170\t1795453314\t127.0.1.1\n1\t1795453315\t::1\n"


def test_an_assigned_user_is_shown_with_host_expiry_and_both_circles() -> None:
    status = UserStatus(
        user="alice",
        hash=1,
        current="127.0.1.1",
        expires=1795453314,
        hashed="127.0.1.2",
        configured="127.0.1.3",
    )
    assert user_lookup(status) == b"127.0.1.1\t1795453314\t127.0.1.2\t127.0.1.3\n"


def test_an_unknown_user_of_an_unknown_tag_is_shown_with_empty_fields() -> None:
    assert user_lookup(UserStatus(user="alice", tag="x", hash=1)) == b"\t0\t\t\n"


def test_directors_are_listed_as_by_the_director_of_dovecot_2_3() -> None:
    members = [
        MemberInfo(address="127.0.0.11", port=9090, kind="self", status="ring synced", sync_ms=1),
        MemberInfo(
            address="127.0.0.12",
            port=9090,
            kind="right",
            status="synced",
            sync_ms=0,
            bytes_in=2228,
            bytes_out=9799,
            buffered=0,
            buffered_peak=225,
            last_read=1795452457,
            last_write=1795452458,
        ),
        MemberInfo(address="127.0.0.14", port=9090),
        MemberInfo(address="127.0.0.15", port=9999, kind="removed", last_failed=1795452400),
        MemberInfo(address="127.0.0.16", port=9090, kind="in", status="handshaking", bytes_in=5),
    ]
    assert director_list(members).split(b"\n") == [
        b"127.0.0.11\t9090\tself\t0\tring synced\t1",
        b"127.0.0.12\t9090\tright\t0\tsynced\t0\t2228\t9799\t0\t225\t1795452457\t1795452458",
        b"127.0.0.14\t9090\t\t0\t",
        b"127.0.0.15\t9999\tremoved\t1795452400\t",
        b"127.0.0.16\t9090\tin\t0\thandshaking\t0\t5\t0\t0\t0\t0\t0",
        b"",
        b"",
    ]


def test_a_tag_cannot_break_a_row() -> None:
    rows = host_list([HostInfo(address="127.0.1.5", weight=1, up=True, tag="a\tb\nc")])
    assert rows == b"127.0.1.5\t1\t0\ta\x01tb\x01nc\tU\t0\n\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("host tag can't be changed", b"host tag can't be changed\n"),
        ("two\nlines", b"two lines\n"),
        ("", b"refused\n"),
        ("no \udcff", b"no \\udcff\n"),
    ],
)
def test_a_refusal_is_always_one_line_with_a_text(text: str, line: bytes) -> None:
    assert refusal(text) == line
