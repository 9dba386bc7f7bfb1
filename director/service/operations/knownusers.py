"""Assigned users: whether a user has an assignment, on which host, and the error for a user without one."""

from __future__ import annotations

import time

from director.core.director import Director
from director.core.placement.hashing import UserHash
from director.core.placement.users import MOVING, PINNED, User, is_unexpired, unpack
from director.core.protocol.messages import HostRow
from director.errors import OperationError, Refused, TryAgain, UnknownName
from director.service.operations.arguments import name_bytes
from director.service.operations.pools import pool_name, which_tag
from director.types import UserKey


class KnownUsers:
    def __init__(self, director: Director, user_hash: UserHash) -> None:
        self._director, self._user_hash = director, user_hash
        self._users, self._hosts = director.users, director.hosts

    def knows(self, key: UserKey) -> bool:
        """Return whether the user is assigned or is being moved."""
        record = self._users.get(key)
        return record is not None and self._is_assigned(record)

    def knows_hash(self, hash32: int) -> bool:
        """Return whether a user with this hash is assigned or is being moved."""
        return any(self._is_assigned(record) for record in unpack(self._users.with_hash(hash32)))

    def check(self, user: str, key: UserKey) -> None:
        """Raise UnknownName if the user is not assigned, or TryAgain while the store is being read."""
        if not self.knows(key):
            raise self._unknown(user, "check the name, or give --new to assign a new user")

    def without_name(self, user: str, new: bool) -> OperationError:
        """Return why an unassigned user, given by hash, cannot be moved. new: new users are allowed."""
        advice = (
            f"a new assignment needs the name, not the hash: give the name (with --name if {user} is one)"
        )
        return Refused(f"{user}: no such user is assigned; {advice}") if new else self._unknown(user, advice)

    def _unknown(self, user: str, advice: str) -> OperationError:
        if self.is_host(user):
            return UnknownName(f"{user}: no such user: it is a backend host")
        if self._director.loading:  # the store may hold assignments that are not in memory yet
            return TryAgain(f"{user}: the store is still being read; try again in a moment")
        return UnknownName(f"{user}: no such user is assigned; {advice}")

    def is_host(self, text: str) -> bool:
        """Return whether this is the address or the name of a backend host."""
        return any(text in (row.address, row.hostname) for row in self._hosts.present())

    # ---- keys and records

    def key(self, user: str, tag: str) -> UserKey:
        """Return the key of a user, given by name, in the pool of `tag`."""
        return self._user_hash.key(name_bytes(user), name_bytes(tag))

    def name(self, user: str) -> bytes:
        """Return the part of the name that is kept: the name without the master user's part."""
        return self._user_hash.without_master_user(name_bytes(user))

    def key_of_hash(self, hash32: int, tag: str) -> UserKey | None:
        """Return the key of the user with this hash.

        If several users have the hash, a user on a host with this tag comes first. None: there is no record.
        """
        known = list(unpack(self._users.with_hash(hash32)))
        for user in known:
            if self.tag_of(user.key) == tag:
                return user.key
        return known[0].key if known else None

    def live_host(self, record: User | None) -> HostRow | None:
        """Return the host of a record, or None if the assignment has expired or its host was removed."""
        if record is None or not is_unexpired(record, int(time.time()), self._users.expire):
            return None
        record = self._hosts.moved_record(record) or record
        row = self._hosts.by_id(record.host)
        return row if row is not None and record.decided >= row.present_at else None

    def live_by_hash(self, hash32: int, tag: str) -> User | None:
        """Return an unexpired record with this 32-bit hash on a host with this tag."""
        for record in unpack(self._users.with_hash(hash32)):
            if self.live_host(record) is not None and self.tag_of(record.key) == tag:
                return record
        return None

    def host_of(self, key: UserKey) -> str | None:
        """Return the address of the record's host, also of an expired record. None: no record or host."""
        row = self._row_of(key)
        return row.address if row is not None else None

    def tag_of(self, key: UserKey) -> str | None:
        """Return the tag of the record's host. None: no record or no host."""
        row = self._row_of(key)
        return row.tag if row is not None else None

    def tags_of(self, user: str) -> list[str]:
        """Return the tags of the pools in which a user of this name is assigned."""
        tags = sorted({row.tag for row in self._hosts.present()})
        return [tag for tag in tags if self.knows(self.key(user, tag))]

    def pinned_elsewhere(self, user: str, tag: str, *, by_hash: bool) -> str:
        """Return the end of a message that says which tag to give for a user pinned in another pool; empty if
        the user is not pinned in any."""
        if by_hash:
            records = list(unpack(self._users.with_hash(int(user))))
        else:
            keys = [self.key(user, other) for other in self.tags_of(user)]
            records = [record for record in map(self._users.get, keys) if record is not None]
        tags = [self.tag_of(record.key) for record in records if record.flags & PINNED]
        other = next((name for name in tags if name not in (None, tag)), None)
        if other is None:
            return ""
        return f" in the {pool_name(tag)}, but in the {pool_name(other)}: {which_tag(other)}"

    def _row_of(self, key: UserKey) -> HostRow | None:
        record = self._users.get(key)
        return self._hosts.by_id(record.host) if record is not None else None

    def _is_assigned(self, record: User) -> bool:
        if record.flags & MOVING:
            return True
        alive = is_unexpired(record, int(time.time()), self._users.expire)
        return alive and self._hosts.by_id(record.host) is not None and not self._hosts.host_removed(record)
