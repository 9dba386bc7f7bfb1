"""What a simulated ring keeps books of: logins, operators' changes, stores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from director.core.hosts import merge_rows
from director.core.messages import HostRow
from director.core.users import User, merged, rounded, unpack
from director.types import MemberId, UserKey

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

    @property
    def pending(self) -> bool:
        return self.answered is None


@dataclass
class Outcome:
    """What became of an operator's change."""

    done: HostRow | None = None
    failed: str | None = None

    @property
    def pending(self) -> bool:
        return self.done is None and self.failed is None


@dataclass
class Store:
    """What survives a crash: of one director, or shared by all."""

    shared: bool
    up: bool = True
    users: dict[UserKey, User] = field(default_factory=dict)
    rows: dict[str, HostRow] = field(default_factory=dict)
    leases: dict[MemberId, float] = field(default_factory=dict)

    def merge(self, records: bytes) -> None:
        for record in unpack(records):
            record = record._replace(seen=rounded(record.seen, EXPIRE))
            old = self.users.get(record.key)
            self.users[record.key] = record if old is None else merged(old, record)

    def merge_hosts(self, rows: Iterable[HostRow]) -> None:
        for row in rows:
            old = self.rows.get(row.address)
            self.rows[row.address] = row if old is None else merge_rows(old, row)
