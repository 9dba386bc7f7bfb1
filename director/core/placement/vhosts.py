"""The consistent-hash circle of one tag: it says which host a user hash belongs to."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable

from director.core.placement.addresses import address_order
from director.types import Address


class Circle:
    """A circle with `weight` points for each host. A hash belongs to the first point at or after it.

    The first point follows the last.
    """

    def __init__(self, hosts: Iterable[tuple[Address, int]]) -> None:
        """Make the circle.

        Args:
            hosts: canonical address and weight of each host that is up and has the tag.
        """
        points = []
        for address, weight in hosts:
            order = address_order(address)
            points += [(point(address, number), order, address) for number in range(weight)]
        points.sort()
        self._points = [value for value, _, _ in points]
        self._owners = [address for _, _, address in points]

    def __len__(self) -> int:
        return len(self._points)

    def host(self, hash32: int) -> Address | None:
        """Return the host of the first point at or after `hash32`; of equal points the lowest address; None:
        no host."""
        if not self._points:
            return None
        # Dovecot 2.3 may take either of two equal points. The lowest address is the same answer on every
        # director.
        return self._owners[bisect_left(self._points, hash32) % len(self._points)]


def point(address: str, number: int) -> int:
    """Return the position of the `number`-th point (from 0) of a host."""
    text = f"{address}-{number}".encode()
    return int.from_bytes(hashlib.md5(text, usedforsecurity=False).digest()[:4])
