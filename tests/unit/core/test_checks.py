"""Messages that a neighbour may not send."""

from __future__ import annotations

import pytest

from director.core.checks import wrong
from director.core.protocol.kicktypes import ByField, ByName, Fence, HashOnHosts, OnHost
from director.core.protocol.messages import (
    HostRow,
    Hosts,
    KickRound,
    Leaving,
    MemberRow,
    Members,
    MoveRound,
    Names,
    NearRound,
    Present,
    Redirect,
    RingMessage,
    Token,
    Users,
)
from tests.unit.core.cores import D1, D2

ROW = HostRow("10.1.0.1", "", True, 0, "", 0, 100, 0, True, 0)


@pytest.mark.shows("I-44", "K1", "A-59")
@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (Users(bytes(23)), "user records of 23 bytes"),
        (Members([MemberRow("a name", True, 1)]), "not ADDRESS:PORT"),
        (Members([MemberRow(D1, True, 1)] * 257), "a list of 257 directors: at most 256"),
        (Members([MemberRow(D1, True, -1)]), "has the stamp -1"),
        (Members([MemberRow(D1, True, 1 << 32)]), "has the stamp"),
        (Token(D1, 1, 3, b"", []), "a token in lap 3"),
        (Token("x", 1, 1, b"", []), "not ADDRESS:PORT"),
        (Token(D1, 1, 1, b"", [], -1), "a token with a limit of -1 users"),
        (Token(D1, 1, 1, b"", [], 1 << 70), "a token with a limit of 1180591620717411303424 users"),
        (MoveRound(D1, 1, bytes(13), [], [], 0), "no multiple of 12"),
        (MoveRound(D1, 1, bytes(12 * 20_001), [], [], 0), "a round about 20001 users"),
        (MoveRound(D1, 1, b"", [], [D1] * 1025, 0), "1025 members that were late"),
        (Token(D1, 1, 1, b"", [D1] * 1025), "has passed 1025 members"),
        (NearRound(D1, 1, 0, 0, [D1] * 1025), "has passed 1025 members"),
        (KickRound(D1, 1, 1, HashOnHosts(1, ["10.1.0.1"] * 10_001), [D1], [], 0), "a kick on 10001 hosts"),
        (MoveRound(D1, 1, b"", ["x"], [], 0), "not ADDRESS:PORT"),
        (NearRound(D1, 1, -1, 0, []), "key -1"),
        (NearRound(D1, 1, 1 << 64, 0, []), "key"),
        (NearRound(D1, 1, 0, 1 << 32, []), "seen 4294967296"),
        (NearRound("x", 1, 0, 0, []), "not ADDRESS:PORT"),
        (Members([MemberRow("10.0.0.1:09090", True, 1)]), "not ADDRESS:PORT"),
        (Members([MemberRow("[10.0.0.1]:9090", True, 1)]), "not ADDRESS:PORT"),
        (Members([MemberRow("[fe80::1%eth0]:9090", True, 1)]), "not ADDRESS:PORT"),
        (Members([MemberRow(D1, True, 1, "a" * 300 + ":9090")]), "has the name"),
        (MoveRound(D1, 1, b"", [], ["x"], 0), "not ADDRESS:PORT"),
        (MoveRound(D1, 1, b"", [], [], -1), "a count of -1 sessions"),
        (MoveRound(D1, 1, b"", [], [], (1 << 64) - 1), "a count of 18446744073709551615 sessions"),
        (KickRound(D1, 1, 1, Fence(), [], [], (1 << 64) - 1), "a count of"),
        (KickRound(D1, 1, 1, Fence(), [], ["x"], 0), "not ADDRESS:PORT"),
        (KickRound(D1, 1, 1, HashOnHosts(-1, []), [], [], 0), "a kick of the hash -1"),
        (KickRound(D1, 1, 1, HashOnHosts(1 << 32, []), [], [], 0), "a kick of the hash 4294967296"),
        (KickRound(D1, 1, 1, HashOnHosts(1, ["10.1.0.1", "x\n"]), [], [], 0), "not an address"),
        (KickRound(D1, 1, 1, HashOnHosts(1, ["10.1.0.1\n10.1.0.2"]), [], [], 0), "not an address"),
        (KickRound(D1, 1, 1, HashOnHosts(1, ["10.1.0.1", "", "::1"]), [], [], 0), "not an address"),
        (KickRound(D1, 1, 1, HashOnHosts(1, ["10.1.0.1", "10.1.0.2\t"]), [], [], 0), "not an address"),
        (KickRound(D1, 1, 1, OnHost("mail.example"), [], [], 0), "not an address"),
        (KickRound(D1, 1, 1, ByName(bytes(70_000)), [], [], 0), "a name of 70000 bytes"),
        (KickRound(D1, 1, 1, ByField("f" * 300, b""), [], [], 0), "a field of 300 characters"),
        (Names(b"", -1), "names for -1 members"),
        (Leaving(D1, -1), "the incarnation -1"),
        (Leaving(D1, (1 << 64) - 1), "the incarnation 18446744073709551615"),
        (Hosts([HostRow("fe80::1%eth0", "", True, 0, "", 0, 1, 0, True, 0)]), "not an address"),
        (Hosts([HostRow("mail.example", "", True, 0, "", 0, 1, 0, True, 0)]), "not an address"),
        (Hosts([HostRow("10.1.0.1", "", True, 0, "a\tb", 0, 1, 0, True, 0)]), "tag 'a\\tb'"),
        (Hosts([HostRow("10.1.0.1", "", True, 0, "t" * 300, 0, 1, 0, True, 0)]), "(300 characters)"),
        (Hosts([HostRow("10.1.0.1", "n\0", True, 0, "", 0, 1, 0, True, 0)]), "host name"),
        (Hosts([HostRow("10.1.0.1", "", True, -1, "", 0, 1, 0, True, 0)]), "stamp -1"),
        (KickRound(D1, 1, 0, Fence(), [], [], 0), "a kick in lap 0"),
        (KickRound(D1, 1, 1, Fence(), ["x"], [], 0), "not ADDRESS:PORT"),
        (Leaving("x", 1), "not ADDRESS:PORT"),
        (Present("x", 1), "not ADDRESS:PORT"),
        (Leaving(D1, 1 << 62), "the incarnation"),
        (Present(D1, -1), "the incarnation"),
        (Redirect("x"), "not ADDRESS:PORT"),
        (Hosts([HostRow("10.1.0.1", "", True, 0, "", 0, 5000, 0, True, 0)]), "weight 5000"),
    ],
)
def test_what_cannot_be_right_is_named(message: RingMessage, problem: str) -> None:
    assert problem in (wrong(message) or "")


@pytest.mark.parametrize(
    "message",
    [
        Users(bytes(44)),
        Hosts([ROW]),
        Members([MemberRow(D1, False, 1)]),
        Token(D1, 1, 2, b"", [D1, D2]),
        MoveRound(D1, 1, bytes(24), [D1], [D2], 0),
        NearRound(D1, 1, (1 << 64) - 1, 0, [D1]),
        KickRound(D1, 1, 2, Fence(), [D1], [], 0),
        KickRound(D1, 1, 1, HashOnHosts(7, ["10.1.0.1", "2001:db8::1"]), [D1], [D2], 4_294_967_295),
        Members([MemberRow("[::ffff:10.0.0.1]:9090", True, 1, "d1.example:9090")]),
        Names(b"", 0),
        Leaving(D1, 1),
        Present(D1, (1 << 62) - 1),
    ],
)
def test_a_permitted_message_is_not_refused(message: RingMessage) -> None:
    assert wrong(message) is None
