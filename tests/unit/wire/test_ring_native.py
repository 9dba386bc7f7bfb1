"""Frames of ring messages. A sample that no longer decodes breaks a ring of two releases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.core.checks import MOST_PASSED, NAME_LIMIT
from director.core.moves.movestate import ROUND
from director.core.placement.names import entries_in, entry
from director.core.placement.users import BUCKETS
from director.core.protocol import messages as m
from director.core.protocol.kicktypes import MOST_HOSTS, ByField, ByName, Fence, HashOnHosts, KickWhat, OnHost
from director.core.protocol.messages import HostRow, RingMessage
from director.core.tables.members import MOST_ROWS
from director.errors import PeerError
from director.wire import ring_native
from director.wire.ring_native import (
    AHEAD,
    SEAL,
    ForgedFrameError,
    FrameError,
    FrameReader,
    FrameWriter,
    encode,
)

SAMPLES = Path(__file__).parent / "samples"
DIGEST = bytes(range(8))
RECORD = bytes(range(22))
MESSAGES: list[RingMessage] = [
    m.Hello(1, 1, "10.0.0.1:9090", 1_700_000_000_000_000, bytes(range(32)), 1_700_000_000.25, "%Lu", 900),
    m.Proof(bytes(range(32))),
    m.Bye("the director stops", routine=True),
    m.Users(RECORD * 2),
    m.Hosts([HostRow("10.1.0.1", "imap1.example.com", True, 0, "gold", 5, 100, 7, False, 9)]),
    m.Digests(128, DIGEST * 2),
    m.ExchangeDone(True),
    m.Token("10.0.0.1:9090", 3, 2, DIGEST, ["10.0.0.1:9090", "10.0.0.2:9090"], 10_000_000),
    m.Ping(7),
    m.Pong(7, 1_700_000_000.25),
    m.Redirect("10.0.0.2:9090"),
    m.Linked(),
    m.Names(DIGEST + b"\0\5alice", 2),
    m.MoveRound("10.0.0.1:9090", 4, RECORD[:12] * 2, ["10.0.0.1:9090"], ["10.0.0.2:9090"], 3, True),
    m.NearRound("10.0.0.1:9090", 5, 0x0102030405060708, 1_700_000_000, ["10.0.0.1:9090"]),
    m.KickRound(
        "10.0.0.1:9090", 6, 1, HashOnHosts(7, ["10.1.0.1"]), ["10.0.0.1:9090"], [], 0, ByName(b"alice")
    ),
    m.Members([m.MemberRow("10.0.0.3:9090", False, 1_700_000_000)]),
    m.Summaries([7, 4095], [bytes(range(6)) * 2, b""], last=True),
    m.Leaving("10.0.0.1:9090", 1_700_000_000_000_000),
    m.Present("10.0.0.1:9090", 1_700_000_000_000_001),
]
KICKS = [
    (HashOnHosts(7, ["10.1.0.1"]), "930107 91a831302e312e302e31"),
    (ByName(b"a\tb"), "9202 c403610962"),
    (ByField("user_session", b"\n"), "9303 ac757365725f73657373696f6e c4010a"),
    (OnHost("10.1.0.1"), "9204 a831302e312e302e31"),
    (Fence(), "9105"),
]
BY_NAME = {type(message).__name__: message for message in MESSAGES}


def sample(name: str) -> bytes:
    return (SAMPLES / f"{name}.frame").read_bytes()


def test_there_is_a_sample_of_every_message() -> None:
    names = {kind.__name__ for kind in get_args(RingMessage)}
    assert names == set(BY_NAME) == {path.stem for path in SAMPLES.iterdir()}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_sample_is_read_as_before(name: str) -> None:
    assert list(FrameReader().feed(sample(name))) == [[BY_NAME[name]]]


@pytest.mark.parametrize("name", BY_NAME)
def test_a_message_is_still_written_as_its_sample(name: str) -> None:
    assert encode([BY_NAME[name]]) == sample(name)


def test_a_token_from_before_limits_of_users_is_still_read() -> None:
    (fields,) = msgspec.msgpack.decode(sample("Token")[4:])
    body = msgspec.msgpack.encode([fields[:-1]])
    ((token,),) = FrameReader().feed(len(body).to_bytes(4) + body)
    assert token == msgspec.structs.replace(BY_NAME["Token"], limit=0)


@pytest.mark.parametrize(
    ("name", "fewer"), [("Hello", 1), ("Hello", 2), ("Pong", 1), ("Pong", 2), ("KickRound", 1)]
)
def test_a_message_from_before_its_newest_fields_is_still_read(name: str, fewer: int) -> None:
    (fields,) = msgspec.msgpack.decode(sample(name)[4:])
    body = msgspec.msgpack.encode([fields[:-fewer]])
    ((message,),) = FrameReader().feed(len(body).to_bytes(4) + body)
    added = msgspec.structs.fields(message)[-fewer:]
    assert message == msgspec.structs.replace(BY_NAME[name], **{f.name: f.default for f in added})


@pytest.mark.parametrize("name", BY_NAME)
def test_fields_that_a_newer_release_has_added_are_skipped(name: str) -> None:
    (fields,) = msgspec.msgpack.decode(sample(name)[4:])
    body = msgspec.msgpack.encode([[*fields, "added", [1, {"nested": b"too"}], None]])
    assert list(FrameReader().feed(len(body).to_bytes(4) + body)) == [[BY_NAME[name]]]


@pytest.mark.parametrize(("what", "encoded"), KICKS)
def test_what_a_kick_ends_is_still_written_as_it_was_and_read_again(what: KickWhat, encoded: str) -> None:
    assert msgspec.msgpack.encode(what) == bytes.fromhex(encoded)
    round_of_it = m.KickRound("10.0.0.1:9090", 1, 2, what, [], [], 0)
    assert list(FrameReader().feed(encode([round_of_it]))) == [[round_of_it]]


@given(st.lists(st.lists(st.sampled_from(MESSAGES), max_size=4), max_size=4), st.integers(1, 60))
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    frames: list[list[RingMessage]], size: int
) -> None:
    data = b"".join(map(encode, frames))
    reader = FrameReader()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert [frame for piece in pieces for frame in reader.feed(piece)] == frames


def test_a_limit_raised_between_two_frames_holds_for_the_second_even_if_they_came_together() -> None:
    large = m.Users(bytes(22 * 1000))
    reader = FrameReader()
    frames = reader.feed(encode([m.Ping(1)]) + encode([large]))
    assert next(frames) == [m.Ping(1)]
    reader.limit = ring_native.LIMIT
    assert next(frames) == [large]


def test_what_is_in_front_of_a_frame_that_cannot_be_read_is_given() -> None:
    frames = FrameReader().feed(encode([m.Ping(1)]) + b"\xff\xff\xff\xff")
    assert next(frames) == [m.Ping(1)]
    with pytest.raises(FrameError, match="frame of 4294967295 bytes, at most 4096 are accepted"):
        next(frames)


@pytest.mark.shows("A-17")
def test_an_oversized_frame_is_refused_before_it_has_come() -> None:
    with pytest.raises(FrameError, match="frame of 4097 bytes"):
        list(FrameReader().feed((4097).to_bytes(4)))


@pytest.mark.shows("A-26")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"\x91\x91\x20",
        b"\x91\x92\x03\xa2\xff\xfe",
        b"\x91\x92\x09\xa1x",
        b"\x91\x93\x04\xc4\x00" + b"\x91" * 3000,
        b"\x91" * 4000,
    ],
    ids=["empty", "no array", "unknown tag", "no UTF-8", "wrong type", "nested extra", "nested"],
)
def test_what_is_no_message_is_one_error_for_the_peer(body: bytes) -> None:
    with pytest.raises(PeerError, match=f"frame of {len(body)} bytes cannot be read"):
        list(FrameReader().feed(len(body).to_bytes(4) + body))


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_frame_error(data: bytes) -> None:
    reader = FrameReader()
    try:
        frames = list(reader.feed(len(data).to_bytes(4) + data))
    except FrameError:
        frames = []
    assert all(isinstance(frame, list) for frame in frames)


LONG = {
    "messages": [m.Linked()] * (ring_native.MESSAGES + 1),
    "rows of hosts": [m.Hosts([HostRow("10.1.0.1", "", True, 0, "", 0, 1, 0, True, 0)] * (m.ROWS + 1))],
    "rows of directors": [m.Members([m.MemberRow("10.0.0.3:9090", False, 1)] * (m.ROWS + 1))],
    "directors": [m.Token("10.0.0.1:9090", 3, 2, DIGEST, ["10.0.0.1:9090"] * (m.DIRECTORS + 1))],
    "buckets": [m.Summaries([1] * 4097, [b""] * 4097, last=True)],
    "hosts": [m.KickRound("", 6, 1, HashOnHosts(7, ["10.1.0.1"] * 10_001), [], [], 0)],
}


@pytest.mark.shows("A-26")
@pytest.mark.parametrize("name", LONG)
def test_lists_that_are_too_long_for_one_turn_of_the_loop_are_refused_unread(name: str) -> None:
    reader = FrameReader()
    reader.limit = ring_native.LIMIT
    with pytest.raises(FrameError, match="cannot be read: Expected `array` of length <= "):
        list(reader.feed(encode(LONG[name])))


def test_very_many_messages_at_once_are_several_frames() -> None:
    writer, reader = FrameWriter(), FrameReader()
    reader.limit = ring_native.LIMIT
    many: list[RingMessage] = [m.Ping(number) for number in range(2500)]
    frames = list(reader.feed(writer.encode(many)))
    assert [message for frame in frames for message in frame] == many
    assert [len(frame) for frame in frames] == [1000, 1000, 500]


# ---- seals

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
FRAMES: list[list[RingMessage]] = [[m.Ping(1)], [m.Ping(2), m.Users(RECORD)], [], [m.Bye("enough")]]


def sealed(key: bytes = KEY) -> tuple[FrameWriter, FrameReader]:
    """Both ends of one direction, behind the proof."""
    writer, reader = FrameWriter(), FrameReader()
    writer.seal(key)
    reader.unseal(KEY)
    list(reader.feed(encode([m.Proof(bytes(32))])))
    return writer, reader


def test_one_frame_is_plain_after_the_keys_exist_and_all_others_must_be_sealed() -> None:
    reader = FrameReader()
    assert next(reader.feed(encode([m.Ping(1)]))) == [m.Ping(1)]
    reader.unseal(KEY)
    frames = reader.feed(encode([m.Proof(bytes(32))]) + encode([m.Ping(2)]) + encode([m.Ping(3)]) * 4)
    assert next(frames) == [m.Proof(bytes(32))]
    assert reader.plain == encode([m.Proof(bytes(32))])[4:]
    with pytest.raises(ForgedFrameError):
        next(frames)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_sealed_frames_come_out_as_they_went_in_however_they_are_cut(size: int) -> None:
    writer, reader = sealed()
    data = b"".join(map(writer.encode, FRAMES))
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert [frame for piece in pieces for frame in reader.feed(piece)] == FRAMES
    assert reader.plain == b""


def test_sealing_begins_with_the_first_frame_behind_the_call() -> None:
    writer = FrameWriter()
    assert writer.encode([m.Ping(1)]) == encode([m.Ping(1)])
    writer.seal(KEY)
    assert len(writer.encode([m.Ping(1)])) == len(encode([m.Ping(1)])) + SEAL


LARGE = m.Users(bytes(range(250)) * 4000)


@pytest.mark.parametrize("size", [1000, 100_000, 2_000_000])
def test_a_large_sealed_frame_is_checked_as_it_comes(size: int) -> None:
    writer, reader = sealed()
    reader.limit = ring_native.LIMIT
    data = writer.encode([LARGE]) + writer.encode([m.Ping(1)]) + writer.encode([LARGE])
    heard = []
    for at in range(0, len(data), size):
        heard += list(reader.feed(data[at : at + size]))
        assert len(reader._buffer) - reader._sealed_to <= max(size, AHEAD) + SEAL + 4
    assert heard == [[LARGE], [m.Ping(1)], [LARGE]]


@pytest.mark.parametrize("place", [0.001, 0.3, 0.5, 0.999])
def test_a_large_sealed_frame_that_was_changed_is_refused_however_it_is_cut(place: float) -> None:
    writer, reader = sealed()
    reader.limit = ring_native.LIMIT
    data = bytearray(writer.encode([LARGE]))
    data[int(place * len(data))] ^= 1
    assert list(reader.feed(data[:300_000])) == []
    with pytest.raises(ForgedFrameError):
        list(reader.feed(data[300_000:]))


def changed(frame: bytes) -> Iterator[bytes]:
    """The frame with each of its bits flipped."""
    for at in range(8 * len(frame)):
        yield frame[: at // 8] + bytes([frame[at // 8] ^ 1 << at % 8]) + frame[at // 8 + 1 :]


def test_no_bit_of_a_sealed_frame_can_be_changed() -> None:
    writer, _ = sealed()
    good, behind = writer.encode([m.Ping(7)]), writer.encode([m.Users(bytes(3000))])
    for bad in changed(good):
        _, reader = sealed()
        with pytest.raises(FrameError):  # a length over the limit is no frame; all else has a wrong seal
            list(reader.feed(bad + behind))


@pytest.mark.parametrize(
    "order",
    [[1], [0, 0], [0, 2], [1, 0], [0, 1, 0], [0, 1, 1]],
    ids=["first lost", "repeated", "lost", "swapped", "replayed", "repeated later"],
)
def test_a_frame_that_is_not_the_next_is_refused(order: list[int]) -> None:
    writer, reader = sealed()
    frames = [writer.encode([m.Ping(1)]) for _ in range(3)]  # all say the same
    good = [number for place, number in enumerate(order) if number == place]
    heard: list[list[RingMessage]] = []
    with pytest.raises(ForgedFrameError, match="changed, left out, repeated or added on the way"):
        heard.extend(reader.feed(b"".join(frames[number] for number in order)))
    assert len(heard) == len(good)


def test_a_frame_with_the_key_of_another_direction_or_link_is_refused() -> None:
    writer, reader = sealed(OTHER_KEY)
    with pytest.raises(ForgedFrameError):
        list(reader.feed(writer.encode([m.Ping(1)])))


def test_a_forged_frame_is_not_decoded() -> None:
    _, reader = sealed()
    with pytest.raises(ForgedFrameError):  # and not "cannot be read"
        list(reader.feed((4000).to_bytes(4) + b"\x91" * 4000 + bytes(SEAL)))


def test_the_report_of_a_forged_frame_contains_no_key() -> None:
    writer, reader = sealed(OTHER_KEY)
    with pytest.raises(ForgedFrameError) as error:
        list(reader.feed(writer.encode([m.Ping(1)])))
    shown = f"{error.value!r} {error.value} {reader!r} {reader._seals!r} {writer!r} {writer._seals!r}"
    for key in (KEY, OTHER_KEY):
        assert repr(key)[2:-1] not in shown
        assert key.hex() not in shown


LONG_NAME = "[1111:2222:3333:4444:5555:6666:7777:8888]:65535"
LONG_TEXT = "\N{GRINNING FACE}" * 255
ROWS = [
    m.HostRow(f"10.1.{n // 250}.{n % 250}", LONG_TEXT, True, 1, LONG_TEXT, 1, 7, 1, True, 1, LONG_TEXT)
    for n in range(m.ROWS)
]
PASSED = [LONG_NAME] * MOST_PASSED
LARGEST: dict[str, list[RingMessage]] = {
    "users": [m.Users(bytes(range(22)) * 700_000)],
    "users and names of a turn": [m.Users(bytes(22) * 50_000), m.Names(entry(1, b"n" * 255) * 50_000, 3)],
    "names of 4,000 bytes": [m.Names(entry(1, b"n" * 4000) * 2000, 3)],
    "names of 65,535 bytes": [m.Names(entry(1, b"n" * 65_535) * 200, 0)],
    "rows of hosts": [m.Hosts(ROWS)] * 20,
    "rows of directors": [m.Members([m.MemberRow(LONG_NAME, True, 1, f"{'n' * 255}:65535")] * MOST_ROWS)],
    "digests": [m.Digests(0, bytes(8 * BUCKETS))],
    "summaries of 20 million users": [
        m.Summaries(list(range(BUCKETS)), [bytes(6 * 20_000_000 // BUCKETS // 6 * 6)] * BUCKETS, True)
    ],
    "a move": [m.MoveRound(LONG_NAME, 1, bytes(12 * ROUND), PASSED, PASSED, 1)],
    "a kick on the hosts of a pool": [
        m.KickRound(
            LONG_NAME,
            1,
            1,
            HashOnHosts(1, ["1111:2222:3333:4444:5555:6666:7777:8888"] * MOST_HOSTS),
            PASSED,
            PASSED,
            1,
        )
    ],
    "a kick by a field": [
        m.KickRound(LONG_NAME, 1, 1, ByField("f" * 255, b"v" * NAME_LIMIT), PASSED, PASSED, 1)
    ],
    "a kick of a name": [m.KickRound(LONG_NAME, 1, 1, ByName(b"n" * NAME_LIMIT), PASSED, PASSED, 1)],
    "very many words": [m.Present(LONG_NAME, 1 << 61)] * 20_000,
}


def joined(messages: Iterable[RingMessage]) -> dict[type[RingMessage], list[object]]:
    """Return the contents of messages, however they are divided."""
    said: dict[type[RingMessage], list[object]] = {}
    for message in messages:
        parts: list[object] = [message]
        if isinstance(message, m.Users):
            parts = [message.records[at : at + 22] for at in range(0, len(message.records), 22)]
        elif isinstance(message, m.Names):
            parts = [(key, name, message.hops) for key, name in entries_in(message.entries)]
        elif isinstance(message, m.Hosts | m.Members):
            parts = list(message.rows)
        elif isinstance(message, m.Summaries):
            parts = list(zip(message.buckets, message.hashes, strict=True))
            parts += ["last"] * message.last
        said.setdefault(type(message), []).extend(parts)
    return said


@pytest.mark.shows("rule 5", "A-27")
@pytest.mark.parametrize("kind", LARGEST)
def test_the_largest_that_a_director_sends_fits_into_frames_and_says_the_same(kind: str) -> None:
    writer, reader = sealed()
    reader.limit = ring_native.LIMIT
    frames = list(reader.feed(writer.encode(LARGEST[kind])))
    assert joined(message for frame in frames for message in frame) == joined(LARGEST[kind])
    last = [message.last for frame in frames for message in frame if isinstance(message, m.Summaries)]
    assert last.count(True) == bool(last)
    assert not last or last[-1]
