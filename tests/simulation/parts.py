"""What a simulated ring keeps books of: logins, operators' changes, stores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from director.core.effects import UsersDone
from director.core.hashing import UserHash
from director.core.hosts import merge_rows
from director.core.kicktypes import ByField, ByName, HashOnHosts, KickWhat, OnHost
from director.core.members import merge_member_rows
from director.core.messages import HostRow, MemberRow
from director.core.users import User, merged, rounded, unpack
from director.types import Address, MemberId, UserKey

EXPIRE = 60
"""`users.expire` of all simulated directors, seconds."""


@dataclass
class Reply:
    """What became of a login."""

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
    """What became of an operator's change."""

    done: HostRow | MemberRow | None = None
    failed: str | None = None
    users: UsersDone | None = None
    number: int = 0

    @property
    def pending(self) -> bool:
        return self.done is None and self.failed is None and self.users is None


@dataclass
class Session:
    """A connection of a user that a machine proxies to a backend."""

    user: str
    tag: str
    host: Address
    since: float

    @property
    def hash32(self) -> int:
        return UserHash().hash(self.user.encode())


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


@dataclass
class Store:
    """What survives a crash: of one director, or shared by all."""

    shared: bool
    up: bool = True
    users: dict[UserKey, User] = field(default_factory=dict)
    rows: dict[str, HostRow] = field(default_factory=dict)
    leases: dict[MemberId, float] = field(default_factory=dict)
    members: dict[str, MemberRow] = field(default_factory=dict)

    def merge(self, records: bytes) -> None:
        for record in unpack(records):
            record = record._replace(seen=rounded(record.seen, EXPIRE))
            old = self.users.get(record.key)
            self.users[record.key] = record if old is None else merged(old, record)

    def merge_members(self, rows: Iterable[MemberRow]) -> None:
        for row in rows:
            old = self.members.get(row.member)
            self.members[row.member] = row if old is None else merge_member_rows(old, row)

    def merge_hosts(self, rows: Iterable[HostRow]) -> None:
        for row in rows:
            old = self.rows.get(row.address)
            self.rows[row.address] = row if old is None else merge_rows(old, row)
