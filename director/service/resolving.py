"""The names among `ring.servers`, looked up anew while the director runs."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import anyio

from director.service.log import Log
from director.service.servers import Endpoint, Resolve, addresses_of, read_director
from director.types import MemberId

EVERY = 30.0
"""Seconds between two looks."""
TIMEOUT = 10.0
"""Seconds all names together may take to be resolved."""

Members = tuple[MemberId, ...]


class Resolving:
    """Tells when other addresses stand behind the names of `ring.servers`.

    A name that cannot be resolved, or has an address that cannot be right, keeps its last one. The own entry
    of the director is never looked up again: its address is in use.
    """

    def __init__(
        self,
        servers: Sequence[Endpoint],
        names: Sequence[tuple[str, Endpoint]],
        me: Endpoint,
        changed: Callable[[Members], None],
        log: Log,
        resolve: Resolve = addresses_of,
    ) -> None:
        """servers, names: as in `RingConfig`. changed: is given all members, whenever they are others."""
        self._now = {endpoint: endpoint for endpoint in servers}
        """Who each entry meant at the start -> whom it means now."""
        self._names = {name: endpoint for name, endpoint in names if endpoint != me}
        self._changed, self._log, self._resolve = changed, log, resolve
        self._unresolved: set[str] = set()
        self._out = False
        """A thread asks, perhaps one that was given up."""

    @property
    def needed(self) -> bool:
        """Whether there is any name to look up."""
        return bool(self._names)

    @property
    def members(self) -> Members:
        return tuple(endpoint.member for endpoint in self._now.values())

    async def run(self) -> None:
        """Look now and then until cancelled; return at once where there are only addresses."""
        while self.needed:
            await anyio.sleep(EVERY)
            await self.look()

    async def look(self) -> None:
        """Resolve every name once. While an earlier attempt still hangs, no other is made."""
        if not self._out:
            self._take(await self._ask())

    async def _ask(self) -> dict[str, Endpoint | str]:
        """Name -> whom it means, or why that is not known."""
        answers: dict[str, Endpoint | str] = {}
        done = asyncio.Event()
        self._out = True
        # A thread of our own: anyio's would keep the process from ending until the resolver gives up.
        arguments = (list(self._names), answers, asyncio.get_running_loop(), done)
        threading.Thread(target=self._work, args=arguments, name="resolving", daemon=True).start()
        with anyio.move_on_after(TIMEOUT):
            await done.wait()
        late = f"no answer within {TIMEOUT:.0f} s"
        return {name: answers.get(name, late) for name in self._names}

    def _work(
        self,
        names: Sequence[str],
        answers: dict[str, Endpoint | str],
        loop: asyncio.AbstractEventLoop,
        done: asyncio.Event,
    ) -> None:
        """In the thread."""
        try:
            for name in names:
                try:
                    answers[name] = read_director(name, self._resolve)
                except ValueError as exc:
                    answers[name] = str(exc)
        finally:
            self._out = False
            with suppress(RuntimeError):  # given up long ago, and the loop is closed
                loop.call_soon_threadsafe(done.set)

    def _take(self, answers: Mapping[str, Endpoint | str]) -> None:
        before, now = self.members, dict(self._now)
        problems: dict[str, str] = {}
        for name, answer in answers.items():
            if isinstance(answer, str):
                problems[name] = answer
            elif (":" in answer.address) != (":" in self._names[name].address):
                problems[name] = f"{answer.address} is of another address family than before"
            else:
                now[self._names[name]] = answer
        self._drop_clashes(now, problems)
        self._now = now
        self._tell(problems)
        if set(self.members) != set(before):
            self._log.info("ring_names_changed", members=" ".join(self.members))
            self._changed(self.members)

    def _drop_clashes(self, now: dict[Endpoint, Endpoint], problems: dict[str, str]) -> None:
        """Two entries cannot be one director: whoever has got there by this look goes back."""
        while True:
            count = Counter(now.values())
            clashes = [
                (name, entry)
                for name, entry in self._names.items()
                if count[now[entry]] > 1 and now[entry] != self._now[entry]
            ]
            if not clashes:
                return
            for name, entry in clashes:
                problems[name] = f"{now[entry]} is another entry's address too"
                now[entry] = self._now[entry]

    def _tell(self, problems: Mapping[str, str]) -> None:
        """Once when it begins, once when it is over."""
        for name, entry in self._names.items():
            if name in problems and name not in self._unresolved:
                note = f"it stays {self._now[entry]}"
                self._log.warning("name_unresolved", name=name, reason=problems[name], note=note)
            elif name not in problems and name in self._unresolved:
                self._log.info("name_resolved", name=name, member=self._now[entry].member)
        self._unresolved = set(problems)
