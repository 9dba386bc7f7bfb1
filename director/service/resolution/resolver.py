"""Names, looked up anew again and again while the director runs.

Threads ask, so that nobody on the loop waits for a name server. A name that hangs keeps its thread; the
others are told without it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

import anyio

from director.core.placement.addresses import canonical
from director.service.configuration.servers import Resolve, addresses_of, one_machine
from director.types import Address

EVERY = 5.0
"""Seconds between two looks."""
AT_MOST_EVERY = 1.0
"""The same where `soon` was called."""
TIMEOUT = 2.0
"""Seconds that are waited for the slowest name."""
THREADS = 8
"""Names that are asked for at a time."""

Answer = tuple[Address, ...] | str
"""What a name stands for, at least one address; or why that is not known."""


def answer_of(name: str, resolve: Resolve) -> Answer:
    """Ask once. Blocks."""
    try:
        found = resolve(name)
        return tuple(dict.fromkeys(one_machine(canonical(one)) for one in found)) or "it has no address"
    except (
        OSError,
        ValueError,
    ) as exc:  # a name that cannot be encoded is a UnicodeError, which is a ValueError
        return getattr(exc, "strerror", None) or str(exc)


class Resolver:
    """Asks for all names now and then, and tells what came of it."""

    def __init__(
        self,
        names: Callable[[], Iterable[str]],
        answered: Callable[[Mapping[str, Answer]], None],
        resolve: Resolve = addresses_of,
    ) -> None:
        """names: whose addresses are wanted now. answered: is given an answer for each of them."""
        self._names, self._answered, self._resolve = names, answered, resolve
        self._out: set[str] = set()
        """Names a thread is asking for, perhaps since an earlier look."""
        self._came: dict[str, Answer] = {}
        self._all_came = asyncio.Event()
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        """Look now and then until cancelled."""
        while True:
            await anyio.sleep(AT_MOST_EVERY)
            with anyio.move_on_after(EVERY - AT_MOST_EVERY):
                await self._wanted.wait()
            self._wanted.clear()
            await self.resolve_all()

    def soon(self) -> None:
        """Something has been seen that the names may explain."""
        self._wanted.set()

    async def resolve_all(self) -> None:
        """Ask for every name once. A name that is still being asked for is not asked for again."""
        names = list(dict.fromkeys(self._names()))
        if not names:
            return
        self._ask([name for name in names if name not in self._out and name not in self._came])
        with anyio.move_on_after(TIMEOUT):
            while not self._out.isdisjoint(names):
                self._all_came.clear()
                await self._all_came.wait()
        came, self._came = self._came, {}
        late = f"no answer within {TIMEOUT:.0f} s"
        self._answered({name: came.get(name, late) for name in names})

    def _ask(self, names: Sequence[str]) -> None:
        queue: SimpleQueue[str] = SimpleQueue()
        for name in names:
            queue.put(name)
        self._out.update(names)
        loop = asyncio.get_running_loop()
        for _ in range(min(THREADS, len(names))):
            # Threads of our own: anyio's would keep the process from ending until the resolver gives up.
            threading.Thread(target=self._work, args=(queue, loop), name="resolving", daemon=True).start()

    def _work(self, queue: SimpleQueue[str], loop: asyncio.AbstractEventLoop) -> None:
        """In a thread."""
        with suppress(Empty, RuntimeError):  # nothing left; the loop is closed
            while True:
                name = queue.get_nowait()
                loop.call_soon_threadsafe(self._take, name, answer_of(name, self._resolve))

    def _take(self, name: str, answer: Answer) -> None:
        self._out.discard(name)
        self._came[name] = answer
        self._all_came.set()
