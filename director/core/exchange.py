"""What two neighbours do when they connect: compare digests, send only what differs (architecture, section
4a).

Each end sends its digests bucket range by bucket range, compares the ranges it gets with its own, sends
the buckets that differ, and `ExchangeDone` behind the last of them. Live changes flow meanwhile. One range
is one turn of the loop.
"""

from __future__ import annotations

from director.core.effects import Effect, Send
from director.core.member import Neighbour, State
from director.core.messages import Digests, ExchangeDone, Names, RingMessage, Users
from director.core.names import NameTable
from director.core.users import BUCKETS, UserTable
from director.types import Now

RANGE = 128
"""Buckets whose digests are made or compared in one turn of the loop, where the table is large."""
SMALL = 100_000
"""Users up to which all are."""
DIGEST = 8
"""Bytes of one digest."""
FRAME_BYTES = 256 * 1024
"""Records a frame of an exchange may hold before the next is begun."""


def has_work(neighbour: Neighbour) -> bool:
    if not neighbour.live or neighbour.congested:
        return False
    return neighbour.digest_cursor is not None or bool(neighbour.compare)


def work(neighbour: Neighbour, users: UserTable, names: NameTable, settled: bool, now: Now) -> list[Effect]:
    """One turn's share of the exchange with this neighbour."""
    unix = int(now.unix)
    share = RANGE if len(users) > SMALL else BUCKETS
    if neighbour.digest_cursor is not None:
        first = neighbour.digest_cursor
        after = min(first + share, BUCKETS)
        digests = _digests(users, first, after, unix)
        neighbour.digest_cursor = after if after < BUCKETS else None
        return [Send(neighbour.link, [Digests(first, digests)])]
    theirs = neighbour.compare.popleft()
    if len(theirs.digests) > share * DIGEST:
        rest = Digests(theirs.first + share, theirs.digests[share * DIGEST :])
        neighbour.compare.appendleft(rest)
        theirs = Digests(theirs.first, theirs.digests[: share * DIGEST])
    after = theirs.first + len(theirs.digests) // DIGEST
    ours = _digests(users, theirs.first, after, unix)
    effects: list[Effect] = []
    batch: list[RingMessage] = []
    size = 0
    for at in range(0, len(ours), DIGEST):
        number = theirs.first + at // DIGEST
        if ours[at : at + DIGEST] == theirs.digests[at : at + DIGEST]:
            continue
        records = users.bucket(number)
        if not records:
            continue
        batch.append(Users(records))
        entries = names.bucket(number)
        if entries:
            batch.append(Names(entries, 0))
        size += len(records)
        if size >= FRAME_BYTES:
            effects.append(Send(neighbour.link, batch))
            batch, size = [], 0
    if after >= BUCKETS:
        neighbour.sent_done = True
        batch.append(ExchangeDone(settled))
    if batch:
        effects.append(Send(neighbour.link, batch))
    return effects


def _digests(users: UserTable, first: int, after: int, unix: int) -> bytes:
    if (first, after) == (0, BUCKETS):
        return users.digests(unix)
    return b"".join(users.digest(number, unix) for number in range(first, after))


def compare_later(neighbour: Neighbour, digests: Digests) -> str | None:
    """Queue a range of the other end's digests. Returns what is wrong with it, if anything."""
    count, rest = divmod(len(digests.digests), DIGEST)
    expected = neighbour.expected_first
    if rest or not count or digests.first != expected or digests.first + count > BUCKETS:
        return f"digests of buckets {digests.first}..{digests.first + count} where {expected}.. were due"
    neighbour.expected_first += count
    neighbour.compare.append(digests)
    return None


def finish(neighbour: Neighbour) -> bool:
    """Make the link FULL once both ends have sent all that differed. Returns whether it has just become
    so."""
    if neighbour.state is State.EXCHANGING and neighbour.sent_done and neighbour.got_done:
        neighbour.state = State.FULL
        return True
    return False
