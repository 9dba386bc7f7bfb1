"""Kicks: which sessions of the login processes of a machine are to be ended; and the sessions themselves.

`KickWhat` is also part of ring messages: a tag is never used again for something else, new fields go last and
have a default.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

MOST_HOSTS = 10_000
"""Hosts that a kick can name at most."""
MOST_COUNTED = 0xFFFFFFFF
"""Most sessions that a token can count."""


class HashOnHosts(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """The sessions of all users with this 32-bit hash on these hosts (addresses).

    Sessions on other hosts continue.
    """

    hash32: int
    hosts: Annotated[list[str], msgspec.Meta(max_length=MOST_HOSTS)]


class ByName(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The sessions of the user with exactly this name."""

    name: bytes


class ByField(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The sessions whose passdb field (its name begins with `user_`) has exactly this value."""

    field: str
    value: bytes


class OnHost(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """All sessions on this host (an address)."""

    host: str


class Fence(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """No session. It stands for all kicks that were asked for before it."""


KickWhat = HashOnHosts | ByName | ByField | OnHost | Fence


def parts(what: KickWhat, most: int) -> Iterator[KickWhat]:
    """Split a kick into kicks that end the same sessions, each on at most `most` hosts."""
    if not isinstance(what, HashOnHosts) or len(what.hosts) <= most:
        yield what
        return
    for start in range(0, len(what.hosts), most):
        yield HashOnHosts(what.hash32, what.hosts[start : start + most])


class ProxiedSession(msgspec.Struct, frozen=True, gc=False):
    """A session of a login process of this machine. It may still be connecting to its host."""

    name: bytes
    host: str
    """The address of its backend."""
    hash32: int | None
    """The user's hash, as the director that assigned the user gave it; None: no director did."""
