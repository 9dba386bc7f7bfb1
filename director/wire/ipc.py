"""The kick channel of Dovecot 2.3: requests to its `ipc` socket, and the answers of the login processes.

A request is one line; `*` sends it to every login process. Its answer is any number of `:` lines and then one
`+` (done) or `-` (failed). The number after `+` is that of the login process that answered last, and `(null)`
if no login process has had a session yet. Therefore ended sessions are counted in a listing instead.
"""

from __future__ import annotations

import msgspec

from director.core.protocol.kicktypes import ByField, ByName, Fence, HashOnHosts, KickWhat, OnHost
from director.wire.sessions import KEY_FIELD, Listing, key_of, number
from director.wire.tabs import escape, split

REQUEST_LIMIT = 1000
"""Bytes of a request that names several hosts. It is split before it gets longer. (2.3.19 accepts
200,000.)"""
REPLY_LIMIT = 16384
"""The longest line accepted from ipc, in bytes."""
LIST = b"proxy\t*\tLIST-FULL\n"

_HEADER_START, _HEADER_END = b"username\t", b"\tdest-port"


class Row(msgspec.Struct, frozen=True):
    """A line with data of an answer. More lines of the answer follow."""

    line: bytes


class Done(msgspec.Struct, frozen=True):
    """The end of an answer."""

    count: int
    """The number of sessions that the login process which answered last has ended."""


class Failed(msgspec.Struct, frozen=True):
    """The end of an answer: the request was refused."""

    reason: str


class Malformed(ValueError):
    """A line that ipc does not send."""


def kick_requests(what: KickWhat) -> list[bytes]:
    """Return the lines, each with its LF, that end these sessions; empty: there is nothing to end."""
    match what:
        case HashOnHosts(hash32=hash32, hosts=hosts):
            return _kicks_of_keys([key_of(hash32, host) for host in hosts])
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


def _kicks_of_keys(keys: list[bytes]) -> list[bytes]:
    lines: list[bytes] = []
    room = 0
    for key in map(escape, keys):
        if len(key) >= room:
            lines.append(_request(b"KICK-ALT", KEY_FIELD))
            room = REQUEST_LIMIT - len(lines[-1])
        lines[-1] = b"%s\t%s\n" % (lines[-1][:-1], key)
        room -= len(key) + 1
    return lines


def read_reply(line: bytes) -> Row | Done | Failed:
    """Return the meaning of a line from ipc.

    Args:
        line: without its LF.

    Raises:
        Malformed: it is no line of ipc.
    """
    match line[:1]:
        case b":":
            return Row(line[1:])
        case b"+":
            return Done(number(line[1:]) or 0)
        case b"-":
            return Failed(line[1:].decode("utf-8", "backslashreplace") or "no reason given")
    raise Malformed(f"{line[:40]!r} is no reply of ipc")


class ListingRows:
    """Reads the rows of a listing.

    Each login process sends its own header before its rows, which names only the fields that its sessions
    have had.
    """

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._width = 0

    def add(self, row: bytes) -> None:
        """Read the next row. A row that does not fit the header before it is left out."""
        values = split(row)
        if row.endswith(_HEADER_END) and row.startswith(_HEADER_START):
            self._width = len(values)
            self._listing.columns(values)
        elif len(values) == self._width:
            self._listing.session(values)
