"""Looks up host names.

All look-ups of the director in the system's resolver are here; the command line makes its own.

A look-up cannot be ended. If no name server answers, it takes as long as the system's resolver waits, 20 s by
default. The threads of an event loop are few and shared. Look-ups that were given up and started again would
soon occupy all of them, and look-ups that can be answered would wait.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Sequence

from state.threadcalls import ThreadCall

KEPT = 10.0
"""Seconds for which an answer is kept if no task waited for it."""

Resolve = Callable[[str], Sequence[str]]
"""Returns the addresses of a name, at least one. Blocks. Raises OSError."""


def addresses_of(name: str) -> list[str]:
    """Return all addresses that the system's resolver knows for `name`, each once. Blocks. Raises OSError."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class Resolver:
    """Look-ups of any names, each in its own thread, but never two look-ups of a name at the same time.

    The deadline is the caller's. If a task is cancelled while it waits, the next task that asks for the name
    takes over the look-up, even if it has ended meanwhile.
    """

    def __init__(self, resolve: Resolve = addresses_of) -> None:
        self._resolve = resolve
        self._begun: dict[str, _Lookup] = {}
        """Look-ups whose answer no task has received yet."""

    def is_asking(self, name: str) -> bool:
        """Whether a look-up of this name was started whose answer no task has received yet."""
        return name in self._begun

    async def addresses(self, name: str) -> Sequence[str]:
        """Return the present addresses of `name`.

        If `name` is an address, that address is returned. Raises OSError if there is none.
        """
        if (address := _address(name)) is not None:
            return [address]
        lookup = self._begun.get(name)
        if lookup is None or lookup.too_old:
            lookup = self._begin(name)
        try:
            return await lookup.call.result()
        finally:
            if lookup.call.ended and self._begun.get(name) is lookup:
                del self._begun[name]

    def _begin(self, name: str) -> _Lookup:
        self._begun = {name: lookup for name, lookup in self._begun.items() if not lookup.too_old}
        lookup = _Lookup(name, self._resolve)
        # Not a thread of a pool: when the program ends it waits for the threads of a pool.
        thread = threading.Thread(target=lookup.call.run, name=f"look up {name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:  # the system has no thread left: the next call tries again
            raise OSError(f"{name}: {exc}") from exc
        self._begun[name] = lookup
        return lookup


def _address(text: str) -> str | None:
    """Return `text` as an address; None: it is a name."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


class _Lookup:
    def __init__(self, name: str, resolve: Resolve) -> None:
        self._name, self._resolve = name, resolve
        self._ended_at = float("inf")
        self.call = ThreadCall(self._look_up, self._note_end)

    @property
    def too_old(self) -> bool:
        return time.monotonic() > self._ended_at + KEPT

    def _look_up(self) -> Sequence[str]:
        try:
            return self._resolve(self._name)
        except UnicodeError as exc:  # for example, a label is too long
            raise OSError(f"{self._name}: {exc}") from exc

    def _note_end(self) -> None:
        self._ended_at = time.monotonic()
