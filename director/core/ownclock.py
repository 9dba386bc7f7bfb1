"""The own clock: whether it may be wrong, and what happens to the own tables once it is right.

If a clock was set back, it was wrong before or is wrong now. A director alone cannot tell which. So from that
moment on, and after a start at which a file is younger than the clock, the clock is *doubted*: no time is
judged by it (docs/ring.md, rule 46). Otherwise a director whose clock is years behind would clip everything
in its store, and operators' changes would lose to older ones that other directors have.

    right --set back by TOLERATED_STEP, or started before a file was written--> doubted
    doubted --a neighbour's clock agrees, it is set right again, or an hour without another step--> right

When the clock is right again, the own tables are brought within the bound: hosts and directors at once, users
in slices before they are compared with neighbours. Directors whose clocks were set back at different moments
then have different times, and a director whose clock was not set back may have the former ones. So if
anything was changed, links from before are made anew: both ends compare their records, and the later time
wins.

If the clock is later set forward to where the former stamps of hosts and directors are possible, it was wrong
after all, and so were the clocks that agreed with it. Then hosts and directors get their former stamps again,
and operators' changes since then get later stamps. A director that did not run in between undoes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from director.core.admission import MEMORY, Admission
from director.core.agreement import Agreement
from director.core.intake import Intake
from director.core.moves.moves import Moves
from director.core.placement.users import BUCKETS, MOVING, UserTable, unpack
from director.core.protocol.effects import Effect, Level, LogEvent
from director.core.protocol.messages import HostRow, MemberRow
from director.core.protocol.stamps import (
    Bound,
    clipped_host,
    clipped_member,
    latest_of,
    restored_host,
    restored_member,
)
from director.core.ring.link import Neighbour
from director.core.ring.ring import Ring
from director.core.tables.hosts import HostTable
from director.core.tables.members import MemberTable, about
from director.types import Address, Now

TOLERATED_STEP = 60.0
"""Seconds by which a clock may be set back without being doubted: no time comes to be an hour ahead by it."""
DOUBTED = 3600.0
"""Seconds after which the clock is believed if no other clock has agreed with it and it was not set again."""
RESTORED = 10.0
"""Seconds from the moment a clock is set forward until former stamps return, so that the clocks of other
directors can follow."""
SLICE = 100_000
"""Bytes of records changed in one turn of the loop: 4,500 users."""
SCANNED = 64
"""Buckets looked at in one turn of the loop."""


class OwnClock:
    def __init__(
        self,
        *,
        admission: Admission,
        agreement: Agreement,
        intake: Intake,
        hosts: HostTable,
        members: MemberTable,
        users: UserTable,
        ring: Ring,
        moves: Moves,
    ) -> None:
        self._admission, self._agreement, self._intake, self._moves = admission, agreement, intake, moves
        self._hosts, self._members, self._users, self._ring = hosts, members, users, ring
        self._highest = self._last = float("-inf")
        """Unix time minus monotonic time: the highest since the own tables were brought within the bound; the
        last."""
        self._doubted_at = self._until = 0.0
        self._compared: list[Neighbour] = []
        """Links whose ends had begun to compare records before the clock was believed."""
        self._hosts_before: dict[Address, HostRow] = {}
        self._members_before: dict[str, MemberRow] = {}
        """Rows as they were before they were clipped here."""
        self._restore_at: float | None = None
        self._wrong = 0
        """The latest stamp that the clock could give before it was set forward."""
        self._bound: Bound | None = None
        self._bucket = BUCKETS
        self._changed = False
        """Whether something was clipped since the clock is believed."""

    @property
    def doubted(self) -> bool:
        return self._admission.doubted

    @property
    def walking(self) -> bool:
        """Whether the times of users are being brought within the bound.

        They are compared with neighbours only after that.
        """
        return self._bucket < BUCKETS

    @property
    def has_work(self) -> bool:
        return self._bucket < BUCKETS or self._admission.has_work

    def next_deadline(self) -> float | None:
        deadlines = (self._admission.next_deadline(), self._until if self.doubted else self._restore_at)
        return min((at for at in deadlines if at is not None), default=None)

    def doubt(self, now: Now, *, before_start: bool = False) -> None:
        """Doubt the clock: it is earlier than a moment that has certainly passed.

        Args:
            before_start: whether that moment was before the start of this director.
        """
        self._admission.doubted, self._admission.began_in_doubt = True, before_start
        self._doubted_at, self._until = now.mono, now.mono + DOUBTED

    def check(self, now: Now) -> list[Effect]:
        """Find out whether the clock was set, and doubt or believe it."""
        offset = now.unix - now.mono
        stepped = abs(offset - self._last) > TOLERATED_STEP
        if stepped and offset > self._last and (self._hosts_before or self._members_before):
            self._restore_at = now.mono + RESTORED
            self._wrong = self._admission.bound_by(Now(now.mono, now.mono + self._last)).decided
        self._last = offset
        if not self._admission.doubted:
            if offset >= self._highest - TOLERATED_STEP:
                self._highest = max(offset, self._highest)
                return []
            self.doubt(now)
            note = (
                "the clock is not trusted until another director's clock agrees, or for an hour; set it (NTP)"
            )
            return [
                LogEvent(
                    Level.WARNING, "clock_set_back", {"seconds": round(self._highest - offset), "note": note}
                )
            ]
        if stepped:
            self._until = now.mono + DOUBTED
        if now.mono >= self._until or offset >= self._highest - TOLERATED_STEP > float("-inf"):
            return self._believed(now)
        return []

    def agreed(self, now: Now, *, since: float) -> list[Effect]:
        """Believe the clock if another director's clock agrees with it.

        Args:
            since: monotonic time after which the other director was asked.
        """
        if not self._admission.doubted or since < self._doubted_at:
            return []
        return self._believed(now)

    def _believed(self, now: Now) -> list[Effect]:
        self._admission.doubted = False
        self._highest = now.unix - now.mono
        bound = self._admission.bound(MEMORY, now)
        assert bound is not None
        self._bound, self._bucket = bound, 0
        self._compared = [link for link in self._ring.live_links() if link.exchange.has_begun]
        hosts = [clipped_host(row, bound, None) for row in self._hosts.rows.values()]
        hosts = [row for row in hosts if row is not self._hosts.rows[Address(row.address)]]
        members = [clipped_member(row, bound, None) for row in self._members.rows.values()]
        members = [row for row in members if row is not self._members.rows[about(row)]]
        addresses = [Address(row.address) for row in hosts]
        self._hosts_before |= {address: self._hosts.rows[address] for address in addresses}
        self._members_before |= {name: self._members.rows[name] for name in map(about, members)}
        self._changed = bool(hosts or members)
        effects = self._agreement.retimed(hosts, members, now)
        effects += self._admission.count(len(hosts), "hosts", None, MEMORY, now)
        return effects + self._admission.count(len(members), "directors", None, MEMORY, now)

    def _restored(self, now: Now) -> list[Effect]:
        """Set the former stamps of rows again if these are possible now."""
        bound = self._admission.bound(MEMORY, now)
        if self._restore_at is None or now.mono < self._restore_at or bound is None:
            return []
        self._restore_at = None
        hosts, members = [], []
        for address, before in list(self._hosts_before.items()):
            if latest_of(before) <= bound.decided:
                hosts.append(restored_host(self._hosts.rows[address], before, self._wrong))
                del self._hosts_before[address]
        for name, member in list(self._members_before.items()):
            if member.at <= bound.decided:
                del self._members_before[name]
                if name in self._members.rows:
                    members.append(restored_member(self._members.rows[name], member, self._wrong))
        return self._agreement.retimed(hosts, members, now) if hosts or members else []

    def turn(self, now: Now) -> list[Effect]:
        """Do one slice of the walk, and merge what has waited for the bound."""
        effects = self._restored(now)
        for what in self._admission.due(now):
            match what:
                case HostRow():
                    effects += self._agreement.merge_hosts([what], MEMORY, now)
                case MemberRow():
                    effects += self._agreement.merge_members([what], MEMORY, now)
                case _:
                    effects += self._intake.merge(what, MEMORY, now)
        return effects + self._walk(now) if self.walking else effects

    def _walk(self, now: Now) -> list[Effect]:
        bound, scanned = self._bound, 0
        clipped: list[bytes] = []
        while bound is not None and self._bucket < BUCKETS and scanned < SCANNED and _size(clipped) < SLICE:
            clipped.append(self._users.clip(self._bucket, bound.decided, bound.seen, bound.latest))
            self._bucket += 1
            scanned += 1
        records = b"".join(clipped)
        effects: list[Effect] = []
        if records:
            self._changed = True
            effects += self._admission.count_users(records, MEMORY, now)
        for user in unpack(records):
            if user.flags & MOVING:
                self._moves.record_changed(user, now)  # a move is identified by the stamp of its record
        if self._bucket == BUCKETS and self._changed:
            for neighbour in self._compared:
                effects += neighbour.close(
                    "the clock was set; connecting again to compare all records", level=Level.INFO
                )
        return effects


def _size(parts: Sequence[bytes]) -> int:
    return sum(map(len, parts))
