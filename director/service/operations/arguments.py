"""What operators write: addresses, hosts, and users by name or hash."""

from __future__ import annotations

from director.core.placement.addresses import canonical
from director.core.protocol.messages import HostRow
from director.core.tables.hosts import HostTable
from director.errors import BadRequest, UnknownName
from director.types import Address

LARGEST_HASH = 0xFFFFFFFF
HASH_DIGITS = len(str(LARGEST_HASH))


def name_bytes(name: str) -> bytes:
    """A user name may be any bytes; what is no UTF-8 has come through as surrogates."""
    return name.encode("utf-8", "surrogateescape")


def is_hash(user: str) -> bool:
    """Whether a user is given by the hash, where the operator does not say that it is a name."""
    return user.isascii() and user.isdigit() and len(user) <= HASH_DIGITS and int(user) <= LARGEST_HASH


def is_ip(text: str) -> bool:
    try:
        canonical(text)
    except ValueError:
        return False
    return True


def as_address(text: str) -> Address:
    """An address as all directors write it. Raises BadRequest where it is none."""
    try:
        return canonical(text)
    except ValueError as exc:
        raise BadRequest(f"{text!r} is not an IP address") from exc


def known_host(hosts: HostTable, host: str) -> HostRow:
    """The row of a host that is present. Raises UnknownName."""
    row = hosts.get(as_address(host))
    if row is None:
        raise UnknownName(f"{host}: no such backend host")
    return row
