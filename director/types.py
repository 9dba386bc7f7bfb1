"""Common types: plain integers and strings with a name, for readers and for mypy."""

from __future__ import annotations

from typing import NamedTuple, NewType

UserKey = NewType("UserKey", int)
"""64 bits. Upper 32: the user hash of Dovecot 2.3's director (never 0), which selects the host. Lower 32: the
next four bytes of the same MD5, XOR the first four of MD5(tag) unless the tag is empty: docs/ring.md,
rule 1."""

HostId = NewType("HostId", int)
"""First 4 bytes, big endian, of MD5(backend address as text); never 0."""

Address = NewType("Address", str)
"""An IP address in canonical text form (IPv4 dotted, IPv6 shortest lower case)."""

MemberId = NewType("MemberId", str)
"""A director of the ring, as `address:port` (`[address]:port` for IPv6)."""

Stamp = NewType("Stamp", int)
"""Time of a decision: Unix seconds, but always greater than the stamp of the decision that it replaces.

0: the decision comes from the configuration."""

LinkId = NewType("LinkId", int)
"""One TCP connection of the ring, numbered by the process that owns the socket."""

RequestId = NewType("RequestId", int)
"""A login that waits for an answer."""


class Now(NamedTuple):
    """The time of an event, read once by the driver."""

    mono: float
    """Monotonic seconds: for deadlines."""
    unix: float
    """Unix seconds: for records and stamps."""
