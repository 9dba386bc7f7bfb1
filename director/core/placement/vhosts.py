"""The consistent-hash circle of one tag: which host a user hash belongs to."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable

from director.core.placement.addresses import address_order
from director.types import Address


class Circle:
    """`weight` points for each host; a hash belongs to the first point at or after it.

    Behind the last point the first one follows.
    """

    def __init__(self, hosts: Iterable[tuple[Address, int]]) -> None:
        """hosts: (canonical address, weight) of the hosts that are up and carry the tag."""
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
        """The owner of the first point >= `hash32`, of equal points the lowest address. None: no host."""
        if not self._points:
            return None
        # 2.3 may hit either of two equal points; the lowest address is the same answer on every director
        return self._owners[bisect_left(self._points, hash32) % len(self._points)]


def point(address: str, number: int) -> int:
    """Where the `number`-th point (from 0) of a host lies."""
    text = f"{address}-{number}".encode()
    return int.from_bytes(hashlib.md5(text, usedforsecurity=False).digest()[:4])
