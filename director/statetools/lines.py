"""The lines of an export: JSON Lines, an object a line, whose `type` is its kind (docs/state-tools.md).

The first line is the header. The last line has the counts of the others, so that a truncated file is noticed.
Times are Unix seconds. Readers ignore keys they do not know; `FORMAT` is raised if that would be wrong.
"""

from __future__ import annotations

from typing import Final

import msgspec

from director.core.checks import wrong_members, wrong_rows
from director.core.placement.addresses import host_id
from director.core.placement.users import BY_HAND, MOVING, ONE_LOGIN, PINNED, User
from director.core.protocol.messages import HostRow, MemberRow
from director.core.protocol.stamps import Bound, clipped_host, clipped_member
from director.types import HostId, Stamp, UserKey

FORMAT: Final = 1
FLAGS: Final = {"moving": MOVING, "by_hand": BY_HAND, "pinned": PINNED, "one_login": ONE_LOGIN}
NAME_LIMIT: Final = 0xFFFF
"""Bytes of a user name that a store can hold."""


class Header(msgspec.Struct, frozen=True, kw_only=True, tag="header"):
    format: int
    exported: str
    """The time in UTC, such as `2026-11-25T21:00:00Z`."""
    store: str
    """URL of the store, without secrets."""
    server: str
    schema: int
    director: str
    """Version of the program that wrote it."""


class HostLine(msgspec.Struct, frozen=True, kw_only=True, tag="host"):
    """A row of the hosts' document. Each value has the time of its decision; 0: from the configuration."""

    address: str
    hostname: str
    present: bool
    present_at: int
    tag: str
    tag_at: int
    weight: int
    weight_at: int
    up: bool
    up_at: int
    moved: str = ""


class MemberLine(msgspec.Struct, frozen=True, kw_only=True, tag="member"):
    """A director that was added or removed at run time."""

    member: str
    present: bool
    at: int
    name: str = ""


class DocumentLine(msgspec.Struct, frozen=True, kw_only=True, tag="document"):
    """Another document; `data` is base64."""

    name: str
    data: bytes


class UserLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="user"):
    key: str
    """16 hex digits."""
    hash: int
    """The hash of Dovecot 2.3's director: the upper half of the key."""
    host: str | None = None
    """Address, if the hosts' document has it."""
    host_id: int
    """0: no host, because an operator removed the assignment."""
    tag: str | None = None
    """None: the name is not known, or does not give the key with any tag."""
    decided: int
    seen: int
    flags: list[str] = []
    name: str | None = None
    name_base64: bytes | None = None
    """A name that is not UTF-8."""


class NameLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="name"):
    """A name whose user has no record."""

    key: str
    name: str | None = None
    name_base64: bytes | None = None


class End(msgspec.Struct, frozen=True, kw_only=True, tag="end"):
    """Numbers of lines by kind. `names` counts names of users with a record and without."""

    hosts: int = 0
    members: int = 0
    documents: int = 0
    users: int = 0
    names: int = 0


Line = Header | HostLine | MemberLine | DocumentLine | UserLine | NameLine | End

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def encode(line: Line) -> bytes:
    return _encoder.encode(line) + b"\n"


def decode(text: bytes) -> Line:
    """Return the line of an export that this text represents.

    Raises:
        ValueError: it is not a line of an export; the message says why.
    """
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ValueError(f"not a line of an export: {exc}") from exc


def host_row(line: HostLine, bound: Bound) -> HostRow:
    """The row of a line, with its times within `bound`.

    Raises:
        ValueError: the line cannot be right.
    """
    row = clipped_host(HostRow(*(getattr(line, field) for field in HostRow.__struct_fields__)), bound, None)
    _refuse(wrong_rows([row]))
    return row


def host_line(row: HostRow) -> HostLine:
    return HostLine(**msgspec.structs.asdict(row))


def member_row(line: MemberLine, bound: Bound) -> MemberRow:
    """Return the row of the director that a line describes. A time later than `bound` is replaced.

    Raises:
        ValueError: the line cannot be right.
    """
    row = clipped_member(MemberRow(line.member, line.present, line.at, line.name), bound, None)
    _refuse(wrong_members([row]))
    return row


def member_line(row: MemberRow) -> MemberLine:
    return MemberLine(**msgspec.structs.asdict(row))


def user_record(line: UserLine, bound: Bound) -> User:
    """The record of a line, with its times within `bound`.

    Raises:
        ValueError: the line cannot be right.
    """
    key = key_of(line.key)
    if line.hash != key >> 32:
        raise ValueError(f"hash {line.hash} is not that of key {line.key}, which is {key >> 32}")
    if line.host is not None and host_id(line.host) != line.host_id:
        raise ValueError(f"host_id {line.host_id} is not that of host {line.host}, {host_id(line.host)}")
    if not 0 <= line.host_id <= 0xFFFFFFFF:
        raise ValueError(f"host_id {line.host_id} is not in 0..4294967295")
    if line.decided < 0 or line.seen < 0:
        raise ValueError(f"decided {line.decided}, seen {line.seen}: a time must not be below 0")
    decided = bound.latest if line.decided > bound.decided else line.decided
    seen = bound.latest if line.seen > bound.seen else line.seen
    flags = 0
    for flag in line.flags:
        if flag not in FLAGS:
            raise ValueError(f"flag {flag!r} is not one of {', '.join(FLAGS)}")
        flags |= FLAGS[flag]
    return User(key, HostId(line.host_id), Stamp(decided), seen, flags)


def is_ahead(line: HostLine | MemberLine | UserLine, bound: Bound) -> bool:
    """Whether a time of a line is later than `bound`."""
    match line:
        case HostLine():
            return max(line.present_at, line.tag_at, line.weight_at, line.up_at) > bound.decided
        case MemberLine():
            return line.at > bound.decided
        case UserLine():
            return line.decided > bound.decided or line.seen > bound.seen


def key_of(text: str) -> UserKey:
    """Return the key that this text represents.

    Raises:
        ValueError: it is not 16 hex digits, or the first eight are all 0.
    """
    try:
        key = int.from_bytes(bytes.fromhex(text))
    except ValueError:
        key = 0
    if len(text) != 16 or not key >> 32:
        raise ValueError(f"key {text!r} is not 16 hex digits that begin with a hash, which is never 0")
    return UserKey(key)


def name_in(line: UserLine | NameLine) -> bytes | None:
    """The name as bytes, or None.

    Raises:
        ValueError: the name is empty, or too long for a store.
    """
    name = line.name_base64 if line.name is None else line.name.encode()
    if name is not None and not 0 < len(name) <= NAME_LIMIT:
        raise ValueError(f"a name of {len(name)} bytes; 1 to {NAME_LIMIT} are possible")
    return name


def written_name(name: bytes | None) -> tuple[str | None, bytes | None]:
    """The values of `name` and `name_base64`; at most one is not None."""
    if name is None:
        return None, None
    try:
        return name.decode(), None
    except UnicodeDecodeError:
        return None, name


def flag_names(flags: int) -> list[str]:
    return [name for name, bit in FLAGS.items() if flags & bit]


def _refuse(problem: str | None) -> None:
    if problem is not None:
        raise ValueError(problem)
