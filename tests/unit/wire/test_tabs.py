"""Dovecot's escaping, and lines out of a stream."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from director.wire.tabs import LineBuffer, LineTooLong, escape, is_version, split, unescape


def test_what_would_break_a_line_is_escaped() -> None:
    assert escape(b"a\0b\x01c\td\re\nf") == b"a\x010b\x011c\x01td\x01re\x01nf"


@given(value=st.binary(max_size=30) | st.text("\0\x01\t\r\n01trnx").map(str.encode))
@settings(max_examples=100)
def test_every_value_comes_back_from_its_field(value: bytes) -> None:
    assert unescape(escape(value)) == value
    assert not set(escape(value)) & set(b"\0\t\r\n")


@pytest.mark.parametrize(
    ("field", "value"),
    [(b"a\x01xb", b"axb"), (b"a\x01", b"a"), (b"a\x01\x01b", b"a\x01b"), (b"\x01\x01", b"\x01")],
)
def test_an_unknown_escape_stands_for_its_second_byte(field: bytes, value: bytes) -> None:
    assert unescape(field) == value


def test_a_line_splits_into_the_values_of_its_fields() -> None:
    assert split(b"USER-MOVE\ta\x01tb\t\t1") == [b"USER-MOVE", b"a\tb", b"", b"1"]


@pytest.mark.parametrize("version", [b"", b"-1", b"1e0", b"2", b"9" * 5000, b"0" * 5000])
def test_a_version_that_is_no_number_or_another_opens_nothing(version: bytes) -> None:
    assert is_version(b"VERSION\tdirector\t1\t0", b"director", 1)
    assert not is_version(b"VERSION\tdirector\t" + version + b"\t0", b"director", 1)


def test_a_line_is_given_when_its_end_arrives() -> None:
    buffer = LineBuffer(100)
    assert buffer.feed(b"one\ntw") == [b"one"]
    assert buffer.rest == b"tw"
    assert buffer.feed(b"o") == []
    assert buffer.feed(b"\n\nthree\n") == [b"two", b"", b"three"]
    assert buffer.rest == b""


def test_lines_can_be_had_in_one_piece() -> None:
    buffer = LineBuffer(100)
    assert buffer.complete(b"one\n\ntwo\nthr") == b"one\n\ntwo\n"
    assert buffer.complete(b"ee\n") == b"three\n"


def test_the_start_of_a_line_can_be_handed_over() -> None:
    assert LineBuffer(100, rest=LineBuffer(100).rest + b"on").feed(b"e\n") == [b"one"]


def test_a_line_of_just_the_limit_passes() -> None:
    assert LineBuffer(5).feed(b"12345\n12345\n12345") == [b"12345", b"12345"]


@pytest.mark.parametrize("line", [b"123456", b"123456\n", b"123456789012\n", b"1234567\n12\n"])
def test_a_line_over_the_limit_is_refused_and_what_stood_before_it_is_not_lost(line: bytes) -> None:
    buffer = LineBuffer(5)
    with pytest.raises(LineTooLong, match="more than 5 bytes") as caught:
        buffer.feed(b"1\n12345\n" + line)
    assert caught.value.before == b"1\n12345\n"


def test_a_line_that_grows_over_the_limit_piece_by_piece_is_refused() -> None:
    buffer = LineBuffer(5)
    buffer.feed(b"123")
    buffer.feed(b"45")
    with pytest.raises(LineTooLong):
        buffer.feed(b"6")


@given(
    lines=st.lists(st.text("ab", max_size=7).map(str.encode), max_size=8), cuts=st.lists(st.integers(0, 60))
)
@settings(max_examples=100)
def test_lines_do_not_depend_on_the_pieces_they_come_in(lines: list[bytes], cuts: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    buffer = LineBuffer(7)
    ends = [*sorted(min(cut, len(data)) for cut in cuts), len(data)]
    got = []
    for start, end in zip([0, *ends], ends, strict=False):
        got += buffer.feed(data[start:end])
    assert got == lines
