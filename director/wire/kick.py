"""The kick channel of Dovecot 2.3: lines for its `ipc` socket, and what the login processes answer.

A request is one line; `*` sends it to every login process. Its answer is any number of `:` lines and then one
`+` (done) or `-` (failed). The number after `+` is that of the login process that answered last, and `(null)`
where none has had a session yet: what was ended is counted in a listing instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import msgspec

from director.core.kicktypes import ByField, ByName, Fence, HashOnHosts, KickWhat, OnHost, ProxiedSession
from director.wire.tabs import escape, split

REQUEST_LIMIT = 1000
"""Bytes of a request that names several hosts; it is split before it gets longer. (2.3.19 takes 200,000.)"""
REPLY_LIMIT = 16384
"""Longest line accepted from ipc, in bytes."""
KEY_FIELD = b"user_dirkey"
"""The field of our replies to logins that holds HASH@HOST."""
LIST = b"proxy\t*\tLIST-FULL\n"

_NAME, _HOST = b"username", b"dest-ip"
_HEADER_START, _HEADER_END = b"username\t", b"\tdest-port"
_FIELD_START = "user_"


class Row(msgspec.Struct, frozen=True):
    """A line of data; its answer goes on."""

    line: bytes


class Done(msgspec.Struct, frozen=True):
    """The end of an answer."""

    count: int
    """Sessions ended by the login process that answered last."""


class Failed(msgspec.Struct, frozen=True):
    """The end of an answer: it was not carried out."""

    reason: str


class Malformed(ValueError):
    """A line that no ipc sends."""


def kick_requests(what: KickWhat) -> list[bytes]:
    """The lines, each with its LF, that end these sessions. Empty where there is nothing to end."""
    match what:
        case HashOnHosts(hash32=hash32, hosts=hosts):
            return _kicks_of_keys(b"%d@" % hash32, hosts)
        case ByName(name=name):
            return [_request(b"KICK", name)]
        case ByField(field=field, value=value):
            return [_request(b"KICK-ALT", field.encode(), value)]
        case OnHost(host=host):
            return [_request(b"KICK-HOST", host.encode())]
        case Fence():
            return []


def _request(*words: bytes) -> bytes:
    return b"\t".join([b"proxy", b"*", *map(escape, words)]) + b"\n"


def _kicks_of_keys(prefix: bytes, hosts: list[str]) -> list[bytes]:
    lines: list[bytes] = []
    room = 0
    for host in hosts:
        key = escape(prefix + host.encode())
        if len(key) >= room:
            lines.append(_request(b"KICK-ALT", KEY_FIELD))
            room = REQUEST_LIMIT - len(lines[-1])
        lines[-1] = b"%s\t%s\n" % (lines[-1][:-1], key)
        room -= len(key) + 1
    return lines


def read_reply(line: bytes) -> Row | Done | Failed:
    """One line from ipc, without its LF. Raises Malformed."""
    match line[:1]:
        case b":":
            return Row(line[1:])
        case b"+":
            return Done(_number(line[1:]) or 0)
        case b"-":
            return Failed(line[1:].decode("utf-8", "backslashreplace") or "no reason given")
    raise Malformed(f"{line[:40]!r} is no reply of ipc")


class _Listing(ABC):
    """Takes the rows of a listing apart. Every login process sends a header of its own before its rows, and
    names only the fields its sessions have had."""

    def __init__(self) -> None:
        self._width = 0

    def add(self, row: bytes) -> None:
        """The next row. Left out where it does not fit the header before it."""
        values = split(row)
        if row.endswith(_HEADER_END) and row.startswith(_HEADER_START):
            self._width = len(values)
            self._header(values)
        elif len(values) == self._width:
            self._session(values)

    @abstractmethod
    def _header(self, columns: list[bytes]) -> None:
        """The columns of the rows that follow."""

    @abstractmethod
    def _session(self, values: list[bytes]) -> None:
        """A row, as wide as the header before it."""


class Census(_Listing):
    """How many sessions there are of each kind a kick may ask for. Feed it the rows of a listing."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[bytes, dict[bytes, int]] = {}
        self._counted: list[tuple[int, dict[bytes, int]]] = []
        """Positions of columns, and where their values are counted."""

    def _header(self, columns: list[bytes]) -> None:
        self._counted = [
            (position, self._counts.setdefault(column, {}))
            for position, column in enumerate(columns)
            if column in (_NAME, _HOST) or column.startswith(_FIELD_START.encode())
        ]

    def _session(self, values: list[bytes]) -> None:
        for position, counts in self._counted:
            value = values[position]
            counts[value] = counts.get(value, 0) + 1

    def take(self, what: KickWhat) -> int:
        """How many sessions a kick ends. They are taken out: the same kick again ends none.

        (A kick of another kind that meets the same sessions counts them once more.)
        """
        match what:
            case HashOnHosts(hash32=hash32, hosts=hosts):
                return sum(self._take(KEY_FIELD, b"%d@%s" % (hash32, host.encode())) for host in hosts)
            case ByName(name=name):
                return self._take(_NAME, name)
            case ByField(field=field, value=value):
                return self._take(field.encode(), value) if field.startswith(_FIELD_START) else 0
            case OnHost(host=host):
                return self._take(_HOST, host.encode())
            case Fence():
                return 0

    def _take(self, column: bytes, value: bytes) -> int:
        return self._counts.get(column, {}).pop(value, 0)


class SessionList(_Listing):
    """The sessions of a listing. Feed it its rows."""

    def __init__(self) -> None:
        super().__init__()
        self._columns: list[bytes] = []
        self.sessions: list[ProxiedSession] = []

    def _header(self, columns: list[bytes]) -> None:
        self._columns = columns

    def _session(self, values: list[bytes]) -> None:
        fields = dict(zip(self._columns, values, strict=True))
        host = fields.get(_HOST, b"").decode("ascii", "backslashreplace")
        self.sessions.append(ProxiedSession(fields[_NAME], host, _hash_in(fields.get(KEY_FIELD, b""))))


def _hash_in(key: bytes) -> int | None:
    digits, at, _host = key.partition(b"@")
    return _number(digits) if at else None


def _number(digits: bytes) -> int | None:
    number = int(digits) if digits.isdigit() and len(digits) <= 10 else None
    return number if number is not None and number < 1 << 32 else None
