"""What the members of a ring say to each other.

Tags are listed here once and never used again for something else. New fields go last and have a default,
so that the neighbouring release still reads the message. `tests/unit/wire/samples/` holds an encoded
sample of each.

State is a lattice, messages are pieces of it (docs/ring.md, "What it does"): a piece that is lost, repeated
or overtaken cannot make two members differ for good. Only `Token` depends on when it arrives, and it is
repeated by whoever waits.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from director.core.placement.users import BUCKETS
from director.core.protocol.kicktypes import KickWhat

RING_VERSION = 2
"""The newest version of these messages this program speaks."""
OLDEST_RING_VERSION = 2
"""The oldest version it still understands. Links of version 1 were not protected: none is left."""


ROWS = 500
"""Most rows in one message."""
DIRECTORS = 10_000
"""Most directors that a token can have passed."""

Passed = Annotated[list[str], Meta(max_length=DIRECTORS)]


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
    moved: str = ""
    """Host name of whoever was here before `present_at` and has another address since: his users go where
    that name is now. Empty: they are placed anew."""


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
    leftwards: bool = False
    """The dialler stands to the right: nobody to his left could reach him, so he asks to be dialled back."""
    release: str = ""
    """Of the program; empty: it is not told."""


class Proof(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Shows that the speaker has the ring's secret, for these two greetings (`linkkeys.py`). Alone in its
    frame; all frames behind it are sealed."""

    mac: bytes


class Bye(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Last message before the connection is closed: why."""

    reason: str
    routine: bool = False
    """Nothing is wrong: a nearer neighbour, a stop."""


class Users(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """User records, 22 bytes each (`core.placement.users.RECORD`)."""

    records: bytes


class Hosts(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Rows of the host table, tombstones included."""

    rows: Annotated[list[HostRow], Meta(max_length=ROWS)]


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
    host table, the second releases him (docs/ring.md, rules 8, 9)."""

    origin: str
    serial: int
    lap: int
    digest: bytes
    passed: Passed
    """Lap 1: the members so far. Lap 2: all members of the ring."""
    limit: int = 0
    """Lap 1: the lowest `users.max` of the members so far. Lap 2: that of the ring. 0: no limit."""


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=9):
    serial: int


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=10):
    serial: int
    unix: float = 0.0
    """What the clock says; 0: it is not told."""
    backends: int = 0
    """A digest of the backends in the configuration; 0: it is not told."""


class Redirect(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Between you and me there is `member`: he is your right neighbour."""

    member: str


class Linked(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """My own right link has finished its exchange: tokens may come through me."""


class Names(msgspec.Struct, frozen=True, array_like=True, tag=13, gc=False):
    """User names for listings (`core.placement.names`).

    hops: members it is still for, the receiver included; he passes it on to the right. 0: for the receiver
    alone."""

    entries: bytes
    hops: int


class MoveRound(msgspec.Struct, frozen=True, array_like=True, tag=14, gc=False):
    """Goes round to the right once; a member passes it on when the old sessions of these users are gone there
    (docs/ring.md, rule 24). The moving records themselves have gone ahead of it."""

    origin: str
    serial: int
    moves: bytes
    """Key (8 bytes) and `decided` (4 bytes) of each user."""
    passed: Passed
    late: Passed
    """Members that passed it on although a kick had not ended in time."""
    kicked: int
    """Sessions ended so far."""
    parted: bool = False
    """Somewhere one of these users had another host, and may be on his way to it still."""


class NearRound(msgspec.Struct, frozen=True, array_like=True, tag=15, gc=False):
    """Is this user, who is about to expire, seen anywhere? Passing it on is a promise to hold his logins
    (docs/ring.md, rule 22)."""

    origin: str
    serial: int
    key: int
    seen: int
    """The latest `seen` of the members so far."""
    passed: Passed


class KickRound(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """An operator's kick. The first lap begins it everywhere, the second passes a member when it is over
    there."""

    origin: str
    serial: int
    lap: int
    what: KickWhat
    passed: Passed
    late: Passed
    kicked: int
    count: KickWhat | None = None
    """Nothing is to be ended, but these sessions are to be counted; `what` is a `Fence` then, which an older
    release carries out. It passes the token on without this: so it is known that it has not counted them."""


class MemberRow(msgspec.Struct, frozen=True, array_like=True):
    """Whether a director belongs to the ring, by an operator's word of this time (Unix seconds)."""

    member: str
    present: bool
    at: int
    name: str = ""
    """`name:port`, where the director is known by that: whatever its address is by now, it is meant."""


class Members(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """What operators have added to and removed from the list of directors at run time."""

    rows: Annotated[list[MemberRow], Meta(max_length=ROWS)]


class Summaries(msgspec.Struct, frozen=True, array_like=True, tag=18, gc=False):
    """Of buckets whose digests differ: what of them is known here. The other end sends what is not in it."""

    buckets: Annotated[list[int], Meta(max_length=BUCKETS)]
    hashes: Annotated[list[bytes], Meta(max_length=BUCKETS)]
    """For each bucket: 6 bytes a record (`UserTable.summary`)."""
    last: bool
    """Nothing more differs."""


class Leaving(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """`member` is about to stop. Goes to everybody: it is not partitioned off, it is gone. From another
    director than the member itself it counts only where no link with the member works."""

    member: str
    incarnation: int
    """A number that only `member` raises (`core/ring/presence.py`)."""


class Present(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """`member` is there. Goes to everybody where it is new; an earlier `Leaving` counts no more. To the
    member itself: the number to announce itself with, because a higher one than its own is known."""

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
