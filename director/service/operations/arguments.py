"""Arguments of operators' commands: addresses, hosts, and users by name or hash."""

from __future__ import annotations

from director.core.placement.addresses import canonical
from director.core.protocol.messages import HostRow
from director.core.tables.hosts import HostTable
from director.errors import BadRequest, UnknownName
from director.types import Address

LARGEST_HASH = 0xFFFFFFFF
HASH_DIGITS = len(str(LARGEST_HASH))


def name_bytes(name: str) -> bytes:
    """Return the bytes of a user name. Bytes that are not UTF-8 have been decoded to surrogates."""
    return name.encode("utf-8", "surrogateescape")


def is_hash(user: str) -> bool:
    """Return whether `user` has the form of a hash. A command may still say that it is a name."""
    return user.isascii() and user.isdigit() and len(user) <= HASH_DIGITS and int(user) <= LARGEST_HASH


def is_ip(text: str) -> bool:
    try:
        canonical(text)
    except ValueError:
        return False
    return True


def as_address(text: str) -> Address:
    """Return the address in the form that all directors use. Raises BadRequest if `text` is not one."""
    try:
        return canonical(text)
    except ValueError as exc:
        raise BadRequest(f"{text!r} is not an IP address") from exc


def known_host(hosts: HostTable, host: str) -> HostRow:
    """Return the row of a host in the table. Raises UnknownName if it is not there or was removed."""
    row = hosts.get(as_address(host))
    if row is None:
        raise UnknownName(f"{host}: no such backend host")
    return row
