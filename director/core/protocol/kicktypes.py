"""What is to be ended, and what is there to end: sessions that the login processes of a machine proxy.

`KickWhat` also travels in messages of the ring: tags are never used again for something else, new fields go
last and have a default.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

MOST_HOSTS = 10_000
"""Hosts that one kick can name."""
MOST_COUNTED = 0xFFFFFFFF
"""Sessions that a token of the ring can count."""


class HashOnHosts(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """The sessions of all users with this 32-bit hash on these hosts (addresses); those on others live on."""

    hash32: int
    hosts: Annotated[list[str], msgspec.Meta(max_length=MOST_HOSTS)]


class ByName(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The sessions of the user who is called exactly so."""

    name: bytes


class ByField(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The sessions whose passdb field `user_…` (its whole name) has exactly this value."""

    field: str
    value: bytes


class OnHost(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """All sessions on this host (an address)."""

    host: str


class Fence(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """No session: it stands for the kicks asked for before it."""


KickWhat = HashOnHosts | ByName | ByField | OnHost | Fence


def parts(what: KickWhat, most: int) -> Iterator[KickWhat]:
    """Kicks that end the same sessions, each on so many hosts at most."""
    if not isinstance(what, HashOnHosts) or len(what.hosts) <= most:
        yield what
        return
    for start in range(0, len(what.hosts), most):
        yield HashOnHosts(what.hash32, what.hosts[start : start + most])


class ProxiedSession(msgspec.Struct, frozen=True, gc=False):
    """A session that a login process of this machine proxies, or is just connecting to its host."""

    name: bytes
    host: str
    """The address of the backend it goes to."""
    hash32: int | None
    """Its user's hash, as the director who sent him there knew it; None: no director did."""
