"""Intake and announcement of users: records from neighbours and the store are merged, new ones are passed on,
and decisions made here are announced."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from director.core.admission import RING, Admission
from director.core.logins.pending import Pending
from director.core.moves.moves import Moves
from director.core.placement.assign import Assigner
from director.core.placement.names import LONGEST_NAME, NameTable, entries_in, entry
from director.core.placement.users import BY_HAND, RECORD, User, decision_of, keys_of, unpack
from director.core.protocol.counters import Counters
from director.core.protocol.effects import Effect, Level, LogEvent, Send
from director.core.protocol.messages import Names, RingMessage, Users
from director.core.ring.link import Neighbour
from director.core.ring.ring import Ring
from director.core.run import Run
from director.core.tables.hosts import HostTable
from director.types import HostId, Now, UserKey

TWO_HOSTS_NOTE = (
    "directors had assigned the user to both hosts; the later assignment is kept, and sessions on the other"
    " host are ended; expected after a partition, otherwise report it"
)
MERGED = 4000
"""User records of neighbours after which no more are merged in the turn of the loop."""
DISPLACED = 150
"""Users whose hosts or moves a merge has changed, and that are handled in one turn of the loop."""
NAME = 6
"""The cost of a name that is looked at, in records that could be merged in that time."""
RECALLED = 200
"""Names looked up in one turn of the loop. With ten million users each takes 10 µs."""


class Intake:
    def __init__(
        self,
        *,
        assigner: Assigner,
        names: NameTable,
        hosts: HostTable,
        ring: Ring,
        pending: Pending,
        moves: Moves,
        admission: Admission,
        counters: Counters,
        run: Run,
    ) -> None:
        self._assigner, self._users, self._names = assigner, assigner.users, names
        self._hosts, self._ring, self._pending, self._moves = hosts, ring, pending, moves
        self._admission, self._counters, self._run = admission, counters, run
        self._recalled = b""
        self._room = self._room_for_displaced = 0
        self._displaced: deque[memoryview] = deque()
        """Former records of users whose hosts or moves a merge has changed, and that were not handled yet."""
        self._left_behind: deque[bytes] = deque()
        """Records that came over links that were closed, and that were not merged yet."""

    def new_turn(self) -> None:
        """Begin a turn of the loop: its limits of work are unused."""
        self._room, self._room_for_displaced = MERGED, DISPLACED

    @property
    def has_work(self) -> bool:
        return bool(self._displaced or self._left_behind)

    @property
    def has_room(self) -> bool:
        """Whether this turn of the loop may handle more messages of neighbours.

        A message must not be handled before the records that came ahead of it.
        """
        return self._room > 0 and not self.has_work

    def spend(self, records: int) -> None:
        """Count other work for a neighbour. It took this turn as long as merging so many records."""
        self._room -= records

    def keep(self, records: bytes) -> None:
        """Keep records that came over a link that was closed, and merge them in the next turns."""
        self._left_behind.append(records)

    def next_deadline(self) -> float | None:
        return None  # the intake never waits for a time

    def turn(self, now: Now) -> list[Effect]:
        """Merge this turn's share of the records that wait."""
        effects = self._displace(now)
        while self._left_behind and self._room > 0 and not self._displaced:
            effects += self.merge(self._left_behind.popleft(), RING, now)
        return effects

    def seen(self, names: Iterable[bytes]) -> None:
        """Refresh users that have live sessions. Their tags are not known."""
        tags = {row.tag.encode() for row in self._hosts.present()} | {b""}
        refreshed = b""
        for name in names:
            for tag in tags:
                key = self._assigner.user_hash.key(name, tag)
                if self._users.touch(key, self._assigner.unix) and len(name) <= LONGEST_NAME:
                    refreshed += entry(key, name)
        if refreshed and self._assigner.remember_names:
            self._recall(refreshed)

    def placed_by_store(self, key: UserKey, name: bytes) -> None:
        """Keep the name of a user that a claim has assigned for a login on this director.

        The assigner keeps names of the users that it assigns itself, and it has not assigned this user. The
        name of a user without a record is not kept.
        """
        if self._assigner.remember_names and len(name) <= LONGEST_NAME and self._users.get(key) is not None:
            self._recall(entry(key, name))

    def _recall(self, entries: bytes) -> None:
        """Keep and announce the names of assigned users who were seen and whose names are unknown here.

        A name is stored up to 30 s after its user. It is lost if all directors stop before that. If there are
        many in a turn, only some are looked up; the others follow when the users are next seen.
        """
        if lost := self._names.missing(entries, RECALLED):
            self._names.add(lost)
            self._recalled += lost

    def announce(self) -> list[Effect]:
        """Announce what the table has changed by itself to all neighbours, one message each."""
        names = self._assigner.take_names()
        if names:
            self._names.add(names)
        if refreshed := self._assigner.take_refreshed():
            self._recall(refreshed)
        names, self._recalled = names + self._recalled, b""
        if not names and not self._users.has_changes:
            return []
        records = self._users.take_changes()
        effects: list[Effect] = []
        for neighbour in self._ring.live_links():
            batch: list[RingMessage] = [Users(records)] if records else []
            if names and neighbour is self._ring.right:
                batch.append(Names(names, len(self._ring.servers) - 1))
            if batch:
                effects.append(Send(neighbour.link, batch))
        return effects

    def merge(self, records: bytes, source: Neighbour | str, now: Now) -> list[Effect]:
        """Merge records of users, and pass on what is new.

        Args:
            records: packed.
            source: a neighbour, or the name of another source.
            now: the time.
        """
        self._room -= len(records) // RECORD.size
        records, effects = self._admission.users(records, source, now)
        changed = self._users.merge(records)
        if self._users.has_displaced:
            self._displaced.append(memoryview(self._users.take_displaced()))
        effects += self._displace(now)
        if not changed:
            return effects
        if self._pending:
            self._pending.wake_users(keys_of(changed))
        effects += [Send(n.link, [Users(changed)]) for n in self._ring.live_links() if n is not source]
        if isinstance(source, Neighbour) and changed != records and (better := _later(changed, records)):
            effects.append(Send(source.link, [Users(better)]))
        return effects

    def _displace(self, now: Now) -> list[Effect]:
        """Handle users whose hosts or moves have changed: some in each turn of the loop, all at once before
        the start."""
        on_two_hosts: list[User] = []
        started = self._run.started
        while self._displaced and (self._room_for_displaced > 0 or not started):
            records = self._displaced.popleft()
            most = self._room_for_displaced * RECORD.size if started else len(records)
            if len(records) > most:
                self._displaced.appendleft(records[most:])
                records = records[:most]
            self._room_for_displaced -= len(records) // RECORD.size
            for old in unpack(records):
                if started and self._is_conflict(old):
                    on_two_hosts.append(old)
                self._moves.record_changed(old, now)
        return self._conflicts(on_two_hosts)

    def names(self, neighbour: Neighbour, names: Names) -> list[Effect]:
        """Keep names for listings, and pass them on to the right if they have hops left."""
        try:
            known = self._of_assigned_users(names.entries)
        except ValueError as exc:
            return neighbour.close(str(exc))
        if names.hops:
            self._names.add(known)  # they come from a login, so nearly all are new
        else:
            self._names.merge(known)
        self.spend(NAME * self._names.take_looked_at())
        onward = min(names.hops, len(self._ring.servers)) - 1
        if onward > 0 and self._ring.right is not None:
            return [Send(self._ring.right.link, [Names(names.entries, onward)])]
        return []

    def _of_assigned_users(self, entries: bytes) -> bytes:
        """Return the names whose users are assigned.

        Nearly all are, because the records came before the names. Other names would be kept without end.
        Raises ValueError if an entry is incomplete.
        """
        walked = list(entries_in(entries))
        self.spend(NAME * len(walked))
        known = [(key, name) for key, name in walked if self._users.get(key) is not None]
        return entries if len(known) == len(walked) else b"".join(entry(key, name) for key, name in known)

    def _is_conflict(self, old: User) -> bool:
        """Whether a merge has replaced an assignment that had not expired with another host (docs/ring.md,
        rule 20)."""
        new = self._users.get(old.key)
        if new is None or old.host in (0, new.host) or self._hosts.host_removed(old):
            return False
        return old.seen + self._users.expire > new.decided and not new.flags & BY_HAND

    def _conflicts(self, before: Sequence[User]) -> list[Effect]:
        """Count users who were on two hosts, and log the first of them.

        Args:
            before: their former records.
        """
        if not before:
            return []
        self._counters.conflicts += len(before)
        old, new = before[0], self._users.get(before[0].key)
        fields: dict[str, object] = {
            "hash": UserKey(old.key) >> 32,
            "from": self._address(old.host),
            "to": self._address(new.host if new is not None else HostId(0)),
        }
        if len(before) > 1:
            fields["users"] = len(before)
        fields["note"] = TWO_HOSTS_NOTE
        return [LogEvent(Level.WARNING, "user_on_two_hosts", fields)]

    def _address(self, host: HostId) -> str:
        row = self._hosts.row(host)
        return f"id {host:08x}" if row is None else row.address


def _later(merged: bytes, came: bytes) -> bytes:
    """Return those merged records whose decisions differ from the records that came.

    The sender may not know the later decision: if the record had expired here, it was not compared, and the
    record that came shows that the user is active after all.
    """
    size = RECORD.size
    theirs = {decision_of(came[at : at + size]) for at in range(0, len(came), size)}
    ours = (merged[at : at + size] for at in range(0, len(merged), size))
    return b"".join(record for record in ours if decision_of(record) not in theirs)
