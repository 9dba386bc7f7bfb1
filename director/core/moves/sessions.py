"""The sessions that the login processes of this machine kept while no director ran (docs/ring.md, rule 29).

Sessions outlive a director that stops, and no director has ended them for a move meanwhile. After memory has
been compared with the ring, each session is compared with the record of its user. A session on the same host
refreshes the user. A session on another host is ended. If the user has no record, the user is assigned to the
host of the sessions, provided they are all on one host. If a host turns out later to be a backend after all
(the store answered, or the ring was joined, only then), the sessions are listed again.

The kick channel does not show every user who is just connecting. So sessions are listed again after kicks
too: a user who was connecting then is found on the old host, and the session is ended. Nothing else is learnt
from those lists: a user without a record may have been forgotten on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence

from director.core.moves.kicks import Kicks
from director.core.placement.assign import Assigner
from director.core.placement.users import LATEST, MOVING, User, keys_of
from director.core.protocol.effects import Effect, ListSessions
from director.core.protocol.kicktypes import HashOnHosts, ProxiedSession
from director.core.protocol.messages import HostRow
from director.core.tables.hosts import HostTable
from director.types import Address, Now, Stamp, UserKey

SLICE = 50
"""Sessions looked at in one turn of the loop."""


class SessionReview:
    def __init__(self, hosts: HostTable, assigner: Assigner, kicks: Kicks) -> None:
        self._hosts, self._assigner, self._users, self._kicks = hosts, assigner, assigner.users, kicks
        self._due: Sequence[ProxiedSession] = ()
        """The sequence as it came. The next garbage collection would visit all of a copied list in one
        turn."""
        self._at = 0
        """Where the next turn continues."""
        self._late = False
        self._hosts_of: dict[UserKey, tuple[str, ...]] = {}
        """For each user without a record, the hosts of the user's sessions."""
        self._only: dict[str, list[str]] = {}
        """For each host, a list that contains only this host."""
        self._strange: set[Address] = set()
        """Hosts of sessions that were not in the host table."""

    @property
    def has_work(self) -> bool:
        return bool(self._due or self._hosts_of)

    def begin(self, sessions: Sequence[ProxiedSession], *, late: bool = False) -> None:
        """Begin to compare sessions with the assignments.

        Args:
            sessions: of the login processes of this machine.
            late: whether only sessions on a host other than the record's are ended, and nothing else is done.
        """
        if late and self.has_work:
            return  # the review under way sees the same sessions
        self._due, self._at, self._late = sessions, 0, late
        self._only.clear()
        if late:
            return
        self._hosts_of.clear()
        self._strange.clear()
        self._kicks.blind = False

    def next_deadline(self) -> float | None:
        return None  # the review never waits for a time

    def turn(self, now: Now) -> list[Effect]:
        """Compare the next sessions with the assignments."""
        for session in self._due[self._at : self._at + SLICE]:
            self._look_at(session, now)
        self._at += SLICE
        if self._at >= len(self._due):
            self._due, self._at = (), 0
            for _ in range(min(SLICE, len(self._hosts_of))):
                key, addresses = self._hosts_of.popitem()
                self._adopt(key, sorted(addresses), now)
        if self._strange.isdisjoint(self._hosts.rows):
            return []
        self._strange.clear()
        return [ListSessions()]

    def _look_at(self, session: ProxiedSession, now: Now) -> None:
        row = self._hosts.rows.get(Address(session.host))
        if row is None and self._late:
            return
        if row is None:
            self._strange.add(Address(session.host))
            return
        key = self._key(session, row.tag.encode())
        if self._late:
            self._end_straggler(key, row, now)
            return
        if not row.present:  # the host was removed while this director did not run
            self._end(key, row.address)
            return
        user = self._users.get(key)
        # the host may have had another tag when the session began
        if user is None and row.tag_at > row.present_at:
            self._end(key, row.address)
        elif user is None:
            hosts = self._hosts_of.get(key, ())
            if row.address not in hosts:
                self._hosts_of[key] = (*hosts, row.address)
        elif user.host == self._hosts.id_of(row.address):
            self._users.touch(key, int(now.unix))
        else:
            self._end(key, row.address)

    def _end_straggler(self, key: UserKey, row: HostRow, now: Now) -> None:
        user = self._users.get(key)
        # A move ends and counts the sessions of its user itself.
        if user is not None and user.flags & MOVING:
            return
        host = self._hosts.id_of(row.address)
        assigned_here = user is None or (user.host == host and not self._hosts.host_removed(user))
        # the host was removed, has another address now, or is no longer the user's
        if not row.present or not assigned_here:
            self._end(key, row.address)

    def _end(self, key: UserKey, host: str) -> None:
        """End the sessions of a user on this host.

        All kicks for the host share one list, because a garbage collection visits each list.
        """
        self._kicks.later(HashOnHosts(key >> 32, self._only.setdefault(host, [host])))

    def _key(self, session: ProxiedSession, tag: bytes) -> UserKey:
        """Return the key of a session's user: by the session's name, or by the hash that the director gave
        it, if the user was assigned by another name."""
        user_hash = self._assigner.user_hash
        key = user_hash.key(session.name, tag)
        if session.hash32 is None or key >> 32 == session.hash32:
            return key
        known = list(keys_of(self._users.with_hash(session.hash32)))
        return known[0] if len(known) == 1 else UserKey(session.hash32 << 32 | key & 0xFFFFFFFF)

    def _adopt(self, key: UserKey, addresses: Sequence[str], now: Now) -> None:
        if self._users.get(key) is not None:
            return
        row = self._hosts.row(self._hosts.id_of(addresses[0]))
        if len(addresses) > 1 or row is None or not row.present:
            self._kicks.later(HashOnHosts(key >> 32, list(addresses)))
            return
        decided = Stamp(min(max(int(now.unix), row.present_at, row.tag_at), LATEST))
        self._users.put(User(key, self._hosts.id_of(row.address), decided, int(now.unix), 0))
