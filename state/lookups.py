"""Looks names up, so that one whose name server is silent keeps nobody waiting but those who want it.

A look-up cannot be ended: where the name of a stopped machine is answered by nobody, it takes as long as the
system's resolver likes, 20 s by default. Those of an event loop share a few threads; given up and begun anew
with each try, they would soon be in all of them, and names that are answered would wait behind them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

Resolve = Callable[[str], object]
"""Raises OSError where the name has no address."""


def has_address(host: str) -> None:
    """Return if it has one now, or is one. Raises OSError."""
    socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)


class NameLookups:
    """Look-ups of any names, each in a thread of its own, but never two of one name at a time."""

    def __init__(self, resolve: Resolve = has_address) -> None:
        self._resolve = resolve
        self._under_way: dict[str, asyncio.Future[None]] = {}

    async def resolved(self, host: str) -> None:
        """Return once it has an address. Raises OSError if it has none.

        Whoever is cancelled while he waits leaves the look-up to the next one who asks.
        """
        if host not in self._under_way:
            self._begin(host)
        await asyncio.shield(self._under_way[host])

    def _begin(self, host: str) -> None:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[None] = loop.create_future()
        self._under_way[host] = answer

        def end(failure: OSError | None) -> None:
            del self._under_way[host]
            if failure is None:
                answer.set_result(None)
            else:
                answer.set_exception(failure)
                answer.exception()  # perhaps nobody waits any more

        def resolve() -> None:
            failure: OSError | None = None
            try:
                self._resolve(host)
            except (OSError, UnicodeError) as exc:  # a label that is too long, for one
                failure = exc if isinstance(exc, OSError) else OSError(f"{host}: {exc}")
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(end, failure)

        # not of a pool: its threads are waited for when the program ends
        threading.Thread(target=resolve, name=f"look up {host}", daemon=True).start()
