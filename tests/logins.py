"""Login processes that log in at a steady rate and record the result of each login.

They share one asyncio loop, which makes thousands of logins a second.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

TICK = 0.001
"""Seconds between two checks for due logins."""
CONNECT_AGAIN = 0.01
"""Seconds until a login process that lost its director retries."""


@dataclass(slots=True)
class Login:
    """A login. Times are monotonic seconds."""

    user: str
    at: str
    began: float
    ended: float | None = None
    host: str = ""
    """The host; empty: the login was refused or lost."""
    lost: bool = False
    """Whether the connection ended before the answer."""

    @property
    def failed(self) -> bool:
        return self.ended is not None and not self.host

    def seconds(self, now: float) -> float:
        """Return how long it took, or has taken until now."""
        return (self.ended or now) - self.began


class LoginProcess(asyncio.Protocol):
    """A connection to a login socket. It is made again whenever it ends."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.ready = False
        self.waiting: dict[int, Login] = {}
        self._numbers = itertools.count(1)
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self._ended = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    await loop.create_unix_connection(lambda: self, str(self.path))
                except OSError:
                    await asyncio.sleep(CONNECT_AGAIN)
                else:
                    await self._ended.wait()
        finally:
            if self._transport is not None:
                self._transport.abort()

    def log_in(self, user: str) -> Login:
        """Send a request now. Only while `ready`."""
        assert self._transport is not None
        number, login = next(self._numbers), Login(user, self.name, time.monotonic())
        self.waiting[number] = login
        resp = base64.b64encode(b"\0" + user.encode() + b"\0secret")
        self._transport.write(b"AUTH\t%d\tPLAIN\tservice=imap\tresp=%s\n" % (number, resp))
        return login

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ended.clear()
        self._rest = b""
        self._transport.write(b"VERSION\t1\t2\nCPID\t77\n")

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        now = time.monotonic()
        for line in lines:
            reply, *fields = line.split(b"\t")
            if reply in (b"OK", b"FAIL"):
                login = self.waiting.pop(int(fields[0]))
                login.ended = now
                hosts = [field[5:] for field in fields if field.startswith(b"host=")]
                login.host = hosts[0].decode() if reply == b"OK" and hosts else ""
            elif reply == b"DONE":
                self.ready = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.ready, self._transport = False, None
        waiting, self.waiting = self.waiting, {}
        for login in waiting.values():
            login.ended, login.lost = time.monotonic(), True
        self._ended.set()


class Logins:
    """Logins at all reachable directors in turn. They run while the block of the context manager runs."""

    def __init__(
        self,
        sockets: Mapping[str, Path],
        rate: float,
        user: Callable[[int], str],
        *,
        connections: int = 1,
    ) -> None:
        """Prepare the logins.

        Args:
            sockets: the login socket of each director, by its name.
            rate: logins a second in all.
            user: returns the name of the n-th user.
            connections: the number of connections to each director.
        """
        self.rate, self.user = rate, user
        self.all: list[Login] = []
        self.late = 0.0
        """The longest time, in seconds, that this process has lagged behind its own schedule."""
        self.turned_away = 0
        """Logins that were due while no director was ready."""
        self.processes = [
            LoginProcess(name, path) for _ in range(connections) for name, path in sockets.items()
        ]
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def waiting(self) -> list[Login]:
        return [login for process in self.processes for login in process.waiting.values()]

    def since(self, begun: float) -> list[Login]:
        """Return the logins that ended at `begun` or later, or have not ended."""
        return [login for login in self.all if login.ended is None or login.ended >= begun]

    async def ready(self) -> None:
        """Wait until every login process is connected."""
        while not all(process.ready for process in self.processes):  # noqa: ASYNC110 - changes many times a run
            await asyncio.sleep(TICK)

    async def __aenter__(self) -> Logins:
        self._tasks = [asyncio.create_task(process.run()) for process in self.processes]
        await self.ready()
        self._tasks.append(asyncio.create_task(self._log_in()))
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _log_in(self) -> None:
        begun = time.monotonic()
        turns = itertools.cycle(self.processes)
        sent = 0
        while True:
            now = time.monotonic()
            due = int((now - begun) * self.rate)
            if due > sent:
                self.late = max(self.late, now - begun - sent / self.rate - 1 / self.rate)
            for _ in range(due - sent):
                self._log_in_one(turns, sent)
                sent += 1
            await asyncio.sleep(TICK)

    def _log_in_one(self, turns: itertools.cycle[LoginProcess], number: int) -> None:
        for _ in self.processes:
            process = next(turns)
            if process.ready:
                self.all.append(process.log_in(self.user(number)))
                return
        self.turned_away += 1
