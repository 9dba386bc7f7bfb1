"""Admission: times from outside are brought within an hour of the own clock before the merge (docs/ring.md,
rule 45). This concerns host rows, rows of directors and users, from the ring, the store and the snapshot.

Merges use no clock. So directors that got the same record at different moments may hold it with different
times, and the later time wins wherever they meet. A time that is only just too late is merged with the bound
first, and as it came once the bound has passed it, because another director may have merged it as it came.

While the own clock is doubted (`ownclock.py`), no time is clipped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from director.core.loglimit import LogLimit
from director.core.placement.users import RECORD, UserTable, unpack
from director.core.protocol.counters import Counters
from director.core.protocol.effects import Effect, Level, LogEvent
from director.core.protocol.messages import HostRow, MemberRow
from director.core.protocol.stamps import (
    Bound,
    allowance,
    bound_at,
    clipped_host,
    clipped_member,
    due_host,
    due_member,
    latest_of,
)
from director.core.ring.link import Neighbour
from director.core.tables.hosts import HostTable
from director.core.tables.members import MemberTable, about
from director.types import Address, Now

RING = "ring"
"""The source of everything that neighbours send. The other sources are `store`, `snapshot` and `memory`."""
MEMORY = "memory"
"""The source of what was in the own tables."""
WAITING = 10_000
"""Most rows and users that wait for the bound."""
DUE = 500
"""Waiting rows and users that are merged in one turn of the loop."""

Row = TypeVar("Row", HostRow, MemberRow)


class Postponed(NamedTuple):
    """A row or record that is merged again with its original times, at a monotonic time."""

    due: float
    what: HostRow | MemberRow | bytes


class Admission:
    def __init__(
        self,
        hosts: HostTable,
        members: MemberTable,
        users: UserTable,
        counters: Counters,
        max_clock_skew: float,
    ) -> None:
        self.doubted = False
        """Whether the own clock may be wrong. Then no time is judged by it."""
        self.began_in_doubt = False
        """Whether this director was not running when its clock was set, so that its own tables are older."""
        self.has_work = False
        """Whether `due` has left something for the next turn of the loop."""
        self._hosts, self._members, self._users, self._counters = hosts, members, users, counters
        self._skew = max_clock_skew
        self._waiting: deque[Postponed] = deque()
        self._limit = LogLimit()

    def bound(self, source: Neighbour | str, now: Now) -> Bound | None:
        """Return the bound for times from a source; None: no time is judged."""
        if self.doubted:
            return None
        bound = self.bound_by(now)
        is_past = self.began_in_doubt if source == MEMORY else isinstance(source, str)
        return bound.of_the_past() if is_past else bound

    def bound_by(self, now: Now) -> Bound:
        """Return the bound by this clock, whether the clock is right or not."""
        return bound_at(int(now.unix), self._users.expire, self._skew)

    def hosts(
        self, rows: Sequence[HostRow], source: Neighbour | str, now: Now
    ) -> tuple[Sequence[HostRow], list[Effect]]:
        """Return host rows as they are to be merged, and the effects."""
        known = self._hosts.rows if isinstance(source, Neighbour) else {}

        def clip(row: HostRow, bound: Bound) -> HostRow:
            return clipped_host(row, bound, known.get(Address(row.address)))

        return self._rows(rows, clip, source, now)

    def members(
        self, rows: Sequence[MemberRow], source: Neighbour | str, now: Now
    ) -> tuple[Sequence[MemberRow], list[Effect]]:
        """Return rows of directors as they are to be merged, and the effects."""
        known = self._members.rows if isinstance(source, Neighbour) else {}

        def clip(row: MemberRow, bound: Bound) -> MemberRow:
            return clipped_member(row, bound, known.get(about(row)))

        return self._rows(rows, clip, source, now)

    def users(self, records: bytes, source: Neighbour | str, now: Now) -> tuple[bytes, list[Effect]]:
        """Return records of users as they are to be merged, and the effects."""
        bound = self.bound(source, now)
        if bound is None:
            return records, []
        ahead = self._users.ahead(records, bound.decided, bound.seen)
        if not ahead:
            return records, []
        clipped = self._users.clipped(records, bound.decided, bound.seen, bound.latest)
        room = max(0, WAITING - len(self._waiting)) * RECORD.size
        for user in unpack(ahead[:room]):
            over = max(user.decided - bound.decided, user.seen - bound.seen)
            self._wait(over, RECORD.pack(*user), now)
        return clipped, self.count_users(ahead, source, now)

    def due(self, now: Now) -> list[HostRow | MemberRow | bytes]:
        """Return at most DUE rows and records whose original times are not too late any more: they are merged
        again, with these times.

        A decision made since then still holds: it replaces what came.
        """
        rows: list[HostRow | MemberRow | bytes] = []
        records: list[bytes] = []
        while self._waiting and self._waiting[0].due <= now.mono and len(rows) + len(records) < DUE:
            what = self._waiting.popleft().what
            match what:
                case HostRow():
                    host = self._hosts.rows.get(Address(what.address))
                    rows.append(what if host is None else due_host(what, host))
                case MemberRow():
                    member = self._members.rows.get(about(what))
                    rows.append(what if member is None else due_member(what, member))
                case bytes():
                    records.append(what)
        self.has_work = bool(self._waiting) and self._waiting[0].due <= now.mono
        return [*rows, b"".join(records)] if records else rows

    def next_deadline(self) -> float | None:
        return self._waiting[0].due if self._waiting and not self.has_work else None

    def _rows(
        self,
        rows: Sequence[Row],
        clip: Callable[[Row, Bound], Row],
        source: Neighbour | str,
        now: Now,
    ) -> tuple[Sequence[Row], list[Effect]]:
        bound = self.bound(source, now)
        if bound is None or all(latest_of(row) <= bound.decided for row in rows):
            return rows, []
        clipped = [clip(row, bound) for row in rows]
        ahead = [row for row, new in zip(rows, clipped, strict=True) if row is not new]
        for row in ahead:
            self._wait(latest_of(row) - bound.decided, row, now)
        kind = "hosts" if isinstance(rows[0], HostRow) else "directors"
        return clipped, self.count(len(ahead), kind, max(map(latest_of, ahead)), source, now)

    def _wait(self, over: int, what: HostRow | MemberRow | bytes, now: Now) -> None:
        """Keep a row or record for `due` if another director, whose clock differs, may have merged it as it
        came.

        Args:
            over: seconds by which its time is too late. If they are many, no other director has merged it.
            what: the row or record.
        """
        if over <= allowance(self._skew) and len(self._waiting) < WAITING:
            # All wait for the same, longest time, so that they become due in the order in which they came.
            self._waiting.append(Postponed(now.mono + allowance(self._skew) + 1, what))

    def count_users(self, ahead: bytes, source: Neighbour | str, now: Now) -> list[Effect]:
        """Count users whose times were clipped.

        Args:
            ahead: their records.
            source: as in `count`.
        """
        first = next(unpack(ahead[: RECORD.size]))
        return self.count(len(ahead) // RECORD.size, "users", max(first.decided, first.seen), source, now)

    def count(
        self, number: int, kind: str, latest: int | None, source: Neighbour | str, now: Now
    ) -> list[Effect]:
        """Count what was clipped, and log it once a minute for each source.

        Args:
            number: how many rows or users.
            kind: what they are, for the log.
            latest: one of the times; None: unknown.
            source: a neighbour, or the name of another source.
        """
        if not number:
            return []
        label, peer = (source, None) if isinstance(source, str) else (RING, source.name())
        counted = self._counters.stamps_clipped
        counted[label] = counted.get(label, 0) + number
        left_out = self._limit.left_out(peer or label, number, now)
        if left_out is None:
            return []
        fields: dict[str, object] = {
            "source": label,
            "peer": peer,
            kind: number,
            "ahead": None if latest is None else f"{latest - int(now.unix)} s",
            "since_last_line": left_out or None,
            "note": "times more than an hour ahead of this clock were replaced by"
            " earlier times; all other values were kept; check the clocks (NTP)",
        }
        return [LogEvent(Level.WARNING, "stamps_clipped", fields)]
