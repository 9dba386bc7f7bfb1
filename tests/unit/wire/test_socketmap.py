"""Postfix's socketmap protocol."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.wire.socketmap import (
    LIMIT,
    Netstrings,
    Request,
    SocketmapError,
    found,
    netstring,
    never,
    next_hop,
    parse,
    try_again,
)


def test_a_netstring_is_length_colon_bytes_comma() -> None:
    assert netstring(b"lmtp alice@example.com") == b"22:lmtp alice@example.com,"
    assert netstring(b"") == b"0:,"


@given(contents=st.lists(st.binary(max_size=300), max_size=6), cuts=st.lists(st.integers(1, 40), max_size=99))
def test_what_was_packed_comes_out_however_it_is_cut(contents: list[bytes], cuts: list[int]) -> None:
    stream, netstrings, got = b"".join(map(netstring, contents)), Netstrings(), []
    for cut in cuts:
        got += netstrings.feed(stream[:cut])
        stream = stream[cut:]
    got += netstrings.feed(stream)
    assert got == contents
    assert not netstrings.unfinished


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_any_bytes_end_in_contents_or_in_an_error_of_the_protocol(pieces: list[bytes]) -> None:
    netstrings = Netstrings()
    try:
        contents = [content for piece in pieces for content in netstrings.feed(piece)]
    except SocketmapError:
        return
    assert sum(map(len, contents)) <= sum(map(len, pieces))


def test_the_longest_request_passes_and_half_of_one_is_known_to_be_half() -> None:
    netstrings = Netstrings()
    assert netstrings.feed(b"100000:" + b"x" * LIMIT) == []
    assert netstrings.unfinished
    assert netstrings.feed(b",") == [b"x" * LIMIT]


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        (b"100001:", "a request of 100001 bytes; at most 100000 are possible"),
        (b"99999999", "is not the length of a netstring"),
        (b"GET / HTTP/1.1\r\n", "is not the length of a netstring"),
        (b":,", "is not the length of a netstring"),
        (b"-1:,", "is not the length of a netstring"),
        (b"\xb2:ab,", "is not the length of a netstring"),
        (b"2:abc", "no comma behind the 2 bytes of a netstring"),
    ],
)
def test_what_is_no_netstring_is_an_error_at_once(stream: bytes, problem: str) -> None:
    with pytest.raises(SocketmapError, match=problem):
        Netstrings().feed(stream)


def test_requests_in_front_of_a_broken_one_are_given_first() -> None:
    netstrings = Netstrings()
    assert netstrings.feed(b"1:a,1:b,x") == [b"a", b"b"]
    with pytest.raises(SocketmapError):
        netstrings.feed(b"")


def test_a_request_names_a_map_and_a_key_that_may_have_spaces() -> None:
    assert parse(b"lmtp alice b@example.com") == Request(b"lmtp", b"alice b@example.com")
    assert parse(b"lmtp ") == Request(b"lmtp", b"")


@pytest.mark.parametrize("content", [b"", b"lmtp", b" alice"])
def test_a_request_without_a_name_or_a_key_is_an_error(content: bytes) -> None:
    with pytest.raises(SocketmapError, match="without a map's name"):
        parse(content)


def test_replies_have_a_status_and_one_line_of_text() -> None:
    assert found(b"x") == b"OK x"
    assert try_again("kill\nwaiting") == b"TEMP kill waiting"
    assert never("no map \x00\t\udc80") == b"PERM no map \x00 \\udc80"
    assert len(try_again("x" * 200_000)) < LIMIT


def test_a_next_hop_is_an_address_in_the_brackets_of_postfix() -> None:
    assert next_hop("10.1.0.3", 24) == b"lmtp:inet:[10.1.0.3]:24"
    assert next_hop("2001:db8::3", 2424) == b"lmtp:inet:[ipv6:2001:db8::3]:2424"
