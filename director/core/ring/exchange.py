"""The exchange: two neighbours that connect find out which records differ, and send only those (docs/ring.md,
"What it does").

Each end sends the digests of its buckets, range by range. For the buckets whose digests differ, it sends
summaries of its records. For each summary that it gets, it sends the records that the summary lacks.
`ExchangeDone` follows the last of them.

Live changes flow meanwhile. One turn of the loop does one range. Names follow at the end, because routing
does not need them.
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
"""Buckets whose records are compared in one turn of the loop, if the table is large."""
DIGESTED = 256
"""Buckets whose digests are sent in one turn of the loop, if the table is large …"""
DIGESTED_USERS = 200_000
"""… but no more buckets than hold about this many users. That takes 3 ms if many of the users may be dropped
early."""
SMALL = 20_000
"""Users up to which a table is small. All buckets of a small table are done in one turn."""
DIGEST = 8
"""Bytes of one digest."""
STEP = 64 * DIGEST
HASH = 6
"""Bytes of one record in a summary."""
NAMED = 2
"""Buckets whose names are sent in one turn of the loop."""
QUIET = 0.5
"""Seconds of silence after which a joining director no longer waits for the end of its exchange with one
neighbour, and begins the next exchange too."""


class Exchange:
    """The exchange with one neighbour."""

    def __init__(self, link: LinkId) -> None:
        self._link = link
        self.postponed = False
        """Whether it waits for the exchange with another neighbour."""
        self.compared = False
        """Whether the other end's memory had been compared with the ring when the other end was done."""
        self._sent_done = self._got_done = False
        self._digest_cursor: int | None = 0
        """The next bucket whose digest is to be sent; None: all have been sent."""
        self._compare: deque[Digests] = deque()
        """Digests of the other end that were not compared yet."""
        self._expected_first = 0
        self._summaries: deque[Summaries] = deque()
        """Summaries of the other end that were not answered yet with the records that they lack."""
        self._summarised: set[int] = set()
        """Buckets for which the other end has sent its summary."""
        self._names_due: deque[tuple[int, bytes]] = deque()
        """Buckets whose names are to follow, each with the records that were sent."""

    @property
    def has_begun(self) -> bool:
        """Whether digests have been sent."""
        return self._digest_cursor != 0

    @property
    def has_ended(self) -> bool:
        """Whether both ends have sent all records that differ. Names may still follow."""
        return self._sent_done and self._got_done

    @property
    def has_work(self) -> bool:
        """Whether a turn of the loop can send something."""
        if self.postponed:
            return False
        return self._digest_cursor is not None or bool(
            self._compare or self._summaries or (self._sent_done and self._names_due)
        )

    def work(self, users: UserTable, names: NameTable, compared: bool, now: Now) -> list[Effect]:
        """Return what one turn of the loop sends.

        Args:
            compared: whether this director's memory has been compared with the ring.
        """
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
            return self._what_they_lack(users, slice_size, compared, unix)
        return self._next_names(names)

    def compare_later(self, digests: Digests) -> str | None:
        """Queue a range of the other end's digests. Returns the text of an error; None: no error."""
        count, rest = divmod(len(digests.digests), DIGEST)
        expected = self._expected_first
        if rest or not count or digests.first != expected or digests.first + count > BUCKETS:
            return f"digests of buckets {digests.first}..{digests.first + count} where {expected}.. were due"
        self._expected_first += count
        self._compare.append(digests)
        return None

    def answer_later(self, summaries: Summaries) -> str | None:
        """Queue summaries of the other end. Returns the text of an error; None: no error."""
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

    def other_end_is_done(self, compared: bool) -> None:
        """Note that the other end has sent all that differs.

        Args:
            compared: as in `ExchangeDone`.
        """
        self._got_done, self.compared = True, compared

    def _next_summaries(self, users: UserTable, slice_size: int, unix: int) -> Summaries:
        """Return the summaries of the buckets in one range that differ, so that the other end sends what they
        lack."""
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

    def _what_they_lack(self, users: UserTable, slice_size: int, compared: bool, unix: int) -> list[Effect]:
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
            batch.append(ExchangeDone(compared))
        return [Send(self._link, batch)] if batch else []

    def _next_names(self, names: NameTable) -> list[Effect]:
        """Return the names of some of the users that were sent."""
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
    """Iterate over the offsets of the digests that differ.

    Equal digests are skipped in large steps, because nearly all are equal.
    """
    for start in range(0, len(ours), STEP):
        if ours[start : start + STEP] != theirs[start : start + STEP]:
            for at in range(start, min(start + STEP, len(ours)), DIGEST):
                if ours[at : at + DIGEST] != theirs[at : at + DIGEST]:
                    yield at
