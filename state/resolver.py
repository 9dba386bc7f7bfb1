"""Looks names up. All of the director asks the system's resolver here, except the command line.

A look-up cannot be ended: where no name server answers, it takes as long as the system's resolver likes, 20 s
by default. The threads of an event loop are few and shared: look-ups that were given up and begun anew would
soon occupy all of them, and names that are answered would wait behind them.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Sequence

from state.threadcalls import ThreadCall

KEPT = 10.0
"""Seconds for which an answer that no task waited for is kept."""

Resolve = Callable[[str], Sequence[str]]
"""Returns the addresses of a name, at least one. Blocks. Raises OSError."""


def addresses_of(name: str) -> list[str]:
    """All addresses that the system's resolver knows for `name`, each once. Blocks. Raises OSError."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class Resolver:
    """Look-ups of any names, each in a thread of its own, but never two of one name at a time.

    The deadline is the caller's. A task that is cancelled while it waits leaves the look-up to the next task
    that asks for the name, even if the answer has come meanwhile.
    """

    def __init__(self, resolve: Resolve = addresses_of) -> None:
        self._resolve = resolve
        self._begun: dict[str, _Lookup] = {}
        """Look-ups whose answer no task has got yet."""

    def is_asking(self, name: str) -> bool:
        """Whether a look-up of this name has begun that no task has got the answer of."""
        return name in self._begun

    async def addresses(self, name: str) -> Sequence[str]:
        """The addresses of `name` now; an address is its own. Raises OSError if it has none."""
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
        lookup = self._begun[name] = _Lookup(name, self._resolve)
        # Not of a pool: the program waits for the threads of a pool when it ends.
        threading.Thread(target=lookup.call.run, name=f"look up {name}", daemon=True).start()
        return lookup


def _address(text: str) -> str | None:
    """The address that `text` is; None: it is a name."""
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
        except UnicodeError as exc:  # a label that is too long, for one
            raise OSError(f"{self._name}: {exc}") from exc

    def _note_end(self) -> None:
        self._ended_at = time.monotonic()
