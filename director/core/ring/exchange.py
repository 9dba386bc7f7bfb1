"""What two neighbours do when they connect: find out what they know differently, send only that
(architecture, section 4a).

Each end sends the digests of its buckets, range by range; of the buckets that differ, the summary of its
records; and of the other's buckets what is not in the other's summaries, `ExchangeDone` behind the last of
it.
Live changes flow meanwhile. One range is one turn of the loop. Names follow when all that matters is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from director.core.placement.names import NameTable
from director.core.placement.users import BUCKETS, UserTable
from director.core.protocol.effects import Effect, Send
from director.core.protocol.messages import Digests, ExchangeDone, Names, RingMessage, Summaries, Users
from director.core.ring.link import Neighbour, State
from director.types import Now

RANGE = 64
"""Buckets whose records are looked at in one turn of the loop, where the table is large."""
DIGESTED = 256
"""Buckets whose digests are sent in one turn of the loop, where the table is large..."""
DIGESTED_USERS = 200_000
"""...but no more than hold about so many users: 3 ms, where many of them may be dropped early."""
SMALL = 20_000
"""Users up to which all are."""
DIGEST = 8
"""Bytes of one digest."""
STEP = 64 * DIGEST
HASH = 6
"""Bytes of one record's hash in a summary."""
NAMED = 2
"""Buckets whose names are sent in one turn of the loop."""


PATIENCE = 0.5
"""Seconds without a word from the neighbour it is busy with, after which a joiner turns to the next too."""


def postpone(links: Iterable[Neighbour], users: UserTable, now: Now, *, joining: bool, loading: bool) -> None:
    """A joiner with many users compares them with one neighbour first; with the others nothing will differ
    then, and half of the work is spared. While it still reads them from its store it compares nothing: all
    that the store knows would be sent."""
    busy = [n for n in links if n.live and n.state is State.EXCHANGING]
    one_by_one = joining and len(users) > SMALL
    for number, neighbour in enumerate(busy):
        put_off = one_by_one and number > 0 and now.mono < busy[0].heard + PATIENCE
        neighbour.postponed = loading or put_off


def has_work(neighbour: Neighbour) -> bool:
    if not neighbour.live or neighbour.congested or neighbour.postponed:
        return False
    return neighbour.digest_cursor is not None or bool(
        neighbour.compare or neighbour.summaries or (neighbour.sent_done and neighbour.names_due)
    )


def work(neighbour: Neighbour, users: UserTable, names: NameTable, settled: bool, now: Now) -> list[Effect]:
    """One turn's share of the exchange with this neighbour."""
    unix = int(now.unix)
    share = RANGE if len(users) > SMALL else BUCKETS
    if neighbour.digest_cursor is not None:
        first = neighbour.digest_cursor
        most = min(DIGESTED, DIGESTED_USERS * BUCKETS // max(1, len(users)))
        after = min(first + max(share, most), BUCKETS)
        digests = _digests(users, first, after, unix)
        neighbour.digest_cursor = after if after < BUCKETS else None
        return [Send(neighbour.link, [Digests(first, digests)])]
    if neighbour.compare:
        return [Send(neighbour.link, [_summaries(neighbour, users, share, unix)])]
    if neighbour.summaries:
        return _what_they_lack(neighbour, users, share, settled, unix)
    return _names(neighbour, names)


def _digests(users: UserTable, first: int, after: int, unix: int) -> bytes:
    if (first, after) == (0, BUCKETS):
        return users.digests(unix)
    return b"".join(users.digest(number, unix) for number in range(first, after))


def _summaries(neighbour: Neighbour, users: UserTable, share: int, unix: int) -> Summaries:
    """What we know of the buckets of one range that differ, for the other end to send what is missing."""
    theirs = neighbour.compare.popleft()
    if len(theirs.digests) > share * DIGEST:
        rest = Digests(theirs.first + share, theirs.digests[share * DIGEST :])
        neighbour.compare.appendleft(rest)
        theirs = Digests(theirs.first, theirs.digests[: share * DIGEST])
    after = theirs.first + len(theirs.digests) // DIGEST
    ours = _digests(users, theirs.first, after, unix)
    differing = [
        theirs.first + at // DIGEST
        for at in _differences(ours, theirs.digests)
        if theirs.digests[at : at + DIGEST] != bytes(DIGEST)
    ]
    return Summaries(differing, [users.summary(number, unix) for number in differing], after >= BUCKETS)


def _differences(ours: bytes, theirs: bytes) -> Iterator[int]:
    """Where digests differ; what is equal is skipped in large steps, because that is nearly all."""
    for start in range(0, len(ours), STEP):
        if ours[start : start + STEP] != theirs[start : start + STEP]:
            for at in range(start, min(start + STEP, len(ours)), DIGEST):
                if ours[at : at + DIGEST] != theirs[at : at + DIGEST]:
                    yield at


def _what_they_lack(
    neighbour: Neighbour, users: UserTable, share: int, settled: bool, unix: int
) -> list[Effect]:
    theirs = neighbour.summaries.popleft()
    if len(theirs.buckets) > share:
        rest = Summaries(theirs.buckets[share:], theirs.hashes[share:], theirs.last)
        neighbour.summaries.appendleft(rest)
        theirs = Summaries(theirs.buckets[:share], theirs.hashes[:share], False)
    batch: list[RingMessage] = []
    lacking = []
    for number, hashes in zip(theirs.buckets, theirs.hashes, strict=True):
        records = users.missing(number, hashes, unix)
        if records:
            lacking.append(records)
            neighbour.names_due.append((number, records))
    if lacking:
        batch.append(Users(b"".join(lacking)))
    if theirs.last:
        neighbour.sent_done = True
        batch.append(ExchangeDone(settled))
    return [Send(neighbour.link, batch)] if batch else []


def _names(neighbour: Neighbour, names: NameTable) -> list[Effect]:
    """The names of some of the users that were sent."""
    entries = []
    for _ in range(min(NAMED, len(neighbour.names_due))):
        number, records = neighbour.names_due.popleft()
        entries.append(names.entries_of(number, records))
    found = b"".join(entries)
    return [Send(neighbour.link, [Names(found, 0)])] if found else []


def compare_later(neighbour: Neighbour, digests: Digests) -> str | None:
    """Queue a range of the other end's digests. Returns what is wrong with it, if anything."""
    count, rest = divmod(len(digests.digests), DIGEST)
    expected = neighbour.expected_first
    if rest or not count or digests.first != expected or digests.first + count > BUCKETS:
        return f"digests of buckets {digests.first}..{digests.first + count} where {expected}.. were due"
    neighbour.expected_first += count
    neighbour.compare.append(digests)
    return None


def answer_later(neighbour: Neighbour, summaries: Summaries) -> str | None:
    """Queue the other end's summaries. Returns what is wrong with them, if anything."""
    if len(summaries.buckets) != len(summaries.hashes) or any(len(h) % HASH for h in summaries.hashes):
        return f"summaries of {len(summaries.buckets)} buckets that do not fit them"
    if not all(0 <= number < BUCKETS for number in summaries.buckets):
        return "summaries of buckets that do not exist"
    again = neighbour.summarised.intersection(summaries.buckets)
    if again or len(set(summaries.buckets)) < len(summaries.buckets):
        return f"summaries of a bucket that came before: {min(again, default=summaries.buckets[0])}"
    neighbour.summarised.update(summaries.buckets)
    neighbour.summaries.append(summaries)
    return None


def finish(neighbour: Neighbour) -> bool:
    """Make the link FULL once both ends have sent all that differed. Returns whether it has just become
    so."""
    if neighbour.state is State.EXCHANGING and neighbour.sent_done and neighbour.got_done:
        neighbour.state = State.FULL
        return True
    return False
