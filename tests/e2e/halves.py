"""A ring of four real directors on a real Redis, partitioned into two sides of two directors."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.e2e.processes import DirectorProcess, Directors, until
from tests.logins import Login, LoginProcess
from tests.servers import RedisServer

COUNT = 4
ADDRESSES = [f"127.0.29.{number}" for number in range(1, COUNT + 1)]
NOTICED_WITHIN = 30.0
"""Seconds until both sides have noticed the partition."""
HELD = 6.0
"""Seconds after a silent loss in which no change of hosts is released (docs/ring.md, rule 14)."""


class HalvedRing:
    """A ring, used as a context manager. It is complete until `cut`."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self._cuts = [folder / f"cuts{number}" for number in range(COUNT)]
        for file in self._cuts:
            file.touch()
        self.redis = RedisServer()
        each = [{"program": ("tests.e2e.cuttable", str(file))} for file in self._cuts]
        state = f"unix://{self.redis.socket}"
        self.directors = Directors(folder, first=ADDRESSES[0], count=COUNT, state=state, each=each)

    @property
    def halves(self) -> tuple[list[DirectorProcess], list[DirectorProcess]]:
        return self.directors.all[: COUNT // 2], self.directors.all[COUNT // 2 :]

    def __enter__(self) -> HalvedRing:
        with ExitStack() as stack:
            stack.enter_context(self.redis)
            stack.enter_context(self.directors)
            self.directors.wait_whole()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def cut(self) -> None:
        """Partition the ring from now on. No director has noticed it yet."""
        for number, file in enumerate(self._cuts):
            other_half = ADDRESSES[COUNT // 2 :] if number < COUNT // 2 else ADDRESSES[: COUNT // 2]
            file.write_text("\n".join(other_half))

    def wait_until_noticed(self) -> None:
        """Wait until every director is in a ring of its side, and claims new users through the store."""

        def noticed(director: DirectorProcess) -> bool:
            ring = director.get("/v1/ring")
            return bool(ring["synced"]) and len(ring["ring"]) == COUNT // 2

        for director in self.directors.all:
            until(partial(noticed, director), within=NOTICED_WITHIN, what=director.log[-2000:])

    def heal(self) -> None:
        """End the partition."""
        for file in self._cuts:
            file.write_text("")
        for director in self.directors.all:
            director.wait_whole(COUNT, within=NOTICED_WITHIN)

    def total(self, metric: str) -> float:
        """Return the sum of a metric, without labels, over all directors."""
        pages = [director.request("GET", "/metrics")[1].decode() for director in self.directors.all]
        return sum(float(found) for page in pages for found in re.findall(rf"^{metric} (\S+)$", page, re.M))

    def set_weight(self, weight: int) -> None:
        """Change the weight of the first host, as an operator of the first side.

        The other side reads it from the store.
        """
        address = self.directors[0].hosts()[0][0]
        self.directors[0].change("PATCH", f"/v1/hosts/{address}", {"weight": weight})

    @contextmanager
    def changing_weights(self, every: float) -> Iterator[None]:
        """Change a weight up and down on the first side while the block runs: the sides hash by different
        tables most of the time."""
        over = threading.Event()

        def change() -> None:
            weight = 100
            while not over.wait(every):
                weight = 110 - weight
                self.set_weight(weight)

        thread = threading.Thread(target=change)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


async def log_in(directors: Sequence[DirectorProcess], users: Sequence[str], window: int) -> list[Login]:
    """Log in every user at every one of these directors, `window` logins at a time at each.

    Every second director gets the users in reverse order.
    """
    processes = [LoginProcess(director.member, director.login) for director in directors]
    running = [asyncio.create_task(process.run()) for process in processes]
    try:
        while not all(process.ready for process in processes):  # noqa: ASYNC110 - set by callbacks
            await asyncio.sleep(0.001)
        work = [_all_of(p, users[:: -1 if n % 2 else 1], window) for n, p in enumerate(processes)]
        done = await asyncio.gather(*work)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return [login for logins in done for login in logins]


async def _all_of(process: LoginProcess, users: Sequence[str], window: int) -> list[Login]:
    logins: list[Login] = []
    for user in users:
        while len(process.waiting) >= window:  # noqa: ASYNC110 - emptied by callbacks
            await asyncio.sleep(0.001)
        logins.append(process.log_in(user))
    while process.waiting:  # noqa: ASYNC110 - filled and emptied by callbacks
        await asyncio.sleep(0.001)
    return logins


def on_two_hosts(logins: Sequence[Login]) -> dict[str, set[str]]:
    """Return the users who were sent to more than one backend, with the backends."""
    hosts: dict[str, set[str]] = {}
    for login in logins:
        hosts.setdefault(login.user, set()).add(login.host)
    return {user: found for user, found in hosts.items() if len(found) > 1}


def elapsed(logins: Sequence[Login]) -> float:
    """Return the seconds from the first request to the last answer."""
    now = time.monotonic()
    return max(login.ended or now for login in logins) - min(login.began for login in logins)
