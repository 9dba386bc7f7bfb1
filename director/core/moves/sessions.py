"""What the login processes of this machine proxied all the time while we were away (docs/ring.md, rule 29).

They outlive a director that dies, and nobody has told them of a move. Once memory has been compared, each of
their sessions is held against the record of its user: on the same host it refreshes him, on another host it
is ended, and where nothing is known of him he stays where he is, if all his sessions are on one host. If one
turns out later to be on one of our backends after all (the store answered, or the ring was joined, only then)
they are listed again.

The kick channel does not show everybody who is just connecting to his backend, so sessions are listed again
after kicks too: who was on his way then is ended where he arrived. Nothing else is learnt from those
listings: whoever has no record then may have been forgotten on purpose.
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
        """As it came: of another list the next collection of garbage would look at all, in one turn."""
        self._at = 0
        """Where the next turn goes on."""
        self._late = False
        self._hosts_of: dict[UserKey, tuple[str, ...]] = {}
        """For each user nothing is known of: the hosts of his sessions."""
        self._only: dict[str, list[str]] = {}
        """For each host a list of it alone."""
        self._strange: set[Address] = set()
        """Hosts of sessions that were none of ours then."""

    @property
    def has_work(self) -> bool:
        return bool(self._due or self._hosts_of)

    def begin(self, sessions: Sequence[ProxiedSession], *, late: bool = False) -> None:
        """late: only whoever is on another host than his record's is ended."""
        if late and self.has_work:
            return  # of a review that sees the same sessions
        self._due, self._at, self._late = sessions, 0, late
        self._only.clear()
        if late:
            return
        self._hosts_of.clear()
        self._strange.clear()
        self._kicks.blind = False

    def next_deadline(self) -> float | None:
        return None  # it never waits for a time

    def turn(self, now: Now) -> list[Effect]:
        """Look at some more of them."""
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
        if not row.present:  # removed while we were away
            self._end(key, row.address)
            return
        user = self._users.get(key)
        if user is None and row.tag_at > row.present_at:  # the tag was another when it began, maybe
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
        # A user on the move is his move's, which ends his sessions, and counts them.
        if user is not None and user.flags & MOVING:
            return
        host = self._hosts.id_of(row.address)
        his = user is None or (user.host == host and not self._hosts.host_removed(user))
        if not row.present or not his:  # removed, at another address by now, or not his any more
            self._end(key, row.address)

    def _end(self, key: UserKey, host: str) -> None:
        """End the sessions of a user on this host. All such kicks share one list: a collection of garbage
        looks at each list."""
        self._kicks.later(HashOnHosts(key >> 32, self._only.setdefault(host, [host])))

    def _key(self, session: ProxiedSession, tag: bytes) -> UserKey:
        """By the session's name; where that is not the name he was assigned by, by the hash we had given
        it."""
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
