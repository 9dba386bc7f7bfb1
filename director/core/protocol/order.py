"""The order of the ring: directors by address, then by port.

Right is upwards, and the first follows the last.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

from director.types import Address, MemberId


@lru_cache(maxsize=1024)
def split_member(member: MemberId) -> tuple[Address, int]:
    """Return address and port of `10.0.0.1:9090` or `[2001:db8::1]:9090`.

    Raises ValueError for anything else.
    """
    text, colon, port = member.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError(f"{member!r} is not ADDRESS:PORT")
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    return Address(str(ipaddress.ip_address(text))), int(port)


def join_member(address: str, port: int) -> MemberId:
    """Return `address:port`, with brackets around an IPv6 address."""
    return MemberId(f"[{address}]:{port}" if ":" in address else f"{address}:{port}")


@lru_cache(maxsize=1024)
def member_order(member: MemberId) -> tuple[int, bytes, int]:
    """Return the sort key of a director: IPv4 before IPv6, then by the address bytes, then by the port, as in
    Dovecot 2.3's director."""
    address, port = split_member(member)
    parsed = ipaddress.ip_address(address)
    return parsed.version, parsed.packed, port


def rightwards(me: MemberId, members: Iterable[MemberId]) -> list[MemberId]:
    """Return all other directors in the order in which they follow to the right of `me`."""
    mine = member_order(me)
    others = sorted((m for m in members if m != me), key=member_order)
    after = [m for m in others if member_order(m) > mine]
    return after + [m for m in others if member_order(m) < mine]
