"""The sessions that Dovecot's kick channel lists, in one form for both releases.

A listing has columns, named by Dovecot 2.3's words for them, and then a row for each session; columns come
again where what follows has others.
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
"""The field of our replies to logins that holds HASH@HOST."""
NAME, HOST = b"username", b"dest-ip"
FIELD_START = b"user_"
"""How the names of fields begin that Dovecot keeps with a session."""


def key_of(hash32: int, host: str) -> bytes:
    """What `KEY_FIELD` holds for a user with this hash on this host."""
    return b"%d@%s" % (hash32, host.encode())


class Listing(ABC):
    """Takes a listing in."""

    @abstractmethod
    def columns(self, names: list[bytes]) -> None:
        """The columns of the rows that follow."""

    @abstractmethod
    def session(self, values: list[bytes]) -> None:
        """A row: as many values as there are columns."""


class Census(Listing):
    """How many sessions there are of each kind a kick may ask for."""

    def __init__(self) -> None:
        self._counts: dict[bytes, dict[bytes, int]] = {}
        self._counted: list[tuple[int, dict[bytes, int]]] = []
        """Positions of columns, and where their values are counted."""

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
        """How many sessions a kick ends. They are taken out: the same kick again ends none.

        (A kick of another kind that meets the same sessions counts them once more.)
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
    """An unsigned number of 32 bits; None where it is none."""
    value = int(digits) if digits.isdigit() and len(digits) <= 10 else None
    return value if value is not None and value < 1 << 32 else None
