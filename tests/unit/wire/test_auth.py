"""Which auth lines get a host, in plain Python and compiled: every test runs on both."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from director.core.placement.addresses import host_id
from director.core.placement.assign import Assigner, Backend, Gate, Wait
from director.core.placement.hashing import UserHash
from director.core.placement.users import MOVING, User
from director.types import Stamp
from director.wire.auth import HeldRequest, cancels, finish, refusal, says_perhaps
from director.wire.tabs import escape
from tests.twins import NAMES, PURE, HotPath, compiled, hot_path

NOW = 1_000_000
ALICE = UserHash().key(b"alice")
TO_ONE = b"\tproxy_refresh=300\thost=127.0.1.1\tuser_dirkey=1669653170@127.0.1.1\n"
TO_TWO = b"\tproxy_refresh=300\thost=127.0.1.2\tuser_dirkey=2677887420@127.0.1.2\n"


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


def director(
    hot: HotPath,
    backends: list[Backend] = FOUR,
    user_hash: UserHash | None = None,
    gate: Gate = Gate.OPEN,
) -> Assigner:
    assigner = hot.Assigner(hot.UserTable(900), user_hash or UserHash())
    assigner.set_backends(backends)
    assigner.gate = gate
    assigner.unix = NOW
    return assigner


def rewritten(hot: HotPath, data: bytes, *, passlines: bool = False) -> tuple[bytes, list[HeldRequest]]:
    return hot.rewrite(director(hot), data, passlines)


# Lines that get a host


@pytest.mark.parametrize(
    "fields",
    [
        b"user=alice\tproxy",
        b"proxy\tuser=alice",
        b"user=Alice\tproxy=y\tpass=secret",
        b"proxy=\tuser=alice",
        b"user=other\tdestuser=alice\tproxy",
        b"destuser=alice\tuser=other\tproxy",
        b"user=alice\tuser=other\tproxy",
        b"destuser=other\tdestuser=alice\tproxy",
        b"user=alice\tproxy\thost\thostx=1\tport=143\tnologin",
        b"user=alice\tproxy\t\t",
        b"user=al\x01ice\tproxy",
        b"us\x01er=alice\tproxy",
        b"user=alice\tproxy\tdirector_tag=",
        b"user=alice\tdirector_proxy_maybe\tproxy",
        b"user=alice\tproxy=y\tdirector_proxy_maybe=y\tlip=127.0.1.9",
    ],
)
def test_a_line_that_asks_for_proxying_gets_the_host_of_the_user_at_its_end(
    hot: HotPath, fields: bytes
) -> None:
    line = b"OK\t7\t" + fields
    assert rewritten(hot, line + b"\n") == (line + TO_ONE, [])


def test_the_users_are_answered_in_the_order_of_their_lines(hot: HotPath) -> None:
    data = b"OK\t1\tuser=alice\tproxy\nFAIL\t2\tuser=x\nOK\t3\tuser=bob\tproxy\nCONT\t4\t\n"
    assert rewritten(hot, data) == (
        b"OK\t1\tuser=alice\tproxy"
        + TO_ONE
        + b"FAIL\t2\tuser=x\nOK\t3\tuser=bob\tproxy"
        + TO_TWO
        + b"CONT\t4\t\n",
        [],
    )


@pytest.mark.shows("R-57")
def test_on_the_userdb_socket_pass_lines_count_and_ok_lines_do_not(hot: HotPath) -> None:
    data = b"PASS\t1\tuser=alice\tproxy\nOK\t2\tuser=alice\tproxy\n"
    assert rewritten(hot, data, passlines=True) == (
        b"PASS\t1\tuser=alice\tproxy" + TO_ONE + b"OK\t2\tuser=alice\tproxy\n",
        [],
    )


def test_a_tag_chooses_the_pool(hot: HotPath) -> None:
    assigner = director(hot, [*FOUR, backend(9, tag="blue")])
    output, _ = hot.rewrite(
        assigner, b"OK\t1\tuser=alice\tproxy\tdirector_tag=red\tdirector_tag=blue\n", False
    )
    assert output.endswith(b"\thost=127.0.1.9\tuser_dirkey=1669653170@127.0.1.9\n")
    assert assigner.users.get(UserHash().key(b"alice", b"blue")) is not None
    assert assigner.users.get(ALICE) is None


def test_a_host_with_a_name_is_given_by_name_and_address(hot: HotPath) -> None:
    assigner = director(hot, [backend(1, hostname="mail1.example.com")])
    output, _ = hot.rewrite(assigner, b"OK\t1\tuser=alice\tproxy\n", False)
    assert output == (
        b"OK\t1\tuser=alice\tproxy\tproxy_refresh=300\thost=mail1.example.com\thostip=127.0.1.1"
        b"\tuser_dirkey=1669653170@127.0.1.1\n"
    )


@pytest.mark.parametrize("format", ["%Lu", "%u", "%Ln", "%Lu@%d"])
def test_every_format_of_the_user_hash_is_used(hot: HotPath, format: str) -> None:
    assigner = director(hot, user_hash=UserHash(format))
    hot.rewrite(assigner, b"OK\t1\tuser=Alice@Example.COM\tproxy\n", False)
    assert assigner.users.get(UserHash(format).key(b"Alice@Example.COM")) is not None


@pytest.mark.parametrize("format", ["%Lu", "%u", "%Ln"])
def test_the_name_of_a_master_user_is_removed_before_hashing(hot: HotPath, format: str) -> None:
    assigner = director(hot, user_hash=UserHash(format, separator="*"))
    assert hot.rewrite(assigner, b"OK\t1\tuser=alice*master\tproxy\n", False) == (
        b"OK\t1\tuser=alice*master\tproxy" + TO_ONE,
        [],
    )


def test_an_escaped_name_is_hashed_as_what_it_stands_for(hot: HotPath) -> None:
    names = [b"u\ttab", b"a\x01b", b"nul\0", b"line\nend\r"]
    for name in names:
        assigner = director(hot)
        hot.rewrite(assigner, b"OK\t1\tuser=" + escape(name) + b"\tproxy\n", False)
        assert assigner.users.get(UserHash().key(name)) is not None


def test_every_byte_of_a_name_is_folded_as_in_the_plain_hash(hot: HotPath) -> None:
    assigner = director(hot)
    name = bytes(range(256))
    hot.rewrite(assigner, b"OK\t1\tuser=" + escape(name) + b"\tproxy\n", False)
    assert assigner.users.get(UserHash().key(name)) is not None


def test_a_line_of_16_kib_is_rewritten(hot: HotPath) -> None:
    line = b"OK\t1\tuser=alice\tproxy\tx=" + b"x" * 16384
    assert rewritten(hot, line + b"\n") == (line + TO_ONE, [])


def test_a_name_of_16_kib_is_hashed_whole(hot: HotPath) -> None:
    name = b"N\xff" * 8192
    assigner = director(hot)
    hot.rewrite(assigner, b"OK\t1\tuser=" + name + b"\tproxy\n", False)
    assert assigner.users.get(UserHash().key(name)) is not None


@pytest.mark.parametrize("length", [*range(50, 70), *range(115, 130)])
def test_names_of_all_lengths_around_a_block_of_md5_are_hashed_right(hot: HotPath, length: int) -> None:
    assigner = director(hot)
    hot.rewrite(assigner, b"OK\t1\tuser=" + b"N" * length + b"\tproxy\n", False)
    assert assigner.users.get(UserHash().key(b"n" * length)) is not None


# Lines that pass as they are


@pytest.mark.parametrize(
    "line",
    [
        b"OK\t1\tuser=alice",
        b"OK\t1\tproxy",
        b"OK\t1\tuser\tproxy",
        b"OK\t1\tuser=alice\tproxyx",
        b"OK\t1\tuser=alice\tproxy_maybe",
        b"OK\t1\tuser=alice\tproxy_maybe=y",
        b"OK\t1\tuser=alice\tproxy\thost=10.0.0.1",
        b"OK\t1\tuser=alice\tproxy\thost=",
        b"OK\t1\thost=\tuser=alice\tproxy",
        b"OK\t1\tuser=alice\tproxy\tho\x01st=",
        b"OK\t1\tuser=alice\tPROXY",
        b"OK\tproxy\tuser=alice",
        b"OK\tuser=alice\tproxy",
        b"OK\t1",
        b"OK\t",
        b"OK",
        b"OK 1\tuser=alice\tproxy",
        b"ok\t1\tuser=alice\tproxy",
        b"OKAY\t1\tuser=alice\tproxy",
        b"",
        b"\t\t\t",
        b"PASS\t1\tuser=alice\tproxy",
        b"FAIL\t1\tuser=alice\tproxy",
        b"VERSION\t1\t2",
        b"\xff\x00\x01binary",
        b"OK\t1\tuser=alice\tproxy\thost=10.0.0.1\r",
    ],
)
def test_every_other_line_passes_byte_for_byte(hot: HotPath, line: bytes) -> None:
    assigner = director(hot)
    assert hot.rewrite(assigner, line + b"\n", False) == (line + b"\n", [])
    assert len(assigner.users) == 0


def test_nothing_comes_out_of_nothing(hot: HotPath) -> None:
    assert rewritten(hot, b"") == (b"", [])


@pytest.mark.parametrize(
    ("fields", "passes"),
    [
        (b"lip=127.0.1.1", True),
        (b"lip=127.0.1.1\tlport=143\tport=143", True),
        (b"lip=127.0.1.1\tlport=143", True),
        (b"lip=127.0.1.1\tport=143", True),
        (b"lip=127.0.1.1\tlport=143\tport=993", False),
        (b"lip=127.0.1.1\tlport=143\tport=none", True),
        (b"lip=127.0.1.1\tlport=143\tport=99999", True),
        (b"lip=127.0.1.1\tlport=143\tport=" + b"9" * 5000, True),
        (b"lip=127.0.1.2", False),
        (b"lip=here", False),
        (b"lip=", False),
        (b"nologin", False),
    ],
)
def test_a_perhaps_is_left_alone_where_the_client_is_on_the_right_host_already(
    hot: HotPath, fields: bytes, passes: bool
) -> None:
    line = b"OK\t1\tuser=alice\tdirector_proxy_maybe\t" + fields
    output, _ = rewritten(hot, line + b"\n")
    assert (output == line + b"\n") is passes
    assert (output == line + b"\tproxy" + TO_ONE) is not passes


@pytest.mark.parametrize(
    "fields", [b"director_proxy_maybe", b"director_proxy_maybe=y\tlip=127.0.1.9\tpass=x"]
)
def test_a_perhaps_that_comes_to_proxying_says_so_as_login_processes_of_both_releases_read_it(
    hot: HotPath, fields: bytes
) -> None:
    line = b"OK\t1\tuser=alice\t" + fields
    assert rewritten(hot, line + b"\nCONT\t2\t\n") == (line + b"\tproxy" + TO_ONE + b"CONT\t2\t\n", [])


def test_a_held_perhaps_that_comes_to_proxying_says_so(hot: HotPath) -> None:
    line = b"OK\t1\tuser=alice\tdirector_proxy_maybe\tlip=127.0.1.2"
    assert finish(director(hot), line, FOUR[0], ALICE) == line + b"\tproxy" + TO_ONE


def test_the_clients_own_address_does_not_matter_without_a_perhaps(hot: HotPath) -> None:
    line = b"OK\t1\tuser=alice\tproxy\tlip=127.0.1.1\tx=director_proxy_maybe"
    assert rewritten(hot, line + b"\n") == (line + TO_ONE, [])


def test_auth_is_told_to_forget_requests_that_it_takes_to_be_local_and_no_others(hot: HotPath) -> None:
    perhaps = b"user=alice\tdirector_proxy_maybe=y\t"
    output, _ = rewritten(
        hot,
        b"OK\t11\t" + perhaps + b"lip=127.0.1.1\n"
        b"OK\t12\t" + perhaps + b"lip=127.0.1.2\n"
        b"OK\t13\tuser=alice\tproxy\n"
        b"CONT\t14\tdirector_proxy_maybe\n"
        b"OK\t15\tuser=alice\tproxy\tx=director_proxy_maybes\n"
        b"OK\t16\tproxy=y\t" + perhaps + b"\n"
        b"OK\t17\tpass=secret\tdirector_proxy_maybe\tuser=alice\n",
    )
    assert cancels(output) == b"CANCEL\t12\nCANCEL\t17\n"


MAYBE_ESCAPED = [
    b"director_proxy_\x01maybe",
    b"\x01director_proxy_maybe",
    b"director_proxy_mayb\x01e=y",
    b"director\x01_proxy\x01_maybe",
    b"director_proxy_maybe\x01",
]
"""All are the field `director_proxy_maybe`: an unknown escape is its second byte."""


@pytest.mark.parametrize("field", MAYBE_ESCAPED)
def test_an_escape_inside_the_name_of_a_perhaps_changes_nothing(hot: HotPath, field: bytes) -> None:
    line = b"OK\t7\tuser=alice\t" + field
    output, held = rewritten(hot, line + b"\n")
    assert (output, held) == (line + b"\tproxy" + TO_ONE, [])
    assert cancels(output) == b"CANCEL\t7\n"
    there = line + b"\tlip=127.0.1.1"
    assert rewritten(hot, there + b"\n") == (there + b"\n", [])
    assert finish(director(hot), there, FOUR[0], ALICE) == there + b"\n"
    assert says_perhaps(line)


@pytest.mark.parametrize(
    "field", [b"x=director_proxy_maybe", b"director_proxy_maybe\x01t", b"director_proxy_maybes", b"x\x01=1"]
)
def test_a_field_that_only_looks_like_a_perhaps_is_none(hot: HotPath, field: bytes) -> None:
    line = b"OK\t7\tuser=alice\tproxy\t" + field + b"\tlip=127.0.1.1"
    output, _ = rewritten(hot, line + b"\n")
    assert output == line + TO_ONE
    assert cancels(line + b"\tproxy" + TO_ONE) == b""
    assert not says_perhaps(line)


# Lines that wait


def test_a_line_that_cannot_be_answered_is_held_back_and_the_rest_goes_on(hot: HotPath) -> None:
    assigner = director(hot, gate=Gate.KNOWN)
    assigner.users.put(User(ALICE, FOUR[0].id, Stamp(NOW), NOW, 0))
    waits = b"OK\t1\tuser=B\x01ob\tproxy\tdirector_tag=t\x01tu"
    data = b"VERSION\t1\n" + waits + b"\nOK\t2\tuser=alice\tproxy\nOK\t3\tproxy\n"
    assert hot.rewrite(assigner, data, False) == (
        b"VERSION\t1\nOK\t2\tuser=alice\tproxy" + TO_ONE + b"OK\t3\tproxy\n",
        [
            HeldRequest(
                line=waits,
                id=b"1",
                key=UserHash().key(b"bob", b"t\tu"),
                tag=b"t\tu",
                name=b"Bob",
                wait=Wait.RING,
            )
        ],
    )


def test_the_name_of_a_held_line_has_no_master_user(hot: HotPath) -> None:
    assigner = director(hot, user_hash=UserHash(separator="*"), gate=Gate.CLOSED)
    _, held = hot.rewrite(assigner, b"OK\t1\tuser=Alice*master\tproxy\n", False)
    assert [(line.name, line.key, line.wait) for line in held] == [(b"Alice", ALICE, Wait.UNVERIFIED)]


def test_each_held_line_says_what_it_waits_for(hot: HotPath) -> None:
    assigner = director(hot)
    assigner.users.put(User(ALICE, FOUR[0].id, Stamp(NOW), NOW, MOVING))
    data = b"OK\t1\tuser=alice\tproxy\nOK\t2\tuser=alice\tproxy\tdirector_tag=t\nOK\t\tuser=alice\tproxy\n"
    output, held = hot.rewrite(assigner, data, False)
    assert output == b""
    assert [(line.id, line.wait) for line in held] == [
        (b"1", Wait.MOVING),
        (b"2", Wait.NO_HOST),
        (b"", Wait.MOVING),
    ]


def test_lines_are_held_for_the_ring_a_retagged_host_and_other_directors(hot: HotPath) -> None:
    assigner = director(hot, [*FOUR[:2], backend(3, retagged=NOW)])
    assigner.users.put(User(ALICE, FOUR[1].id, Stamp(NOW), NOW - 900, 0))
    assigner.users.put(User(UserHash().key(b"bob"), backend(3).id, Stamp(NOW - 1), NOW, 0))
    assigner.hold(UserHash().key(b"carol"))
    data = b"".join(b"OK\t1\tuser=" + name + b"\tproxy\n" for name in (b"alice", b"bob", b"carol"))
    output, held = hot.rewrite(assigner, data, False)
    assert output == b""
    assert [line.wait for line in held] == [Wait.NEAR, Wait.RETAGGED, Wait.HELD]


def test_a_held_line_is_finished_as_if_it_had_never_waited(hot: HotPath) -> None:
    assigner = director(hot)
    line = b"OK\t1\tuser=alice\tproxy"
    assert finish(assigner, line, FOUR[0], ALICE) == line + TO_ONE


def test_a_held_perhaps_is_left_alone_where_the_client_is_on_the_right_host_already(hot: HotPath) -> None:
    assigner = director(hot)
    line = b"OK\t1\tuser=alice\tdirector_proxy_maybe\tlip=127.0.1.1"
    assert finish(assigner, line, FOUR[0], ALICE) == line + b"\n"


def test_a_refusal_is_a_temporary_failure_of_the_request() -> None:
    assert refusal(b"17") == b"FAIL\t17\tcode=temp_fail\n"


# Names


def test_the_names_of_users_placed_anew_can_be_taken_once(hot: HotPath) -> None:
    assigner = director(hot, user_hash=UserHash(separator="*"))
    assigner.remember_names = True
    data = b"OK\t1\tuser=A\x01lice*m\tproxy\nOK\t2\tuser=alice\tproxy\nOK\t3\tuser=\tproxy\n"
    hot.rewrite(assigner, data, False)
    assert assigner.take_names() == (
        ALICE.to_bytes(8, "big") + b"\x00\x05Alice" + UserHash().key(b"").to_bytes(8, "big") + b"\x00\x00"
    )
    assert assigner.take_names() == b""


def test_the_name_of_an_assigned_user_can_be_taken_once_in_a_third_of_the_expiry(hot: HotPath) -> None:
    assigner = director(hot)
    assigner.remember_names = True
    line, found = b"OK\t1\tuser=alice\tproxy\n", []
    third = assigner.users.expire // 3
    start = assigner.unix // third * third + third  # the last second of a third
    for second in (0, 1, third, third + 1, third + 2):
        assigner.unix = start + second
        hot.rewrite(assigner, line, False)
        found.append(assigner.take_refreshed())
    alice = ALICE.to_bytes(8, "big") + b"\x00\x05alice"
    assert found == [b"", alice, b"", alice, b""]
    assert assigner.take_names() == alice


def test_no_names_are_kept_unless_they_are_wanted(hot: HotPath) -> None:
    assigner = director(hot)
    hot.rewrite(assigner, b"OK\t1\tuser=alice\tproxy\n", False)
    assert assigner.take_names() == b""


@pytest.mark.parametrize("size", [255, 256, 4000, 70000])
def test_a_user_whose_name_has_over_255_bytes_is_assigned_and_the_name_is_not_remembered(
    hot: HotPath, size: int
) -> None:
    assigner, name = director(hot), b"x" * size
    assigner.remember_names = True
    key, line = UserHash().key(name), b"OK\t1\tuser=" + name + b"\tproxy\n"
    output, _ = hot.rewrite(assigner, line, False)
    names = assigner.take_names()
    assigner.unix += assigner.users.expire // 3
    hot.rewrite(assigner, line, False)
    assert b"\thost=" in output
    assert assigner.users.get(key) is not None
    kept = key.to_bytes(8, "big") + b"\x00\xff" + name if size == 255 else b""
    assert (names, assigner.take_refreshed()) == (kept, kept)


# Both are one

nasty_fields = st.sampled_from(
    [
        b"proxy",
        b"proxy=",
        b"proxy=y",
        b"proxyx",
        b"proxy_maybe",
        b"prox",
        b"pro\x01xy",
        b"user=",
        b"user",
        b"user=alice",
        b"user=Bob*m",
        b"user=a\x01tb",
        b"user=\x01",
        b"user=\xff\xfe",
        b"destuser=",
        b"destuser=Carol@Example.com",
        b"destuser=\x01x\x01",
        b"host",
        b"hos\x01t=",
        b"director_tag=blue",
        b"director_tag=none",
        b"director_tag=b\x01lue",
        b"director_tag=",
        b"director_proxy_maybe",
        b"director_proxy_maybe=1",
        b"lip=127.0.1.1",
        b"lip=127.0.1.5",
        b"lport=143",
        b"port=993",
        b"port=143",
        b"port=0",
        b"lport=",
        b"",
        b"\x01",
        b"=",
        b"x=" + b"y" * 300,
    ]
)
rare_fields = st.sampled_from([b"host=", b"host=10.0.0.1"]) | st.binary(max_size=9).filter(
    lambda data: b"\n" not in data
)
starts = st.sampled_from(
    [b"OK\t1", b"OK\t", b"OK\t\t", b"OK\tproxy", b"PASS\t22", b"OK", b"FAIL\t1", b"", b"OK\t\x011"]
)
lines = st.builds(
    lambda start, fields, rare, end: b"\t".join([start, *fields, *rare]) + end,
    starts,
    st.lists(nasty_fields, max_size=6),
    st.lists(rare_fields, max_size=1) | st.just([]),
    st.sampled_from([b"", b"\t", b"\t\t", b"\r", b"\x01"]),
)
asking_lines = st.lists(nasty_fields, max_size=4).map(lambda fields: b"OK\t9\tproxy\t" + b"\t".join(fields))
blocks = st.lists(lines | asking_lines, max_size=8).map(
    lambda lines: b"".join(line + b"\n" for line in lines)
)
turns = st.lists(st.tuples(st.sampled_from(Gate), st.integers(0, 2000), blocks), max_size=4)


@settings(max_examples=150)
@given(
    turns=turns,
    format=st.sampled_from(["%Lu", "%u", "%Ln"]),
    separator=st.sampled_from(["", "*"]),
    passlines=st.booleans(),
)
def test_the_compiled_rewriting_does_what_the_plain_one_does(
    fast: HotPath, turns: list[tuple[Gate, int, bytes]], format: str, separator: str, passlines: bool
) -> None:
    hosts = [backend(1), backend(2, hostname="two"), backend(3, up=False), backend(5, tag="blue")]
    plain, packed = [director(hot, hosts, UserHash(format, separator)) for hot in (PURE, fast)]
    plain.remember_names = packed.remember_names = True
    for gate, unix, data in turns:
        plain.gate = packed.gate = gate
        plain.unix = packed.unix = unix
        assert fast.rewrite(packed, data, passlines) == PURE.rewrite(plain, data, passlines)
        assert packed.take_names() == plain.take_names()
        assert packed.take_refreshed() == plain.take_refreshed()
        assert packed.users.take_changes() == plain.users.take_changes()


@settings(max_examples=50)
@given(data=st.binary(max_size=200).map(lambda data: data + b"\n"), passlines=st.booleans())
def test_any_bytes_are_rewritten_alike(fast: HotPath, data: bytes, passlines: bool) -> None:
    assert fast.rewrite(director(fast), data, passlines) == PURE.rewrite(director(PURE), data, passlines)
