"""What the members of a ring say to each other.

Tags are listed here once and never used again for something else. New fields go last and have a default,
so that the neighbouring release still reads the message. `tests/unit/wire/samples/` holds an encoded
sample of each.

State is a lattice, messages are pieces of it (architecture, section 4a): a piece that is lost, repeated or
overtaken cannot make two members differ for good. Only `Token` depends on when it arrives, and it is
repeated by whoever waits.
"""

from __future__ import annotations

import msgspec

RING_VERSION = 1
"""The newest version of these messages this program speaks."""
OLDEST_RING_VERSION = 1
"""The oldest version it still understands."""


class HostRow(msgspec.Struct, frozen=True, array_like=True):
    """A backend host, each attribute with the stamp of the decision behind it (0: from the configuration)."""

    address: str
    hostname: str
    present: bool
    present_at: int
    tag: str
    tag_at: int
    weight: int
    weight_at: int
    up: bool
    up_at: int


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """First message of both ends, before anything is proved. Nothing in it is believed until `Proof` fits
    it."""

    version: int
    oldest_version: int
    member: str
    """Who speaks, `address:port` as in `ring.servers`."""
    incarnation: int
    """Differs for each start of a director."""
    nonce: bytes
    unix: float
    username_hash: str
    """Must be the same everywhere: it decides who a user is."""
    expire: int


class Proof(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """HMAC-SHA256 over both greetings and the direction, keyed with the ring's secret."""

    mac: bytes


class Bye(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Last message before the connection is closed: why."""

    reason: str
    routine: bool = False
    """Nothing is wrong: a nearer neighbour, a stop."""


class Users(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """User records, 22 bytes each (`core.users.RECORD`)."""

    records: bytes


class Hosts(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Rows of the host table, tombstones included."""

    rows: list[HostRow]


class Digests(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """Digests of the user buckets `first`, `first + 1`, …, 8 bytes each. The other end sends what differs."""

    first: int
    digests: bytes


class ExchangeDone(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Everything of mine that differed from your digests has been sent.

    settled: my memory had been compared with the ring's before; False from a director that has just
    started too.
    """

    settled: bool


class Token(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Goes round to the right, twice: the first lap passes a member only if `digest` is that of his effective
    host table, the second releases him (ring-rules 8, 9)."""

    origin: str
    serial: int
    lap: int
    digest: bytes
    passed: list[str]
    """Lap 1: the members so far. Lap 2: all members of the ring."""


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=9):
    serial: int


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=10):
    serial: int


class Redirect(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Between you and me there is `member`: he is your right neighbour."""

    member: str


class Linked(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """My own right link has finished its exchange: tokens may come through me."""


class Names(msgspec.Struct, frozen=True, array_like=True, tag=13, gc=False):
    """User names for listings (`core.names`).

    hops: members it is still for, the receiver included; he passes it on to the right. 0: for the receiver
    alone."""

    entries: bytes
    hops: int


RingMessage = (
    Hello
    | Proof
    | Bye
    | Users
    | Hosts
    | Digests
    | ExchangeDone
    | Token
    | Ping
    | Pong
    | Redirect
    | Linked
    | Names
)
