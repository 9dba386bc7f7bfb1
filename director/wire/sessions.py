"""The sessions that Dovecot's kick channel lists, in one form for both releases.

A listing has columns, with the names that Dovecot 2.3 uses, and then a row for each session. Columns are sent
again if the following rows have others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from director.core.protocol.kicktypes import (
    ByField,
    ByName,
    Fence,
    HashOnHosts,
    KickWhat,
    OnHost,
    ProxiedSession,
)

KEY_FIELD = b"user_dirkey"
"""The field in the director's replies to logins that holds HASH@HOST."""
NAME, HOST = b"username", b"dest-ip"
FIELD_START = b"user_"
"""The prefix of the fields that Dovecot keeps with a session."""


def key_of(hash32: int, host: str) -> bytes:
    """Return the value of `KEY_FIELD` for a user with this hash on this host."""
    return b"%d@%s" % (hash32, host.encode())


class Listing(ABC):
    """Receives the sessions of a listing, one row at a time."""

    @abstractmethod
    def columns(self, names: list[bytes]) -> None:
        """Take the names of the columns of the rows that follow."""

    @abstractmethod
    def session(self, values: list[bytes]) -> None:
        """Take the row of one session. It has as many values as there are columns."""


class Census(Listing):
    """The number of sessions by each property that a kick may name."""

    def __init__(self) -> None:
        self._counts: dict[bytes, dict[bytes, int]] = {}
        self._counted: list[tuple[int, dict[bytes, int]]] = []
        """The positions of columns, with the dictionaries that count their values."""

    def columns(self, names: list[bytes]) -> None:
        self._counted = [
            (position, self._counts.setdefault(name, {}))
            for position, name in enumerate(names)
            if name in (NAME, HOST) or name.startswith(FIELD_START)
        ]

    def session(self, values: list[bytes]) -> None:
        for position, counts in self._counted:
            value = values[position]
            counts[value] = counts.get(value, 0) + 1

    def take(self, what: KickWhat) -> int:
        """Return how many sessions a kick ends, and remove them from the count: the same kick again ends
        none.

        A kick by another property that meets the same sessions counts them again.
        """
        match what:
            case HashOnHosts(hash32=hash32, hosts=hosts):
                return sum(self._take(KEY_FIELD, key_of(hash32, host)) for host in hosts)
            case ByName(name=name):
                return self._take(NAME, name)
            case ByField(field=field, value=value):
                return self._take(field.encode(), value) if field.encode().startswith(FIELD_START) else 0
            case OnHost(host=host):
                return self._take(HOST, host.encode())
            case Fence():
                return 0

    def _take(self, column: bytes, value: bytes) -> int:
        return self._counts.get(column, {}).pop(value, 0)


class SessionList(Listing):
    """The sessions of a listing."""

    def __init__(self) -> None:
        self._columns: list[bytes] = []
        self.sessions: list[ProxiedSession] = []

    def columns(self, names: list[bytes]) -> None:
        self._columns = names

    def session(self, values: list[bytes]) -> None:
        fields = dict(zip(self._columns, values, strict=True))
        host = fields.get(HOST, b"").decode("ascii", "backslashreplace")
        self.sessions.append(ProxiedSession(fields[NAME], host, _hash_in(fields.get(KEY_FIELD, b""))))


def _hash_in(key: bytes) -> int | None:
    digits, at, _host = key.partition(b"@")
    return number(digits) if at else None


def number(digits: bytes) -> int | None:
    """Return an unsigned 32-bit number; None: it is none."""
    value = int(digits) if digits.isdigit() and len(digits) <= 10 else None
    return value if value is not None and value < 1 << 32 else None
