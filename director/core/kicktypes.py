"""What sessions a kick ends. These values also travel in ring messages: tags and order of fields stay."""

from __future__ import annotations

import msgspec

from director.types import Address


class HashOnHosts(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The sessions of the users with this 32-bit hash to these backends."""

    hash32: int
    hosts: list[str]


class ByName(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The sessions of this user name, exactly as the session has it."""

    name: bytes


class ByField(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The sessions whose alternative user field has this value."""

    field: str
    value: bytes


class OnHost(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """All sessions to this backend."""

    host: str


class Fence(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """None: it is over when the kicks begun before it are."""


KickWhat = HashOnHosts | ByName | ByField | OnHost | Fence


class ProxiedSession(msgspec.Struct, frozen=True):
    """A session that a login process of this machine proxies."""

    name: bytes
    host: Address
    hash32: int | None = None
    """What the director had said the user's hash is; None: the session does not tell."""
