"""A neighbour that knows the secret, and sends anything that has the form of a ring message."""

from __future__ import annotations

import math
import random
import typing
from typing import Any

import msgspec

from director.core.placement.hashing import UserHash
from director.core.placement.users import LATEST, RECORD
from director.core.protocol import messages
from director.core.protocol.effects import Answer
from director.core.protocol.events import Lookup
from director.core.protocol.kicktypes import KickWhat
from director.core.protocol.messages import HostRow, MemberRow, RingMessage
from director.types import Address, RequestId
from director.wire import ring_native
from tests.fuzz.engine import Case, Target
from tests.fuzz.inputs import changed, noise, pieces
from tests.unit.core.cores import BACKENDS, D1, D2, D3, START, in_ring, user

KINDS: tuple[Any, ...] = typing.get_args(RingMessage)
KICKS: tuple[Any, ...] = typing.get_args(KickWhat)
TYPES = {kind: typing.get_type_hints(kind) for kind in (*KINDS, *KICKS, HostRow, MemberRow)}
NUMBERS = [
    0,
    1,
    2,
    3,
    100,
    START,
    START + 1,
    START + 3000,
    START + 4000,
    LATEST,
    LATEST + 1,
    -1,
    1 << 63,
    (1 << 64) - 1,
]
TEXTS = [*(D1, D2, D3), *BACKENDS, "10.0.0.9:9090", "", "blue", "x" * 300, "\0", "d1:9090", "é"]
FLOATS = [0.0, float(START), START + 100.0, -1.0, math.nan, math.inf, -math.inf, 1e300]
LINKS = (1, 2)


def value(rng: random.Random, kind: Any) -> Any:
    """Return a value of a type that the decoder accepts."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind in TYPES:
        return kind(*(value(rng, TYPES[kind][name]) for name in kind.__struct_fields__))
    if origin in (list, tuple):
        return origin(value(rng, inner[0]) for _ in range(rng.randrange(3)))
    if origin is not None:
        return value(rng, rng.choice(inner))
    match kind.__name__:
        case "NoneType":
            return None
        case "int":
            return rng.choice(NUMBERS)
        case "float":
            return rng.choice(FLOATS)
        case "bool":
            return rng.random() < 0.5
        case "bytes":
            return blob(rng)
    return rng.choice(TEXTS)


def blob(rng: random.Random) -> bytes:
    """Return user records, subjects of a move, digests, names or noise."""
    match rng.randrange(6):
        case 0 | 1 | 2:
            seconds = [rng.choice([n for n in NUMBERS if 0 <= n <= LATEST]) for _ in range(2)]
            name = rng.choice((b"alice", b"bob", b"carol"))
            host = Address(rng.choice((*BACKENDS, "10.1.0.9")))
            one = user(
                name, host, decided=seconds[0], seen=seconds[1], flags=rng.choice((0, 1, 2, 3, 4, 7, 99))
            )
            return RECORD.pack(*one)
        case 3:
            return UserHash().key(b"alice").to_bytes(8) + rng.choice((START, LATEST, 0)).to_bytes(4)
        case 4:
            return bytes(rng.choice((0, 8, 16, 8 * 4096, 12, 22)))
    return noise(rng)


def likely(rng: random.Random, message: Any) -> Any:
    """Return the message with existing members and hosts in it, so that it is not refused at once."""
    for name, kind in TYPES[type(message)].items():
        if name in ("origin", "member") and rng.random() < 0.8:
            message = _with(message, name, rng.choice((D1, D2, D3)))
        elif name in ("passed", "late") and rng.random() < 0.8:
            message = _with(message, name, rng.sample([D1, D2, D3], rng.randrange(4)))
        elif name == "rows" and rng.random() < 0.8:
            message = _with(message, name, [_likely_row(rng, kind) for _ in range(rng.randrange(3))])
        elif name in ("lap", "hops", "kicked", "serial", "seen") and rng.random() < 0.8:
            message = _with(message, name, rng.choice((1, 2)))
    return message


def _with(message: Any, name: str, value: Any) -> Any:
    fields = {field: getattr(message, field) for field in message.__struct_fields__}
    return type(message)(**fields | {name: value})


def _likely_row(rng: random.Random, kind: Any) -> Any:
    stamps = [rng.choice((0, START, START + 3000, LATEST)) for _ in range(4)]
    if typing.get_args(kind)[0] is MemberRow:
        return MemberRow(rng.choice((D1, D2, D3, "10.0.0.9:9090")), rng.random() < 0.7, stamps[0])
    there, up = rng.random() < 0.7, rng.random() < 0.7
    tag, weight = rng.choice(("", "blue")), rng.choice((0, 1, 100, 1000))
    address = rng.choice((*BACKENDS, "10.1.0.9", "2001:db8::9"))
    return HostRow(address, "", there, stamps[0], tag, stamps[1], weight, stamps[2], up, stamps[3])


def make_ring(rng: random.Random) -> Case:
    found: Case = []
    for _ in range(rng.randrange(1, 12)):
        message = value(rng, rng.choice(KINDS))
        message = likely(rng, message) if rng.random() < 0.85 else message
        match rng.randrange(5):
            case 0:
                found.append(("wait", rng.choice((0.1, 1.0, 6.0, 31.0))))
            case 1:
                found.append(("lookup", rng.choice((b"alice", b"bob", b"dave"))))
        found.append(("hear", rng.choice(LINKS), message))
    return found


def check_ring(case: Case) -> None:
    played = in_ring()
    request = 0
    for kind, *values in case:
        match kind:
            case "hear":
                played.hear(values[0], values[1], mono=played.mono)
            case "wait":
                played.until(played.mono + values[0])
            case "lookup":
                request += 1
                effects = played.handle(
                    Lookup(RequestId(request), UserHash().key(values[0]), b"", values[0]), played.mono
                )
                answers = [effect for effect in effects if isinstance(effect, Answer)]
                assert len(answers) <= 1
    deadline = played.core.next_deadline()
    assert deadline is None or deadline == deadline, "a deadline that is no number"
    played.until(played.mono + 40.0)
    for row in played.core.hosts.rows.values():
        assert 0 <= max(row.present_at, row.tag_at, row.weight_at, row.up_at) <= LATEST
    assert len(played.core.members.listed()) < 1000


# ---- frames


def make_frames(rng: random.Random) -> Case:
    found = b""
    for _ in range(rng.randrange(1, 4)):
        kinds = [kind for kind in KINDS if kind is not messages.Digests]  # long, and only bytes
        body = msgspec.msgpack.encode([value(rng, rng.choice(kinds)) for _ in range(rng.randrange(3))])
        drawn = rng.random()
        if drawn < 0.25:
            body = changed(rng, body)
        elif drawn < 0.3:
            body = rng.choice((b"\x91" * 3000, b"\x81" * 900, b"\xdd\xff\xff\xff\xff", b"\xc1", b""))
        size = len(body) if rng.random() < 0.9 else rng.choice((0, 1, len(body) + 1, 4097, (1 << 32) - 1))
        found += size.to_bytes(4) + body
    return pieces(rng, found)


def check_frames(case: Case) -> None:
    assert repr(_read([b"".join(case)])) == repr(_read(case))


def _read(data: list[bytes]) -> tuple[list[Any], bool]:
    """Return the messages from a stream, and whether other bytes followed at the end."""
    reader, found = ring_native.FrameReader(), []
    try:
        for piece in data:
            for frame in reader.feed(piece):
                assert all(isinstance(message, KINDS) for message in frame)
                found += frame
    except ring_native.FrameError:
        return found, True
    return found, False


# ---- sealed frames

KEY = bytes(range(32))


def make_sealed(rng: random.Random) -> Case:
    """Return sealed frames, and a stream of them in which some are changed, added, left out or moved."""
    writer = ring_native.FrameWriter()
    writer.seal(KEY)
    sent = [[value(rng, rng.choice(KINDS)) for _ in range(rng.randrange(3))] for _ in range(rng.randrange(5))]
    frames = [writer.encode(frame) for frame in sent]
    stream = list(frames)
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(stream) + 1)
        match rng.randrange(5):
            case 0:
                stream.insert(at, rng.choice([*frames, noise(rng), ring_native.encode([messages.Ping(1)])]))
            case 1:
                del stream[at : at + 1]
            case 2:
                rng.shuffle(stream)
            case _ if stream:
                at %= len(stream)
                stream[at] = changed(rng, stream[at])
    return [sent, stream == frames, pieces(rng, b"".join(stream))]


def check_sealed(case: Case) -> None:
    sent, untouched, data = case
    reader, found = ring_native.FrameReader(), []
    reader.limit = ring_native.LIMIT
    reader.unseal(KEY)
    list(reader.feed(ring_native.encode([])))  # in place of the proof
    try:
        for piece in data:
            found += reader.feed(piece)
    except ring_native.FrameError:
        assert not untouched
    assert repr(found) == repr(sent[: len(found)])
    assert not untouched or len(found) == len(sent)


TARGETS = [
    Target("ring", make_ring, check_ring),
    Target("frames", make_frames, check_frames),
    Target("seals", make_sealed, check_sealed),
]
