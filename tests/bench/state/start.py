"""A warm start: a director process on a full store, again and again, each time killed without warning.

While it reads, users log in whose buckets have been read, and users whose buckets have not. The store reads
buckets by number, so the first and the last of the probes are taken.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median

from director.core.placement.hashing import UserHash
from director.core.placement.users import BUCKET_SHIFT, BUCKETS
from state.urls import open_store
from tests.bench.state.parts import MB, PROBES, Bench, fill, resident, spread, table
from tests.e2e.processes import Client, DirectorProcess, until

KINDS = ("redis", "sqlite")
LOGINS = 20
"""Logins between two requests of `status`, one in 10 ms."""
WITHIN = 120.0
"""Seconds that a start may take."""


@dataclass
class Sample:
    """The result of a start: seconds from exec, bytes."""

    ready: float
    first: float
    loaded: float
    read: list[float] = field(default_factory=list)
    """Seconds of logins of users whose bucket had been read."""
    unread: list[float] = field(default_factory=list)
    """Seconds of logins of users whose bucket had not been read."""
    parts: list[float] = field(default_factory=list)
    """The part of the store that had been read, 0 to 1, at each request of `status`."""
    statuses: int = 0
    """The number of different status lines for the service manager."""
    lag: float = 0.0
    """The longest delay of a timer of the loop."""
    rss: int = 0


class Manager:
    """Records what systemd is told, and when. Enter it around the start of the director."""

    def __init__(self) -> None:
        self.messages: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Manager:
        self._folder = tempfile.TemporaryDirectory(prefix="notify")
        path = f"{self._folder.name}/s"
        self._socket.bind(path)
        os.environ["NOTIFY_SOCKET"] = path
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        del os.environ["NOTIFY_SOCKET"]
        self._folder.cleanup()

    def _listen(self) -> None:
        while True:
            text = self._socket.recv(1 << 16).decode()
            self.messages.append((time.time(), text))

    @property
    def ready_at(self) -> float | None:
        return next((at for at, text in self.messages if "READY=1" in text), None)


def buckets_of_probes() -> list[tuple[int, str]]:
    """Return bucket and name of each probe, in the order of buckets."""
    user_hash = UserHash("%Lu")
    return sorted((user_hash.key(name.encode()) >> BUCKET_SHIFT, name) for name in PROBES)


def start(director: DirectorProcess) -> Sample:
    with Manager() as manager:
        begun = time.time()
        director.start()
        with Client(director.login, within=WITHIN) as client:
            took(client, "first")  # an unassigned user
            first = time.time() - begun
            sample = Sample(ready=0.0, first=first, loaded=0.0)
            log_in_until_loaded(director, client, sample)
        until(lambda: manager.ready_at, within=WITHIN)
        assert manager.ready_at
        sample.ready = manager.ready_at - begun
        (line,) = director.logged("store_loaded")[-1:]
        sample.loaded = datetime.fromisoformat(line.split()[0].removeprefix("time=")).timestamp() - begun
        sample.statuses = len({text for _, text in manager.messages})
    sample.lag, sample.rss = loop_lag(director), resident(director.pid)
    director.kill()
    return sample


def log_in_until_loaded(director: DirectorProcess, client: Client, sample: Sample) -> None:
    """Log in, until all has been read."""
    probes = buckets_of_probes()
    early, late = probes[0], probes[len(probes) // 2 :]
    while True:
        store = director.get("/v1/status")["store"]  # it counts all users: not too often
        sample.parts.append(store["loaded_part"])
        if store["loaded"]:
            return
        read = store["loaded_part"] * BUCKETS
        if late and read < late[-1][0]:
            sample.unread.append(took(client, late.pop()[1]))
        for _ in range(LOGINS):
            time.sleep(0.01)
            if read > early[0]:
                sample.read.append(took(client, early[1]))


def took(client: Client, user: str) -> float:
    begun = time.monotonic()
    client.ask([user])
    return time.monotonic() - begun


def loop_lag(director: DirectorProcess) -> float:
    _, page = director.request("GET", "/metrics")
    lines = page.decode().splitlines()
    return float(next(n for n in lines if n.startswith("director_event_loop_lag_seconds ")).split()[1])


async def filled(url: str, folder: Path, users: int) -> None:
    store = open_store(url, base_dir=folder)
    await store.open()
    await fill([store], users)
    await store.close()


@contextmanager
def director_on(bench: Bench, kind: str) -> Iterator[tuple[DirectorProcess, str]]:
    """Give a director that is not started, and the URL of its empty store."""
    redis = bench.redis() if kind == "redis" else None
    url = redis.url if redis else "sqlite:///state.db"
    yield bench.director(url, names=False), url
    if redis:
        redis.close()


async def run(bench: Bench, sizes: Sequence[tuple[int, int]], kinds: Sequence[str]) -> None:
    """Measure starts. `sizes`: pairs of the number of users and the number of starts."""
    rows: list[tuple[str, ...]] = []
    more: list[tuple[str, ...]] = []
    for users, runs in sizes:
        for kind in kinds:
            with director_on(bench, kind) as (director, url):
                await filled(url, director.folder, users)
                samples = []
                for number in range(runs):
                    samples.append(start(director))
                    print(f"{users} users, {kind}: {number + 1} of {runs}", file=sys.stderr)
            name = f"{users / 1e6:g} M, {kind}"
            figures: tuple[Callable[[Sample], float], ...] = (
                lambda s: s.ready,
                lambda s: s.first,
                lambda s: s.loaded,
            )
            rows.append((name, *(spread(map(figure, samples)) for figure in figures)))
            more.append(
                (
                    name,
                    *(waits([w for s in samples for w in kind_of(s)]) for kind_of in (read_of, unread_of)),
                    spread((s.lag * 1000 for s in samples), 0),
                    str(min(len(set(s.parts)) for s in samples)),
                    str(min(s.statuses for s in samples)),
                    f"{max(s.rss for s in samples) / MB:.0f}",
                )
            )
    table("seconds from exec, min / median / max", ("store", "READY", "first login", "all loaded"), rows)
    head = ("meanwhile, ms", "read: median, max", "unread", "loop lag", "parts", "said", "RSS MB")
    table("logins of users whose buckets had, had not been read", head, more)


def read_of(sample: Sample) -> list[float]:
    return sample.read


def unread_of(sample: Sample) -> list[float]:
    return sample.unread


def waits(seconds: Sequence[float]) -> str:
    """Return median and longest wait, in ms."""
    return f"{1000 * median(seconds):.1f}, {1000 * max(seconds):.1f}" if seconds else "-"
