"""Random bytes of kinds that are difficult for parsers."""

from __future__ import annotations

import random
from collections.abc import Sequence

WORDS = [
    *(
        b"",
        b" ",
        b"\0",
        b"\x01",
        b"\x01t",
        b"\x010",
        b"\x011",
        b"\x01n",
        b"\x01x",
        b"\xff",
        b"\xc3\x28",
        b"=",
    ),
    *(b"0", b"1", b"-1", b"+1", b"00", b"65535", b"65536", b"4294967295", b"4294967296", b"9" * 5000),
    *(b"1.0", b"1e9", b"nan", b"inf", b"0x10", b"\xd9\xa1", b"\xc2\xb2", b"1_0"),
    *(
        b"127.0.0.1",
        b"[::1]",
        b"::1",
        b"fe80::1%lo",
        b"10.1",
        b"256.0.0.1",
        b"::ffff:1.2.3.4",
        b"example.com",
    ),
    *(b"alice", b"ALICE", b"a@b", b"a@b@c", b"%u", b"*", b"x" * 300, b"\xe2\x80\xa8", b"\xed\xb3\xbf"),
    *(b"VERSION", b"1", b"2", b"OK", b"FAIL", b"PASS", b"proxy", b"(null)", b"\r", b"\x7f", b":", b",", b"@"),
]


def noise(rng: random.Random, most: int = 40) -> bytes:
    """Return random bytes."""
    return rng.randbytes(rng.randrange(most + 1))


def word(rng: random.Random, words: Sequence[bytes] = ()) -> bytes:
    """Return one of `words` usually, else a strange word or noise; sometimes a little changed."""
    drawn = rng.random()
    if words and drawn < 0.7:
        found = rng.choice(words)
    else:
        found = rng.choice(WORDS) if drawn < 0.95 else noise(rng, 8)
    return changed(rng, found) if rng.random() < 0.15 else found


def line(rng: random.Random, words: Sequence[bytes] = (), most: int = 8) -> bytes:
    """Return words between TABs, without LF."""
    return b"\t".join(word(rng, words) for _ in range(rng.randrange(most + 1))).replace(b"\n", b"")


def changed(rng: random.Random, data: bytes) -> bytes:
    """Return `data` with a few bytes changed, added, doubled or removed."""
    found = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(5):
            case 0:
                found[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                found[at:at] = rng.choice(WORDS)[:64]
            case 2:
                del found[at : at + rng.randrange(1, 8)]
            case 3:
                found[at:at] = found[at : at + rng.randrange(1, 16)]
            case 4 if at < len(found):
                found[at] ^= 1 << rng.randrange(8)
    return bytes(found)


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """Return the bytes split as a socket may deliver them."""
    found, at = [], 0
    while at < len(data):
        size = rng.choice((1, 2, 3, 7, 100, 5000))
        found.append(data[at : at + size])
        at += size
    return found
