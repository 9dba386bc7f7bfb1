"""Whether a user is known, and what an operator is told of one that is not."""

from __future__ import annotations

import time
from collections.abc import Callable

from director.core.placement.users import MOVING, User, UserTable, is_alive, unpack
from director.core.tables.hosts import HostTable
from director.errors import OperationError, Refused, TryAgain, UnknownName
from director.types import UserKey


class KnownUsers:
    def __init__(self, users: UserTable, hosts: HostTable, loading: Callable[[], bool]) -> None:
        """loading: whether the store may still know users that memory does not."""
        self._users, self._hosts, self._loading = users, hosts, loading

    def knows(self, key: UserKey) -> bool:
        """Whether the user is assigned, or is being moved."""
        record = self._users.get(key)
        return record is not None and self._is_assigned(record)

    def knows_hash(self, hash32: int) -> bool:
        """Whether a user with this hash is."""
        return any(self._is_assigned(record) for record in unpack(self._users.with_hash(hash32)))

    def check(self, user: str, key: UserKey) -> None:
        """Raise UnknownName, or TryAgain, for a user that nobody has seen."""
        if not self.knows(key):
            raise self._unknown(user, "check the name, or give --new to place a new user")

    def without_name(self, user: str, new: bool) -> OperationError:
        """Why a user that is given by a hash nobody has seen cannot be moved. new: it was to be placed."""
        advice = (
            "it is given by its hash, and a new assignment needs the whole name: give the name "
            f"(with --name if {user} is one)"
        )
        return Refused(f"{user}: no such user is assigned; {advice}") if new else self._unknown(user, advice)

    def _unknown(self, user: str, advice: str) -> OperationError:
        if self.is_host(user):
            return UnknownName(f"{user}: no such user: it is a backend host")
        if self._loading():
            return TryAgain(f"{user}: not known yet: the store is being read; try again")
        return UnknownName(f"{user}: no such user is assigned; {advice}")

    def is_host(self, text: str) -> bool:
        """Whether this is the address or the name of a backend host."""
        return any(text in (row.address, row.hostname) for row in self._hosts.present())

    def _is_assigned(self, record: User) -> bool:
        if record.flags & MOVING:
            return True
        alive = is_alive(record, int(time.time()), self._users.expire)
        return alive and self._hosts.by_id(record.host) is not None and not self._hosts.gone(record)
