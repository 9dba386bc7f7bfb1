"""The `director-doveadm 1.0` protocol of Dovecot 2.3: command lines to commands, results to reply lines.

Both sides begin with a VERSION line. A command is a line of escaped fields, separated by TABs. A reply is one
line; a list is several lines and then an empty one. The protocol has no reply to an invalid line: Dovecot
2.3's director closes the connection and logs why. So parse() raises, and its caller does the same. If the
client waits for one line, and takes any line but OK for an error, the reason is sent first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from director.core.placement.addresses import canonical
from director.errors import PeerError
from director.records import HostInfo, MemberInfo, UserInfo, UserStatus
from director.types import Address
from director.wire.tabs import escape, is_version, split

LINE_LIMIT = 1024
"""Bytes of the longest line a client may send, including its LF."""

VERSION_NAME = b"director-doveadm"
VERSION_MAJOR = 1
GREETING = b"VERSION\tdirector-doveadm\t1\t0\n"

OK = b"OK\n"
NOT_FOUND = b"NOTFOUND\n"
TRY_AGAIN = b"TRYAGAIN\n"
END_OF_LIST = b"\n"
WEIGHT_TOO_LARGE = "vhost count too large"
"""The text of Dovecot 2.3's director; scripts may compare it."""

UINT32_MAX = 0xFFFFFFFF
PORT_MAX = 65535
SHOWN = 64
"""The most characters of a wrong value that an error quotes."""


class AdminSyntaxError(PeerError):
    """A line is no command, or no VERSION of this protocol.

    Log the text, send `reply`, close the connection.
    """

    def __init__(self, text: str, reply: bytes = b"") -> None:
        self.reply = reply
        super().__init__(text)


class HostList(msgspec.Struct, frozen=True):
    """List all backend hosts."""


class HostListRemoved(msgspec.Struct, frozen=True):
    """List the hosts of the configuration file that are not in the table."""


class HostSet(msgspec.Struct, frozen=True):
    """Add a host, or change the given values of an existing host. A tag or weight of None is not given."""

    address: Address
    tag: str | None = None
    weight: int | None = None


class HostUpdate(msgspec.Struct, frozen=True):
    """Set the weight of an existing host."""

    address: Address
    weight: int
    tag: str | None = None


class HostUp(msgspec.Struct, frozen=True):
    """Assign new users to the host again."""

    address: Address


class HostDown(msgspec.Struct, frozen=True):
    """Assign no new users to the host."""

    address: Address


class HostRemove(msgspec.Struct, frozen=True):
    """Remove the host from the table, and end the sessions of its users."""

    address: Address


class HostFlush(msgspec.Struct, frozen=True):
    """Delete the assignments of one host, or of all (address None), and end their users' sessions."""

    address: Address | None = None


class HostResetUsers(msgspec.Struct, frozen=True):
    """Move the users of one host, or of all (address None), to the hosts that the hash selects."""

    address: Address | None = None
    max_parallel: int | None = None


class UserLookup(msgspec.Struct, frozen=True):
    """Show which host a user is assigned to, and which host the hash selects.

    A `user` of digits only may be a hash.
    """

    user: str
    tag: str = ""


class UserList(msgspec.Struct, frozen=True):
    """List all users, or the users of one host."""

    host: Address | None = None


class UserMove(msgspec.Struct, frozen=True):
    """Move a user to a host. A `user` of digits only is a hash."""

    user: str
    host: Address


class UserKick(msgspec.Struct, frozen=True):
    """End the sessions of a user. wait=False: the command is refused if it would have to wait for a free
    kick."""

    user: str
    wait: bool = True


class UserKickAlt(msgspec.Struct, frozen=True):
    """End the sessions whose passdb field `field` has this value."""

    field: str
    value: str
    wait: bool = True


class DirectorList(msgspec.Struct, frozen=True):
    """List the directors of the ring and the connections with them."""


class DirectorAdd(msgspec.Struct, frozen=True):
    """Add a director to the ring. Port None: the port of the director that runs the command."""

    address: Address
    port: int | None = None


class DirectorRemove(msgspec.Struct, frozen=True):
    """Remove a director from the ring. Port None: the first director with this address."""

    address: Address
    port: int | None = None


Query = HostList | HostListRemoved | UserLookup | UserList | DirectorList

ChangeCommand = (
    HostSet
    | HostUpdate
    | HostUp
    | HostDown
    | HostRemove
    | HostFlush
    | HostResetUsers
    | UserMove
    | UserKick
    | UserKickAlt
    | DirectorAdd
    | DirectorRemove
)

Command = Query | ChangeCommand


def check_version(line: bytes) -> None:
    """Accept the client's first line: the protocol and its major version, with any minor version.

    Args:
        line: without its LF.

    Raises:
        AdminSyntaxError: the line is anything else.
    """
    if is_version(line, VERSION_NAME, VERSION_MAJOR):
        return
    # A line that is no VERSION may have a user name after its first TAB, which must not be logged.
    begun = line if line.startswith(b"VERSION\t") else line.partition(b"\t")[0]
    raise AdminSyntaxError(
        "doveadm not compatible with this server (mixed old and new binaries?): "
        f"it began with {_shown(begun)}, expected VERSION {VERSION_NAME.decode()} {VERSION_MAJOR}"
    )


def parse(line: bytes) -> Command:
    """Return the command in a line.

    Fields that the command does not use are ignored, as by Dovecot 2.3's director.

    Args:
        line: without its LF.

    Raises:
        AdminSyntaxError: there is no such command, or a field is missing or wrong.
    """
    name, *values = split(line)
    if not name and not values:
        raise AdminSyntaxError("doveadm sent empty command line")
    read = _READERS.get(name)
    if read is None:
        text = f"doveadm sent unknown command: {_shown(name)}"
        raise AdminSyntaxError(text, refusal(text))
    try:
        return read(values)
    except ValueError as exc:
        text = f"doveadm sent invalid {name.decode()} parameters: {exc}"
        # A client would take the reply for a row of the list.
        raise AdminSyntaxError(text, b"" if name == b"USER-LIST" else refusal(text)) from exc


def host_list(hosts: Iterable[HostInfo]) -> bytes:
    """Return the reply to HOST-LIST, including its end."""
    rows = [
        _row(host.address, host.weight, host.users, host.tag, "U" if host.up else "D", host.changed)
        for host in hosts
    ]
    return b"".join(rows) + END_OF_LIST


def removed_hosts(addresses: Iterable[str]) -> bytes:
    """Return the reply to HOST-LIST-REMOVED, including its end."""
    return b"".join(map(_row, addresses)) + END_OF_LIST


def user_rows(users: Iterable[UserInfo]) -> bytes:
    """Return some rows of a reply to USER-LIST. END_OF_LIST follows the last rows."""
    return b"".join([b"%d\t%d\t%b\n" % (user.hash, user.expires, user.host.encode()) for user in users])


def user_lookup(status: UserStatus) -> bytes:
    """Return the reply to USER-LOOKUP. An expiry of 0 means that the user is unassigned."""
    expires = status.expires if status.current is not None else None
    return _row(status.current or "", expires or 0, status.hashed or "", status.configured or "")


def director_list(members: Iterable[MemberInfo]) -> bytes:
    """Return the reply to DIRECTOR-LIST, including its end."""
    return b"".join(map(_member, members)) + END_OF_LIST


def refusal(text: str) -> bytes:
    """Return a reply that refuses a command.

    It is one line and never empty; doveadm prints it as its error.
    """
    return escape(" ".join(text.split()).encode("utf-8", "backslashreplace") or b"refused") + b"\n"


def _member(member: MemberInfo) -> bytes:
    fields: list[str | int] = [member.address, member.port, member.kind, member.last_failed, member.status]
    if member.bytes_in is not None:  # a connection
        rest = (member.bytes_out, member.buffered, member.buffered_peak, member.last_read, member.last_write)
        fields += [member.sync_ms or 0, member.bytes_in, *(value or 0 for value in rest)]
    elif member.kind == "self":
        fields.append(member.sync_ms or 0)
    return _row(*fields)


def _row(*fields: str | int) -> bytes:
    return b"\t".join([escape(str(field).encode("utf-8", "surrogateescape")) for field in fields]) + b"\n"


def _host_set(values: Sequence[bytes]) -> HostSet:
    address, tag = _tagged(values)
    return HostSet(address, tag, _number(values[1], UINT32_MAX) if len(values) > 1 else None)


def _host_update(values: Sequence[bytes]) -> HostUpdate:
    address, tag = _tagged(values)
    if len(values) < 2:
        raise ValueError("the vhost count is missing")
    return HostUpdate(address, _number(values[1], UINT32_MAX), tag)


def _host_reset_users(values: Sequence[bytes]) -> HostResetUsers:
    max_parallel = _number(values[1], UINT32_MAX) if len(values) > 1 else None
    if max_parallel == 0:
        raise ValueError("with 0 moves at a time it would never end")
    return HostResetUsers(_optional_address(values), max_parallel)


def _user_lookup(values: Sequence[bytes]) -> UserLookup:
    # Dovecot 2.3's director looks up the empty name if no name is given
    return UserLookup(*map(_text, values[:2])) if values else UserLookup("")


def _user_move(values: Sequence[bytes]) -> UserMove:
    if len(values) < 2:
        raise ValueError("user or host is missing")
    return UserMove(_text(values[0]), _address(values[1]))


def _user_kick(values: Sequence[bytes]) -> UserKick:
    if not values:
        raise ValueError("the user is missing")
    return UserKick(_text(values[0]), wait=values[1:2] != [b"nowait"])


def _user_kick_alt(values: Sequence[bytes]) -> UserKickAlt:
    if len(values) < 2:
        raise ValueError("field or value is missing")
    return UserKickAlt(_text(values[0]), _text(values[1]), wait=values[2:3] != [b"nowait"])


def _one_host(command: Callable[[Address], Command]) -> Callable[[Sequence[bytes]], Command]:
    return lambda values: command(_address(values[0] if values else b""))


def _one_director(command: Callable[[Address, int | None], Command]) -> Callable[[Sequence[bytes]], Command]:
    def read(values: Sequence[bytes]) -> Command:
        address = _address(values[0] if values else b"")
        port = _number(values[1], PORT_MAX) if len(values) > 1 else None
        if port == 0:
            raise ValueError("0 is not a port")
        return command(address, port)

    return read


def _tagged(values: Sequence[bytes]) -> tuple[Address, str | None]:
    # An empty tag counts as not given, as in Dovecot 2.3's director: `doveadm director add HOST@` sends one.
    address, _, tag = (values[0] if values else b"").partition(b"@")
    return _address(address), _text(tag) or None


def _optional_address(values: Sequence[bytes]) -> Address | None:
    return _address(values[0]) if values and values[0] else None


def _address(value: bytes) -> Address:
    if not value:
        raise ValueError("the address is missing")
    text = value.decode("ascii", "replace")
    if text.startswith("[") and text.endswith("]") and ":" in text:
        text = text[1:-1]
    try:
        return canonical(text)
    except ValueError as exc:
        raise ValueError(f"{_shown(value)} is not an IP address") from exc


def _number(value: bytes, largest: int) -> int:
    if not value.isdigit() or len(value) > SHOWN or int(value) > largest:
        raise ValueError(f"{_shown(value)} is not a number from 0 to {largest}")
    return int(value)


def _text(value: bytes) -> str:
    """Return a value as text.

    A user name may contain any bytes; bytes that are not UTF-8 are kept as surrogates.
    """
    return value.decode("utf-8", "surrogateescape")


def _shown(value: bytes) -> str:
    text = repr(value.decode("utf-8", "backslashreplace"))
    return text if len(text) <= SHOWN else text[: SHOWN - 4] + "'..."


_READERS: dict[bytes, Callable[[Sequence[bytes]], Command]] = {
    b"HOST-LIST": lambda _: HostList(),
    b"HOST-LIST-REMOVED": lambda _: HostListRemoved(),
    b"HOST-SET": _host_set,
    b"HOST-UPDATE": _host_update,
    b"HOST-UP": _one_host(HostUp),
    b"HOST-DOWN": _one_host(HostDown),
    b"HOST-REMOVE": _one_host(HostRemove),
    b"HOST-FLUSH": lambda values: HostFlush(_optional_address(values)),
    b"HOST-RESET-USERS": _host_reset_users,
    b"USER-LOOKUP": _user_lookup,
    b"USER-LIST": lambda values: UserList(_optional_address(values)),
    b"USER-MOVE": _user_move,
    b"USER-KICK": _user_kick,
    b"USER-KICK-ALT": _user_kick_alt,
    b"DIRECTOR-LIST": lambda _: DirectorList(),
    b"DIRECTOR-ADD": _one_director(DirectorAdd),
    b"DIRECTOR-REMOVE": _one_director(DirectorRemove),
}
