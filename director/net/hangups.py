"""Detects peers that hang up while nothing is read from them.

A paused transport does not examine its socket, so it notices the end of the connection only when it reads
again. `epoll` reports the end without reading the bytes that wait.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from contextlib import suppress


class HangUps:
    """Watches the sockets of paused transports."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._reading = False
        self._watched: dict[int, tuple[asyncio.Transport, Callable[[], None]]] = {}
        self._descriptors: dict[asyncio.Transport, int] = {}

    def watch(self, transport: asyncio.Transport, ended: Callable[[], None]) -> None:
        """Call `ended` once, from the loop, when the peer has stopped sending."""
        if not self._reading:
            self._reading = True
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._ready)
        descriptor = transport.get_extra_info("socket").fileno()
        self._epoll.register(descriptor, select.EPOLLRDHUP)
        self._watched[descriptor] = transport, ended
        self._descriptors[transport] = descriptor

    def forget(self, transport: asyncio.Transport) -> None:
        """Stop watching a transport.

        Its descriptor may be closed already, and belong to another connection.
        """
        descriptor = self._descriptors.pop(transport, None)
        if descriptor is not None and self._watched[descriptor][0] is transport:
            del self._watched[descriptor]
            with suppress(OSError):
                self._epoll.unregister(descriptor)

    def close(self) -> None:
        """Stop watching all transports."""
        if self._reading:
            self._reading = False
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._watched.clear()
        self._descriptors.clear()

    def _ready(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            if descriptor in self._watched:
                transport, ended = self._watched[descriptor]
                self.forget(transport)
                ended()
