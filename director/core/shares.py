"""Shares of a turn of the loop: how much of a message one turn handles, what a message costs, and how a
message that is too large for a frame is sent as two.

A director that has the secret chooses the contents of its messages. So everything whose time grows with its
size has a cost, or is divided.
"""

from __future__ import annotations

from collections.abc import Sequence

from director.core.intake import MERGED
from director.core.moves.movestate import SUBJECT
from director.core.placement.names import HEAD
from director.core.placement.users import RECORD
from director.core.protocol.kicktypes import HashOnHosts
from director.core.protocol.messages import (
    HostRow,
    Hosts,
    KickRound,
    Leaving,
    Members,
    MoveRound,
    Names,
    NearRound,
    Present,
    RingMessage,
    Summaries,
    Token,
    Users,
)

PIECE = MERGED * RECORD.size
"""Bytes of user records that are merged together."""
ENTRIES = 400
"""Names that are added together."""
HOSTS, WEIGHT = 50, 10_000
"""Host rows that are merged together, and the sum of their weights: the number of circle points to be
made."""
DIRECTORS = 40
"""Rows of directors that are merged together."""
MESSAGE, TABLE, ROW, DIRECTOR, WORD, MEMBER, KICK, KICKED = 8, 400, 80, 90, 40, 20, 60, 6
"""Costs, in records that could be merged in that time: a message, a change of a table, a host row, a
director's row, a word about departure or presence, a director that a token has passed, a kick, a host of a
kick."""


def cost(message: RingMessage) -> int:
    """Return the share of a turn that a message takes, without the records in it."""
    match message:
        case Users() | Names():
            return MESSAGE  # first, because nearly every message is of these kinds
        case Hosts(rows):
            return max(TABLE + ROW * len(rows), sum(row.weight for row in rows) * MERGED // WEIGHT)
        case Members(rows):
            return TABLE + DIRECTOR * len(rows)
        case Leaving() | Present():
            return WORD
        case Token() | NearRound():
            return MESSAGE + MEMBER * len(message.passed)
        case MoveRound(moves=moves):
            return (
                MESSAGE + MEMBER * (len(message.passed) + len(message.late)) + 5 * len(moves) // SUBJECT.size
            )
        case KickRound(what=what, count=count):
            hosts = sum(len(kick.hosts) for kick in (what, count) if isinstance(kick, HashOnHosts))
            return KICK + MEMBER * (len(message.passed) + len(message.late)) + KICKED * hosts
    return MESSAGE


def head(message: RingMessage) -> tuple[RingMessage, RingMessage | None]:
    """Return the part of a message for one turn, and the rest; None: there is no rest."""
    match message:
        case Users():
            return message, None  # first, because most messages are of this kind
        case Names(entries, hops):
            at = _end_of_names(entries, ENTRIES)
            if at < len(entries):
                return Names(entries[:at], hops), Names(entries[at:], hops)
        case Hosts(rows):
            at = _end_of_hosts(rows)
            if at < len(rows):
                return Hosts(rows[:at]), Hosts(rows[at:])
        case Members(rows) if len(rows) > DIRECTORS:
            return Members(rows[:DIRECTORS]), Members(rows[DIRECTORS:])
    return message, None


def halves(message: RingMessage) -> tuple[RingMessage, RingMessage] | None:
    """Return two messages with the contents of this one, each about half as large; None: it cannot be
    divided, and is never large."""
    match message:
        case Users(records) if len(records) > RECORD.size:
            middle = len(records) // RECORD.size // 2 * RECORD.size
            return Users(records[:middle]), Users(records[middle:])
        case Names(entries, hops):
            middle = _end_of_names(entries, len(entries), len(entries) // 2)
            if 0 < middle < len(entries):
                return Names(entries[:middle], hops), Names(entries[middle:], hops)
        case Hosts(rows) if len(rows) > 1:
            middle = len(rows) // 2
            return Hosts(rows[:middle]), Hosts(rows[middle:])
        case Members(rows) if len(rows) > 1:
            middle = len(rows) // 2
            return Members(rows[:middle]), Members(rows[middle:])
        case Summaries(buckets, hashes, last) if len(buckets) > 1:
            middle = len(buckets) // 2
            first = Summaries(buckets[:middle], hashes[:middle], False)
            return first, Summaries(buckets[middle:], hashes[middle:], last)
    return None


def _end_of_hosts(rows: Sequence[HostRow]) -> int:
    """Return how many of these rows are merged together: at least one."""
    weight = 0
    for number, row in enumerate(rows[:HOSTS]):
        weight += row.weight
        if weight > WEIGHT:
            return max(number, 1)
    return min(HOSTS, len(rows))


def _end_of_names(entries: bytes, most: int, most_bytes: int | None = None) -> int:
    """Return the offset of the end of the first names; if an entry is incomplete, the length of `entries`.

    Args:
        entries: the names, as in `Names`.
        most: how many names at most.
        most_bytes: names that begin after this offset do not count; None: no limit.
    """
    at = names = 0
    while names < most and at < len(entries) and (most_bytes is None or at <= most_bytes):
        if at + HEAD.size > len(entries):
            return len(entries)
        at += HEAD.size + HEAD.unpack_from(entries, at)[1]
        names += 1
    return min(at, len(entries))
