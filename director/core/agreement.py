"""The tables that all directors must agree on before a new user is assigned: the hosts, and the list of
directors.

A change is passed on first, then applied here. From then on new users wait until the ring has agreed on the
digest of both tables (`barrier.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from director.core.admission import Admission
from director.core.logins.logins import Logins
from director.core.logins.pending import Pending
from director.core.loglimit import LogLimit
from director.core.moves.kicks import Kicks
from director.core.placement.assign import Assigner
from director.core.protocol.counters import Counters
from director.core.protocol.effects import Effect, Level, LogEvent, Send, StoreHosts, StoreMembers
from director.core.protocol.events import StoredMembers
from director.core.protocol.messages import ROWS, HostRow, Hosts, MemberRow, Members, RingMessage
from director.core.ring.barrier import Barrier
from director.core.ring.link import Neighbour
from director.core.ring.ring import Ring
from director.core.run import Run
from director.core.tables.hosts import HostTable
from director.core.tables.members import MOST_ROWS, MemberTable, about
from director.core.tables.movedhosts import MovedHosts
from director.types import MemberId, Now

CLIPPED = 60
"""Seconds by which no honest stamp is ahead."""
NO_USABLE_HOST = (
    "no host is up with a weight over 0; new users wait 30 s, then fail temporarily; run `director up HOST`"
)

Row = TypeVar("Row", HostRow, MemberRow)


class Agreement:
    def __init__(
        self,
        *,
        hosts: HostTable,
        members: MemberTable,
        ring: Ring,
        barrier: Barrier,
        assigner: Assigner,
        pending: Pending,
        logins: Logins,
        kicks: Kicks,
        moved_hosts: MovedHosts,
        admission: Admission,
        counters: Counters,
        run: Run,
    ) -> None:
        self.digest = b""
        self._hosts, self._members, self._ring, self._barrier = hosts, members, ring, barrier
        self._assigner, self._pending, self._logins = assigner, pending, logins
        self._kicks, self._moved_hosts, self._counters = kicks, moved_hosts, counters
        self._admission, self._run = admission, run
        self._present: dict[str, int] = {}
        """The stamp of the appearance of each host that is present."""
        self._store_was_read = False
        self._limit = LogLimit()
        self._usable: dict[str, int] = {}
        """How many usable hosts each pool had when that was last logged."""
        self._reconfigure()

    def all_rows(self) -> list[RingMessage]:
        """Return the messages with all rows, for a new neighbour."""
        hosts, members = list(self._hosts.rows.values()), list(self._members.rows.values())
        return [*map(Hosts, _pieces(hosts)), *map(Members, _pieces(members))]

    def stored_hosts(
        self, rows: Sequence[HostRow], source: str, now: Now, *, applied: bool = False
    ) -> list[Effect]:
        """Merge host rows from the store. The first rows meet the configuration as it is now.

        Args:
            source: the store, or another source that is not the ring.
            applied: whether it is known which part of the configuration the rows have. Then changes of the
                configuration are made one by one later (`service.operations.fileapplier`).
        """
        rows, effects = self._admission.hosts(rows, source, now)
        if self._store_was_read or (applied and self._run.started):
            changed = self._hosts.merge(rows)
        elif applied:
            changed = self._hosts.adopt_stored(rows)
        else:
            changed = self._hosts.merge_stored(rows)
        self._store_was_read = True
        return effects + self.hosts_changed(changed, None, now)

    def merge_hosts(self, rows: Sequence[HostRow], source: Neighbour | str, now: Now) -> list[Effect]:
        """Merge host rows.

        Args:
            source: a neighbour, or the name of another source.
        """
        rows, effects = self._admission.hosts(rows, source, now)
        return effects + self.hosts_changed(self._hosts.merge(rows), _neighbour(source), now)

    def merge_members(self, rows: Sequence[MemberRow], source: Neighbour | str, now: Now) -> list[Effect]:
        """Merge rows of directors, as `merge_hosts` does with host rows."""
        rows, effects = self._admission.members(rows, source, now)
        effects += self.members_changed(self._members.merge(rows), _neighbour(source), now)
        left_out = [row.member for row in rows if about(row) not in self._members.rows]
        if left_out and isinstance(source, Neighbour):
            effects += self._left_out(source.name(), len(left_out), now)
        return effects

    def _left_out(self, peer: str, number: int, now: Now) -> list[Effect]:
        """Log that rows of directors were not kept, once a minute for each source."""
        before = self._limit.left_out(peer, number, now)
        if before is None:
            return []
        note = (
            f"the peer named more directors than the list keeps ({MOST_ROWS}); check the director at the peer"
        )
        fields = {"peer": peer, "directors": before + number, "note": note}
        return [LogEvent(Level.WARNING, "directors_left_out", fields)]

    def retimed(self, hosts: Sequence[HostRow], members: Sequence[MemberRow], now: Now) -> list[Effect]:
        """Set rows of which only the stamps have changed, and pass them on."""
        self._hosts.put(hosts)
        self._members.put(members)
        effects = self.hosts_changed(hosts, None, now)
        if members:
            effects += [*self._pass_on(list(map(Members, _pieces(members))), None), StoreMembers()]
        return effects

    def stored_members(self, event: StoredMembers, now: Now) -> list[Effect]:
        """Merge rows of directors from the store."""
        self._members.met |= event.met
        effects = self.merge_members(event.rows, event.source, now)
        self._ring.meet(event.met)  # a neighbour may have sent the same rows before, so that no row is new
        return effects

    def meet(self) -> list[Effect]:
        """Count the directors that were added at run time and now have a proved link."""
        met = self._ring.meet()
        self._members.met |= met
        return [StoreMembers()] if met else []

    def list_members(
        self, configured: Sequence[MemberId], names: Mapping[str, MemberId], now: Now
    ) -> list[Effect]:
        """Set the configuration's directors, and the director that each name has now."""
        self._members.configured, self._members.names = tuple(configured), dict(names)
        return self._relink(now, at_once=True)

    def changed_here(self, rows: Sequence[HostRow | MemberRow], now: Now) -> list[Effect]:
        """Handle rows that an operator has changed on this director."""
        hosts = [row for row in rows if isinstance(row, HostRow)]
        members = [row for row in rows if isinstance(row, MemberRow)]
        return self.hosts_changed(hosts, None, now) + self.members_changed(members, None, now)

    def hosts_changed(self, rows: Sequence[HostRow], source: Neighbour | None, now: Now) -> list[Effect]:
        """Handle new rows of the host table: pass them on, and let new users wait if the effective table has
        changed."""
        if not rows:
            return []
        self._counters.host_changes += len(rows)
        effects = self._pass_on(list(map(Hosts, _pieces(rows))), source)
        effects.append(StoreHosts())
        for row in rows:
            since = self._present.get(row.address)
            if (
                self._run.started
                and since is not None
                and (not row.present or _was_added_again(row, since, now))
            ):
                self._kicks.host(row.address, now)  # the host was removed, so its users are assigned anew
        effects += [self._log_row(row) for row in rows] if self._run.started else []
        before = self.digest
        self._reconfigure()
        self._moved_hosts.hosts_changed(now)
        effects += self.pools_changed() if self._run.started else []
        if self._run.started and self.digest != before:
            self._barrier.wait(now, at_once=source is None)
        return effects

    def pools_changed(self) -> list[Effect]:
        """Log the pools that have lost their last usable host, and those that have one again."""
        before = self._usable
        # A pool without hosts is not in `usable()`. It stays unusable until one of its hosts is usable again.
        self._usable = dict.fromkeys(before, 0) | self._hosts.usable()
        effects: list[Effect] = []
        for tag in before.keys() | self._usable.keys():
            usable = bool(self._usable.get(tag))
            if usable and not before.get(tag, 1):
                effects.append(LogEvent(Level.INFO, "pool_usable", {"tag": tag}))
            elif not usable and before.get(tag, 1):
                fields = {"tag": tag, "hosts": len(self._hosts.in_pool(tag)), "note": NO_USABLE_HOST}
                effects.append(LogEvent(Level.WARNING, "pool_unusable", fields))
        return effects

    def members_changed(self, rows: Sequence[MemberRow], source: Neighbour | None, now: Now) -> list[Effect]:
        """Handle new rows of directors: pass them on, then change the links.

        The rows are passed on first, so that a removed director gets them too.
        """
        if not rows:
            return []
        effects = self._pass_on(list(map(Members, _pieces(rows))), source)
        effects.append(StoreMembers())
        for row in rows:
            member = self._members.names.get(row.name, MemberId(row.member))
            if row.present:
                # it may have announced its departure while it was not in the ring
                self._ring.presence.returned(member)
            fields = {"director": member, "state": "added" if row.present else "removed"}
            effects.append(LogEvent(Level.INFO, "ring_changed", fields))
        return effects + self._relink(now, at_once=source is None)

    def _pass_on(self, messages: Sequence[RingMessage], source: Neighbour | None) -> list[Effect]:
        return [Send(n.link, messages) for n in self._ring.live_links() if n is not source]

    def _relink(self, now: Now, *, at_once: bool) -> list[Effect]:
        effects = self._ring.set_servers(
            self._members.listed(), self._members.removed(), self._members.unmet()
        )
        if self._ring.removed is not self._logins.removed:
            self._logins.removed = self._ring.removed
            if self._ring.removed:
                note = (
                    "an operator removed this director; logins fail temporarily"
                    " until `director ring add` on another director"
                )
                effects.append(
                    LogEvent(Level.ERROR, "removed_from_ring", {"me": self._ring.me, "note": note})
                )
        self._reconfigure()
        if self._run.started:
            self._barrier.wait(now, at_once=at_once)
        return effects

    def _reconfigure(self) -> None:
        self.digest = self._hosts.digest() + self._members.digest()
        backends = self._hosts.backends()
        self._present = {row.address: row.present_at for row in self._hosts.present()}
        self._assigner.set_backends(backends)
        self._pending.wake()

    def _log_row(self, row: HostRow) -> LogEvent:
        if row.moved and not row.present:
            now = [named.address for named in self._hosts.named(row.moved)]
            fields: dict[str, object] = {"name": row.moved, "before": row.address, "after": " ".join(now)}
            return LogEvent(Level.INFO, "host_address_changed", fields)
        return _log_row(row)


def _neighbour(source: Neighbour | str) -> Neighbour | None:
    return None if isinstance(source, str) else source


def _was_added_again(row: HostRow, since: int, now: Now) -> bool:
    """Whether a present host was removed and added again meanwhile, although this director has not heard of
    the removal.

    A stamp that is far ahead of this clock was clipped, or comes from a wrong clock, so a later one says
    nothing.
    """
    return row.present_at > since and since <= now.unix + CLIPPED


def _log_row(row: HostRow) -> LogEvent:
    fields: dict[str, object] = {"host": row.address, "tag": row.tag, "weight": row.weight}
    fields["state"] = ("up" if row.up else "down") if row.present else "removed"
    return LogEvent(Level.INFO, "host_changed", fields)


def _pieces(rows: Sequence[Row]) -> list[list[Row]]:
    """Split rows into pieces that fit into one message. No rows make one empty piece."""
    return [list(rows[start : start + ROWS]) for start in range(0, max(1, len(rows)), ROWS)]
