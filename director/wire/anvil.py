"""The kick channel of Dovecot 2.4: its `anvil` socket, which knows the sessions of all processes.

A request is one line, and several requests may be sent without waiting. The answer to a kick is the number of
sessions that ended. A listing is a line with the names of the sessions' fields (`user_…`), then a line for
each session, and then an empty line. If anvil does not understand a request, it ends the connection. The
number may be wrong: a login process that serves only one connection gets a signal, which does not end a
proxied session.

Each login process also has its own socket, which only root may use, for one session at a time.
"""

from __future__ import annotations

from typing import NamedTuple

from director.core.protocol.kicktypes import ByField, ByName, Fence, HashOnHosts, KickWhat, OnHost
from director.wire.sessions import HOST, KEY_FIELD, NAME, Listing, key_of
from director.wire.tabs import DIGITS, escape, split

HELLO = b"VERSION\tanvil-client\t2\t0\n\n"
"""Without the empty line anvil waits for the name of a service, and then uses another protocol."""
GREETING = b"VERSION\tanvil-server\t2\t"
PROCESS_HELLO = b"VERSION\tmaster-admin-client\t1\t0\n"
PROCESS_GREETING = b"VERSION\tmaster-admin-server\t1\t"
LIST = b"CONNECT-DUMP\n"
REPLY_LIMIT = 65536
"""The longest accepted line, in bytes."""

_FIXED = 6
"""The number of columns before those of the fields: pid, user, service, the client's address, id, the
backend's address."""


class Session(NamedTuple):
    """A session of a login process with a backend, or a session on this machine that a director assigned
    to it."""

    pid: int
    name: bytes
    service: str
    """The service of its process, such as `imap-login`."""
    id: bytes
    host: bytes
    key: bytes
    """The value of `KEY_FIELD`; empty: it has none."""
    fields: dict[bytes, bytes]
    """Its other fields that are not empty."""


def kick_requests(what: KickWhat, sessions: Sessions) -> list[bytes]:
    """Return the lines that end these sessions, each with its LF.

    By name and by field anvil also finds sessions that are not proxied, and it has no request for a host. So
    sessions are ended by their keys if all of them have keys and no other session has the same key. Sessions
    on a host that have no key are left out: a kick by name would end all sessions of the user.

    Args:
        what: the sessions to end.
        sessions: all sessions; not read for HashOnHosts.

    Returns:
        The lines; empty: there is nothing to end.
    """
    if isinstance(what, HashOnHosts):
        return [_kick_by(KEY_FIELD, key_of(what.hash32, host)) for host in what.hosts]
    meant = sessions.of(what)
    keys = {session.key for session in meant}
    alone = b"" not in keys and sum(len(sessions.with_key(key)) for key in keys) == len(meant)
    match what:
        case _ if not meant:
            return []
        case ByName(name=name) if not alone:
            return [_request(b"KICK-USER", name)]
        case ByField(field=field, value=value) if not alone:
            return [_kick_by(field.encode(), value)]
    return [_kick_by(KEY_FIELD, key) for key in sorted(keys - {b""})]


def read_count(line: bytes) -> int:
    """Return how many sessions ended.

    Args:
        line: as anvil (a number) or a login process (a number after `+`) sends it.

    Raises:
        ValueError: it is no number.
    """
    digits = line.removeprefix(b"+")
    if not digits.isdigit() or len(digits) > 10:
        raise ValueError(f"{line[:40]!r} is not the number of sessions ended")
    return int(digits)


def kick_one(session: Session) -> bytes:
    """Return the line that ends one session, for the socket of its own login process."""
    return _request(b"KICK-USER", session.name, session.id)


def _kick_by(field: bytes, value: bytes) -> bytes:
    return _request(b"KICK-ALT-USER", field, value)


def _request(*words: bytes) -> bytes:
    return b"\t".join(map(escape, words)) + b"\n"


class SessionRows:
    """Reads the lines of a listing, and leaves out sessions that are not proxied and have no key: no
    director assigned them."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._width = 0
        self._key: int | None = None
        """The column of `KEY_FIELD`."""

    def add(self, line: bytes) -> None:
        """Read the next line of the listing, except the empty line at its end."""
        values = split(line)
        if not self._width:
            columns = [b"pid", NAME, b"service", b"src-ip", b"id", HOST, *(values if line else [])]
            self._width = len(columns)
            self._key = columns.index(KEY_FIELD) if KEY_FIELD in columns else None
            self._listing.columns(columns)
        elif _FIXED <= len(values) <= self._width:
            # the line of a session ends before fields that were first seen after the session began
            values += [b""] * (self._width - len(values))
            if not values[_FIXED - 1] and self._key is not None:
                values[_FIXED - 1] = values[self._key].partition(b"@")[2]
            if values[_FIXED - 1]:
                self._listing.session(values)


class Sessions(Listing):
    """The sessions of a listing, with the data needed to end each of them."""

    def __init__(self) -> None:
        self._fields: list[bytes] = []
        self.sessions: list[Session] = []
        self._by_key: dict[bytes, list[Session]] = {}
        self._by_name: dict[bytes, list[Session]] = {}

    def columns(self, names: list[bytes]) -> None:
        self._fields = names[_FIXED:]

    def session(self, values: list[bytes]) -> None:
        pid, name, service, _, id, host = values[:_FIXED]
        fields = {field: value for field, value in zip(self._fields, values[_FIXED:], strict=True) if value}
        key = fields.pop(KEY_FIELD, b"")
        if pid.isdigit() and len(pid) <= DIGITS:
            words = service.decode("ascii", "backslashreplace")
            session = Session(int(pid), name, words, id, host, key, fields)
            self.sessions.append(session)
            self._by_key.setdefault(key, []).append(session)
            self._by_name.setdefault(name, []).append(session)

    def with_key(self, key: bytes) -> list[Session]:
        return self._by_key.get(key, [])

    def of(self, what: KickWhat) -> list[Session]:
        """Return the sessions that a kick is to end."""
        match what:
            case HashOnHosts(hash32=hash32, hosts=hosts):
                return [s for host in hosts for s in self.with_key(key_of(hash32, host))]
            case ByName(name=name):
                return self._by_name.get(name, [])
            case ByField(field=field, value=value):
                name = field.encode()
                if name == KEY_FIELD:
                    return self.with_key(value) if value else []
                return [s for s in self.sessions if s.fields.get(name) == value]
            case OnHost(host=host):
                return [s for s in self.sessions if s.host == host.encode()]
            case Fence():
                return []
