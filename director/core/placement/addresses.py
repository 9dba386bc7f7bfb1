"""Backend addresses: their canonical form, their order, and the ids that records hold instead of them."""

from __future__ import annotations

import hashlib
import ipaddress
from functools import lru_cache

from director.types import Address, HostId


def canonical(address: str) -> Address:
    """Return the address in the one form that is compared and hashed, as the C library's inet_ntop prints it.

    Raises:
        ValueError: it is not a plain IPv4 or IPv6 address (a name, a zone, a port).
    """
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    try:
        ip = ipaddress.IPv6Address(address) if ":" in address else ipaddress.IPv4Address(address)
    except ValueError:
        # raises an error that names the problem, whichever kind of address was meant
        ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return Address(str(ip))
    if ip.scope_id is not None:
        raise ValueError(f"{address!r}: an address with a zone cannot be used; remove %{ip.scope_id}")
    packed = ip.packed
    if packed[:12] == bytes(10) + b"\xff\xff":
        return Address(f"::ffff:{ipaddress.IPv4Address(packed[12:])}")
    if packed[:12] == bytes(12) and packed[12:14] != bytes(2):
        return Address(f"::{ipaddress.IPv4Address(packed[12:])}")
    return Address(str(ip))


@lru_cache(maxsize=16_384)
def address_order(address: str) -> tuple[int, bytes]:
    """Return the sort key of an address: IPv4 before IPv6, then by its bytes.

    The result is cached, because every change of the host table sorts the whole table.
    """
    packed = ipaddress.ip_address(address).packed
    return len(packed), packed


@lru_cache(maxsize=16_384)
def host_id(address: str) -> HostId:
    """Return the number that stands for a canonical address in records; never 0."""
    return HostId(int.from_bytes(hashlib.md5(address.encode(), usedforsecurity=False).digest()[:4]) or 1)


def elf(data: bytes) -> int:
    """Return the 32-bit hash of ELF symbol tables. Dovecot 2.3 uses it for the modifier %H."""
    value = 0
    for byte in data:
        value = (value << 4) + byte & 0xFFFFFFFF
        high = value & 0xF0000000
        value ^= high >> 24 ^ high
    return value
