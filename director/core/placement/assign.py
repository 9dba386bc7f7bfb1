"""Assigns users to backends, or says what a login has to wait for.

This is the readable reference; `wire/_fast.pyx` does the same in C. Both pass the same tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, IntEnum
from typing import NamedTuple

from director.core.placement.hashing import UserHash
from director.core.placement.names import LONGEST_NAME
from director.core.placement.users import (
    BUCKET_SHIFT,
    LATEST,
    MOVING,
    ONE_LOGIN,
    User,
    UserTable,
    is_near_expiry,
    is_unexpired,
)
from director.core.placement.vhosts import Circle
from director.types import Address, HostId, Stamp, UserKey

NO_LIMIT = 1 << 62
"""A limit that no table reaches."""


class Gate(IntEnum):
    """The users whose logins are answered from memory now: none, assigned users, or all."""

    CLOSED = 0
    """None: what is in memory has to be compared first."""
    KNOWN = 1
    """Assigned users. New users wait for the ring."""
    OPEN = 2
    """All users."""


class Wait(Enum):
    """The reason why a login waits."""

    UNVERIFIED = "memory has not been compared with the ring or the store yet"
    RING = "ring not synced"
    NO_HOST = "no hosts"
    MOVING = "kill waiting"
    NEAR = "near expiry, asking the ring"
    RETAGGED = "host has another tag now"
    HELD = "held for another director's decision"
    UNREAD = "not read from the store yet"
    READDRESSED = "host has another address now"


class Backend(NamedTuple):
    """A host that users can be assigned to.

    A host that is down or has weight 0 gets no new users and keeps its users.
    """

    id: HostId
    address: str
    hostname: str | None
    tag: str
    weight: int
    up: bool
    since: int
    """Stamp of its last appearance in the host table. Assignments with an earlier stamp do not count."""
    retagged: int = 0
    """Stamp of the last change of its tag after it appeared; 0: the tag never changed. A user who was
    assigned before has to be moved, if the assignment has not expired."""
    readdressed: bool = False
    """The host continues at another address: assignments from before `since` count all the same."""


class Assigner:
    """Answers logins, from the user table and from the circle of the user's tag."""

    def __init__(self, users: UserTable, user_hash: UserHash) -> None:
        self.users = users
        self.user_hash = user_hash
        self.gate = Gate.CLOSED
        self.unix = 0
        """Unix seconds of this turn of the loop. The driver sets it."""
        self.remember_names = False
        self.limit = NO_LIMIT
        """Records in the table from which on a new user is answered by the hash and gets no record."""
        self.not_remembered = 0
        """How many users were answered without a record."""
        users.at_home = self._at_home
        self._backends: dict[HostId, Backend] = {}
        self._by_address: dict[str, Backend] = {}
        self._circles: dict[bytes, tuple[list[tuple[Address, int]], Circle]] = {}
        self._held_users: set[UserKey] = set()
        self._unread: set[int] = set()
        self._names = bytearray()
        self._refreshed = bytearray()

    def set_backends(self, backends: Iterable[Backend]) -> None:
        """Replace the table of hosts. The circle of a tag is kept if nothing changed in its pool."""
        backends = list(backends)
        self._backends = {backend.id: backend for backend in backends}
        self._by_address = {backend.address: backend for backend in backends}
        points: dict[bytes, list[tuple[Address, int]]] = {}
        for backend in backends:
            if backend.up and backend.weight:
                points.setdefault(backend.tag.encode(), []).append((Address(backend.address), backend.weight))
        circles = {}
        for tag, hosts in points.items():
            hosts.sort()
            old = self._circles.get(tag)
            circles[tag] = old if old is not None and old[0] == hosts else (hosts, Circle(hosts))
        self._circles = circles

    def place(self, hash32: int, tag: bytes) -> Backend | None:
        """Return the host on which the circle of a tag puts a hash, whatever the user table says; None: the
        pool has no usable host."""
        circle = self._circles.get(tag)
        address = circle[1].host(hash32) if circle else None
        return None if address is None else self._by_address[address]

    def assign(self, key: UserKey, tag: bytes) -> Backend | Wait:
        """Answer a login, and write what that decides or refreshes into the user table.

        Args:
            key: of the user.
            tag: of the pool that the user logs in to.

        Returns:
            The backend; or what the login waits for.
        """
        return self._assign(key, tag)[0]

    def assign_named(self, key: UserKey, tag: bytes, name: bytes) -> Backend | Wait:
        """Answer a login as `assign` does, and keep the user's name.

        The name is kept if names are remembered, the name is not too long, and the user was assigned anew or
        the refresh is announced. `take_names` and `take_refreshed` return the names.
        """
        answer, names = self._assign(key, tag)
        if names is not None and self.remember_names and len(name) <= LONGEST_NAME:
            names += key.to_bytes(8) + len(name).to_bytes(2) + name
        return answer

    def choose(self, key: UserKey, tag: bytes) -> Backend | Wait:
        """Assign a user anew, whatever the record says, and even if the user is held.

        While the table is full, a new user gets no record. While it is more than half full, the record is a
        ONE_LOGIN (docs/ring.md, rules 48 and 49).

        Returns:
            The backend; or what the login waits for: `Wait.RING` or `Wait.NO_HOST`.
        """
        if self.gate < Gate.OPEN:
            return Wait.RING
        backend = self.place(key >> 32, tag)
        if backend is None:
            return Wait.NO_HOST
        old = self.users.get(key)
        if old is None and self.full:
            self.not_remembered += 1
            return backend
        decided, seen = (old.decided + 1, old.seen) if old else (0, 0)
        flags = ONE_LOGIN if old is None and 2 * (len(self.users) + 1) > self.limit else 0
        # Never before the host appeared or got its tag, whatever the clock says: such an assignment would not
        # count.
        stamp = Stamp(min(max(self.unix, decided, backend.since, backend.retagged), LATEST))
        self.users.put(User(key, backend.id, stamp, max(self.unix, seen), flags))
        return backend

    def hold(self, key: UserKey) -> None:
        """Let the logins of this user wait until `release`, whether the user is assigned or not."""
        self._held_users.add(key)

    def release(self, key: UserKey) -> None:
        """Answer the logins of this user again. Does nothing if the user is not held."""
        self._held_users.discard(key)

    @property
    def users_held(self) -> int:
        """Return how many users are held."""
        return len(self._held_users)

    @property
    def full(self) -> bool:
        """Whether new users get no record."""
        return len(self.users) >= self.limit

    def await_store(self, buckets: Iterable[int]) -> None:
        """Let unassigned users of these buckets wait: the store may have their records."""
        self._unread.update(buckets)

    def have_read(self, buckets: Iterable[int]) -> None:
        """Stop waiting for these buckets: what the store has of them is in the table."""
        self._unread.difference_update(buckets)

    @property
    def unread(self) -> int:
        """Return how many buckets have not been read yet."""
        return len(self._unread)

    def take_names(self) -> bytes:
        """Return the names of the users who were assigned anew since the last call.

        Returns:
            For each user: key (8 bytes), length (2 bytes), name.
        """
        names, self._names = bytes(self._names), bytearray()
        return names

    def take_refreshed(self) -> bytes:
        """Return the names of the users whose refresh was announced since the last call, as `take_names`
        does.

        Each user is among them once in a third of the expiry, so that a lost name is known again.
        """
        names, self._refreshed = bytes(self._refreshed), bytearray()
        return names

    def suffix(self, backend: Backend, key: UserKey) -> bytes:
        """Return what is appended to the answer's line for a user on `backend`."""
        # Dovecot 2.3 refreshes at half of the expiry. At a third, one lost refresh does no harm
        # (docs/ring.md, rule 17).
        host = f"{backend.hostname}\thostip={backend.address}" if backend.hostname else backend.address
        refresh = self.users.expire // 3
        return f"\tproxy_refresh={refresh}\thost={host}\tuser_dirkey={key >> 32}@{backend.address}".encode()

    def _assign(self, key: UserKey, tag: bytes) -> tuple[Backend | Wait, bytearray | None]:
        """Return the answer, and the buffer that takes the user's name; None: the name is not needed."""
        if self.gate == Gate.CLOSED:
            return Wait.UNVERIFIED, None
        if key in self._held_users:
            return Wait.HELD, None
        old = self.users.get(key)
        if old is not None:
            known = self._known(old, tag)
            if isinstance(known, Backend):
                return known, self._refreshed if self.users.touch(key, self.unix) else None
            if known is not None:
                return known, None
        elif key >> BUCKET_SHIFT in self._unread:
            return Wait.UNREAD, None
        before = self.not_remembered
        chosen = self.choose(key, tag)
        remembered = isinstance(chosen, Backend) and self.not_remembered == before
        return chosen, self._names if remembered else None

    def _at_home(self, user: User) -> bool:
        """Whether the hash would put the user on the host of this record."""
        backend = self._backends.get(user.host)
        if backend is None or user.decided < max(backend.since, backend.retagged):
            return False
        placed = self.place(user.key >> 32, backend.tag.encode())
        return placed is not None and placed.id == user.host

    def _known(self, old: User, tag: bytes) -> Backend | Wait | None:
        """Return what the record says about its user; None: the user is assigned anew."""
        backend = self._backends.get(old.host)
        if backend is not None and old.decided < backend.since:
            if backend.readdressed:
                return Wait.READDRESSED
            backend = None
        if old.flags & MOVING:
            return Wait.MOVING  # even if the target was removed: the old sessions have not ended yet
        if backend is None:
            return None
        unexpired = is_unexpired(old, self.unix, self.users.expire)
        if unexpired and old.decided < backend.retagged:
            return Wait.RETAGGED
        if is_near_expiry(old, self.unix, self.users.expire):
            fresh = self.place(old.key >> 32, tag)
            if fresh is not None and fresh.id != old.host:
                return Wait.NEAR if self.gate == Gate.OPEN else Wait.RING
        if not unexpired:
            return None
        return backend  # even if the host is down or has weight 0, as in Dovecot 2.3
