"""The messages between the directors of a ring.

A tag is listed here once and never used again for something else. New fields go last and have a default, so
that the release before and after can read the message. `tests/unit/wire/samples/` holds an encoded sample of
each message.

State merges in any order, and messages are pieces of state (docs/ring.md, "What it does"). A piece that is
lost, repeated or overtaken cannot make two directors differ permanently. Only `Token` depends on the time
when it arrives, and the director that waits for it repeats it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from director.core.placement.users import BUCKETS
from director.core.protocol.kicktypes import KickWhat

RING_VERSION = 2
"""The newest version of the messages that this program can use."""
OLDEST_RING_VERSION = 2
"""The oldest version that it can use. Links of version 1 were not protected, and no director uses them any
more."""


ROWS = 500
"""Most rows of one message."""
DIRECTORS = 10_000
"""Most directors that a token can have passed."""

Passed = Annotated[list[str], Meta(max_length=DIRECTORS)]


class HostRow(msgspec.Struct, frozen=True, array_like=True):
    """A backend host. Each attribute has the stamp of its decision; 0: from the configuration."""

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
    moved: str = ""
    """Host name of the backend that was here before `present_at` and has another address now: its users are
    assigned to that name's address. Empty: its users are assigned anew."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The first message of both ends, before anything is proved.

    Nothing in it counts until a `Proof` fits it.
    """

    version: int
    oldest_version: int
    member: str
    """The director, as `address:port` in `ring.servers`."""
    incarnation: int
    """Differs for each run of a director."""
    nonce: bytes
    unix: float
    username_hash: str
    """Must be the same on all directors: it decides which logins are the same user."""
    expire: int
    leftwards: bool = False
    """Whether the dialler is to the right of the receiver: no director to its left could reach it, so it asks
    to be taken for the right neighbour."""
    release: str = ""
    """The program's release; empty: unknown."""


class Proof(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Proves that the sender has the ring's secret, for these two greetings (`linkkeys.py`).

    It is alone in its frame. All frames behind it are sealed.
    """

    mac: bytes


class Bye(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The last message before the connection is closed, with the reason."""

    reason: str
    routine: bool = False
    """Whether nothing is wrong: a nearer neighbour, a stop."""


class Users(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """User records, 22 bytes each (`core.placement.users.RECORD`)."""

    records: bytes


class Hosts(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Rows of the host table, tombstones included."""

    rows: Annotated[list[HostRow], Meta(max_length=ROWS)]


class Digests(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """Digests of the user buckets `first`, `first + 1`, …, 8 bytes each.

    The other end answers with summaries of the buckets that differ.
    """

    first: int
    digests: bytes


class ExchangeDone(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """The sender has sent everything in which it differed from the receiver's digests."""

    compared: bool
    """Whether the sender's memory had been compared with the ring; False: the sender has just started."""


class Token(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Goes round the ring twice, to the right (docs/ring.md, rules 8, 9).

    In the first lap a director passes it on only if `digest` is that of its own effective host table. The
    second lap releases the director's waiting users.
    """

    origin: str
    serial: int
    lap: int
    digest: bytes
    passed: Passed
    """Lap 1: the directors so far. Lap 2: all directors of the ring."""
    limit: int = 0
    """Lap 1: the lowest `users.max` of the directors so far. Lap 2: that of the ring. 0: no limit."""


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=9):
    serial: int


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=10):
    serial: int
    unix: float = 0.0
    """The sender's clock, in Unix seconds; 0: unknown."""
    backends: int = 0
    """A digest of the backends in the configuration; 0: unknown."""


class Redirect(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """The director `member` is between sender and receiver: it is the receiver's right neighbour."""

    member: str


class Linked(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """The sender's own right link has finished its exchange: tokens can pass through the sender."""


class Names(msgspec.Struct, frozen=True, array_like=True, tag=13, gc=False):
    """User names for listings (`core.placement.names`).

    hops: how many directors still get it, the receiver included. The receiver passes it on to the right. 0:
    only the receiver gets it.
    """

    entries: bytes
    hops: int


class MoveRound(msgspec.Struct, frozen=True, array_like=True, tag=14, gc=False):
    """Goes round the ring once, to the right (docs/ring.md, rule 24).

    A director passes it on when the old sessions of these users have ended there. The MOVING records were
    sent before it.
    """

    origin: str
    serial: int
    moves: bytes
    """Key (8 bytes) and `decided` (4 bytes) of each user."""
    passed: Passed
    late: Passed
    """Directors that passed it on although a kick had not ended in time."""
    kicked: int
    """How many sessions were ended so far."""
    parted: bool = False
    """Whether one of these users had another host on some director, and may still be connecting to it."""


class NearRound(msgspec.Struct, frozen=True, array_like=True, tag=15, gc=False):
    """Asks whether any director has seen a user near expiry.

    A director that passes it on promises to hold the user's logins (docs/ring.md, rule 22).
    """

    origin: str
    serial: int
    key: int
    seen: int
    """The latest `seen` of the directors so far."""
    passed: Passed


class KickRound(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """An operator's kick.

    The first lap begins it on each director. The second lap passes a director when its kick has ended.
    """

    origin: str
    serial: int
    lap: int
    what: KickWhat
    passed: Passed
    late: Passed
    kicked: int
    count: KickWhat | None = None
    """The sessions to count, if none is to be ended; None: the sessions of `what` are ended.

    `what` is then a `Fence`, which an older release carries out. An older release passes the token on without
    `count`, so it is known that sessions were not counted.
    """


class MemberRow(msgspec.Struct, frozen=True, array_like=True):
    """Whether a director belongs to the ring, as an operator decided at this time (Unix seconds)."""

    member: str
    present: bool
    at: int
    name: str = ""
    """`name:port`, if the director is listed by its name: then the row is about the address that the name has
    now."""


class Members(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """The operators' run-time changes of the list of directors."""

    rows: Annotated[list[MemberRow], Meta(max_length=ROWS)]


class Summaries(msgspec.Struct, frozen=True, array_like=True, tag=18, gc=False):
    """Summaries of the buckets whose digests differ.

    The other end answers with the records that they lack.
    """

    buckets: Annotated[list[int], Meta(max_length=BUCKETS)]
    hashes: Annotated[list[bytes], Meta(max_length=BUCKETS)]
    """For each bucket: 6 bytes for each record (`UserTable.summary`)."""
    last: bool
    """Whether no more buckets differ."""


class Leaving(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """The director `member` is about to stop.

    Every director gets it: `member` ends, and is not partitioned off.

    From a director other than `member` it counts only if no link with `member` works.
    """

    member: str
    incarnation: int
    """A number that only `member` raises (`core/ring/presence.py`)."""


class Present(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """The director `member` is present.

    Every director gets it if it is new. An earlier `Leaving` no longer counts.

    Sent to `member` itself, it is the number with which `member` has to announce itself, because a higher
    number than its own is known.
    """

    member: str
    incarnation: int


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
    | MoveRound
    | NearRound
    | KickRound
    | Members
    | Summaries
    | Leaving
    | Present
)
