"""What two neighbours do when they connect: find out what they know differently, send only that
(docs/ring.md, "What it does").

Each end sends the digests of its buckets, range by range; of the buckets that differ, the summary of its
records; and of the other's buckets what is not in the other's summaries, `ExchangeDone` behind the last of
it.
Live changes flow meanwhile. One range is one turn of the loop. Names follow when all that matters is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from director.core.placement.names import NameTable
from director.core.placement.users import BUCKETS, UserTable
from director.core.protocol.effects import Effect, Send
from director.core.protocol.messages import Digests, ExchangeDone, Names, RingMessage, Summaries, Users
from director.types import LinkId, Now

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
QUIET = 0.5
"""Seconds without a word from the neighbour it is busy with, after which a joiner turns to the next too."""


class Exchange:
    """The exchange over one link."""

    def __init__(self, link: LinkId) -> None:
        self._link = link
        self.postponed = False
        """It waits for that with another neighbour."""
        self.settled = False
        """The other end's memory had been compared with the ring when it ended."""
        self._sent_done = self._got_done = False
        self._digest_cursor: int | None = 0
        """Next bucket whose digest is to be sent; None when all were."""
        self._compare: deque[Digests] = deque()
        """Digests of the other end that wait to be compared."""
        self._expected_first = 0
        self._summaries: deque[Summaries] = deque()
        """What the other end knows of buckets that differ; what it lacks is to be sent."""
        self._summarised: set[int] = set()
        """Buckets of which the other end has sent its summary."""
        self._names_due: deque[tuple[int, bytes]] = deque()
        """Buckets, and the records of them that were sent, whose names are to follow."""

    @property
    def has_begun(self) -> bool:
        """Digests have been sent."""
        return self._digest_cursor != 0

    @property
    def is_over(self) -> bool:
        """Both ends have sent all that differed. Names may still follow."""
        return self._sent_done and self._got_done

    @property
    def has_work(self) -> bool:
        """Whether there is something to send in a turn of the loop."""
        if self.postponed:
            return False
        return self._digest_cursor is not None or bool(
            self._compare or self._summaries or (self._sent_done and self._names_due)
        )

    def work(self, users: UserTable, names: NameTable, settled: bool, now: Now) -> list[Effect]:
        """One turn's share. settled: our own memory has been compared with the ring."""
        unix = int(now.unix)
        slice_size = RANGE if len(users) > SMALL else BUCKETS
        if self._digest_cursor is not None:
            first = self._digest_cursor
            most = min(DIGESTED, DIGESTED_USERS * BUCKETS // max(1, len(users)))
            after = min(first + max(slice_size, most), BUCKETS)
            digests = _digests(users, first, after, unix)
            self._digest_cursor = after if after < BUCKETS else None
            return [Send(self._link, [Digests(first, digests)])]
        if self._compare:
            return [Send(self._link, [self._next_summaries(users, slice_size, unix)])]
        if self._summaries:
            return self._what_they_lack(users, slice_size, settled, unix)
        return self._next_names(names)

    def compare_later(self, digests: Digests) -> str | None:
        """Queue a range of the other end's digests. Returns what is wrong with it, if anything."""
        count, rest = divmod(len(digests.digests), DIGEST)
        expected = self._expected_first
        if rest or not count or digests.first != expected or digests.first + count > BUCKETS:
            return f"digests of buckets {digests.first}..{digests.first + count} where {expected}.. were due"
        self._expected_first += count
        self._compare.append(digests)
        return None

    def answer_later(self, summaries: Summaries) -> str | None:
        """Queue the other end's summaries. Returns what is wrong with them, if anything."""
        if len(summaries.buckets) != len(summaries.hashes) or any(len(h) % HASH for h in summaries.hashes):
            return f"summaries of {len(summaries.buckets)} buckets that do not fit them"
        if not all(0 <= number < BUCKETS for number in summaries.buckets):
            return "summaries of buckets that do not exist"
        again = self._summarised.intersection(summaries.buckets)
        if again or len(set(summaries.buckets)) < len(summaries.buckets):
            return f"summaries of a bucket that came before: {min(again, default=summaries.buckets[0])}"
        self._summarised.update(summaries.buckets)
        self._summaries.append(summaries)
        return None

    def they_are_done(self, settled: bool) -> None:
        """The other end has sent all that differed. settled: as in `ExchangeDone`."""
        self._got_done, self.settled = True, settled

    def _next_summaries(self, users: UserTable, slice_size: int, unix: int) -> Summaries:
        """What we know of the buckets of one range that differ, for the other end to send what is missing."""
        theirs = self._compare.popleft()
        if len(theirs.digests) > slice_size * DIGEST:
            rest = Digests(theirs.first + slice_size, theirs.digests[slice_size * DIGEST :])
            self._compare.appendleft(rest)
            theirs = Digests(theirs.first, theirs.digests[: slice_size * DIGEST])
        after = theirs.first + len(theirs.digests) // DIGEST
        ours = _digests(users, theirs.first, after, unix)
        differing = [
            theirs.first + at // DIGEST
            for at in _differences(ours, theirs.digests)
            if theirs.digests[at : at + DIGEST] != bytes(DIGEST)
        ]
        return Summaries(differing, [users.summary(number, unix) for number in differing], after >= BUCKETS)

    def _what_they_lack(self, users: UserTable, slice_size: int, settled: bool, unix: int) -> list[Effect]:
        theirs = self._summaries.popleft()
        if len(theirs.buckets) > slice_size:
            rest = Summaries(theirs.buckets[slice_size:], theirs.hashes[slice_size:], theirs.last)
            self._summaries.appendleft(rest)
            theirs = Summaries(theirs.buckets[:slice_size], theirs.hashes[:slice_size], False)
        batch: list[RingMessage] = []
        lacking = []
        for number, hashes in zip(theirs.buckets, theirs.hashes, strict=True):
            records = users.missing(number, hashes, unix)
            if records:
                lacking.append(records)
                self._names_due.append((number, records))
        if lacking:
            batch.append(Users(b"".join(lacking)))
        if theirs.last:
            self._sent_done = True
            batch.append(ExchangeDone(settled))
        return [Send(self._link, batch)] if batch else []

    def _next_names(self, names: NameTable) -> list[Effect]:
        """The names of some of the users that were sent."""
        entries = []
        for _ in range(min(NAMED, len(self._names_due))):
            number, records = self._names_due.popleft()
            entries.append(names.entries_of(number, records))
        found = b"".join(entries)
        return [Send(self._link, [Names(found, 0)])] if found else []


def _digests(users: UserTable, first: int, after: int, unix: int) -> bytes:
    if (first, after) == (0, BUCKETS):
        return users.digests(unix)
    return b"".join(users.digest(number, unix) for number in range(first, after))


def _differences(ours: bytes, theirs: bytes) -> Iterator[int]:
    """Where digests differ; what is equal is skipped in large steps, because that is nearly all."""
    for start in range(0, len(ours), STEP):
        if ours[start : start + STEP] != theirs[start : start + STEP]:
            for at in range(start, min(start + STEP, len(ours)), DIGEST):
                if ours[at : at + DIGEST] != theirs[at : at + DIGEST]:
                    yield at
