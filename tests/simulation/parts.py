"""The records of a simulated ring: logins, operators' changes, sessions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import count

from director.core.placement.hashing import UserHash
from director.core.protocol.kicktypes import ByField, ByName, HashOnHosts, KickWhat, OnHost
from director.core.protocol.messages import HostRow, MemberRow
from director.records import MoveCounts
from director.types import Address, MemberId

EXPIRE = 60
"""`users.expire` of all simulated directors, in seconds."""
EARLIEST_DROP = 5
"""Seconds after which a user who logged in once may be dropped if a table is full: less than EXPIRE."""


@dataclass
class Reply:
    """A login and its result."""

    user: str
    at: MemberId
    asked: float
    host: str | None = None
    refused: str | None = None
    answered: float | None = None
    tag: str = ""

    @property
    def pending(self) -> bool:
        return self.answered is None


@dataclass
class Outcome:
    """The result of an operator's change."""

    done: HostRow | MemberRow | None = None
    failed: str | None = None
    users: MoveCounts | None = None
    number: int = 0

    @property
    def pending(self) -> bool:
        return self.done is None and self.failed is None and self.users is None


@dataclass
class Session:
    """A connection of a user that a machine proxies to a backend host."""

    user: str
    tag: str
    host: Address
    since: float
    heard: float = 0.0
    """The time when its director last heard of it."""
    arrived: bool = True
    """Whether the login process is connected with the backend. Before that no kick finds the session."""
    remembered: bool = True
    """Whether the director that answered has a record of the user: it has none if its table is full."""
    kick_failed: bool = False
    """Whether a kick of this session was never run, or too late."""
    missed: bool = False
    """Whether the session was not connected yet when a kick that should have ended it was run."""
    late: bool = False
    """Whether the second kick also took longer than the kick delay allows."""
    excused: str = ""
    """Why another session of the user may be on another host."""

    @property
    def hash32(self) -> int:
        return hash32(self.user)


@cache
def hash32(user: str) -> int:
    return UserHash().hash(user.encode())


def ends(what: KickWhat, session: Session) -> bool:
    """Whether a kick ends this session."""
    match what:
        case HashOnHosts(hash32, hosts):
            return session.hash32 == hash32 and session.host in hosts
        case ByName(name):
            return session.user.encode() == name
        case ByField(field, value):
            return field == "user_session" and session.user.encode() == value
        case OnHost(host):
            return session.host == host
    return False


@cache
def bucket_mates(many: int) -> list[str]:
    """Return names of users. The first half of them share two buckets; each of the others has its own."""
    found: dict[int, list[str]] = {}
    for number in count():
        name = f"user{number}"
        mates = found.setdefault(hash32(name) >> 20, [])
        mates.append(name)
        crowded = [names for names in found.values() if len(names) >= many // 4]
        if len(crowded) == 2:
            shared = [name for names in crowded for name in names]
            return shared + [f"alone{i}" for i in range(many - len(shared))]
    raise AssertionError
