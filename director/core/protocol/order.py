"""The order of the ring: members by address, then port; right is upwards, wrapping."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

from director.types import Address, MemberId


@lru_cache(maxsize=1024)
def split_member(member: MemberId) -> tuple[Address, int]:
    """Address and port of `10.0.0.1:9090` or `[2001:db8::1]:9090`. Raises ValueError for anything else."""
    text, colon, port = member.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError(f"{member!r} is not ADDRESS:PORT")
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    return Address(str(ipaddress.ip_address(text))), int(port)


def join_member(address: str, port: int) -> MemberId:
    """`address:port`, with the brackets an IPv6 address needs."""
    return MemberId(f"[{address}]:{port}" if ":" in address else f"{address}:{port}")


@lru_cache(maxsize=1024)
def member_order(member: MemberId) -> tuple[int, bytes, int]:
    """Sort key: IPv4 before IPv6, then the address bytes, then the port (as in Dovecot 2.3's director)."""
    address, port = split_member(member)
    parsed = ipaddress.ip_address(address)
    return parsed.version, parsed.packed, port


def rightwards(me: MemberId, members: Iterable[MemberId]) -> list[MemberId]:
    """All others in the order in which they are met going right from `me`."""
    mine = member_order(me)
    others = sorted((m for m in members if m != me), key=member_order)
    after = [m for m in others if member_order(m) > mine]
    return after + [m for m in others if member_order(m) < mine]
