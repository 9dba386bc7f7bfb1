"""Logins while the store fails: one director on Redis, new users at a steady rate.

The fault begins after a quarter of the time and ends after three quarters; a failover has no end. *Amid* is
the slowest login of that half. In the end all users must be in the store: *last* is the time after the last
login until they were, *lost* the number of users who were not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from director.core.placement.users import RECORD
from state.base import StoreError
from state.urls import open_store
from tests.bench.state.parts import Bench, Watch, table
from tests.bench.state.writes import lag
from tests.groups import SentinelGroup
from tests.proxy import Proxy
from tests.servers import RedisServer

CASES = ("up", "killed", "failed over", "slow")
DELAY = 2.0
"""Seconds by which each reply is delayed if Redis is slow."""
STORED_WITHIN = 60.0
TIMELINE = 0.1
"""Seconds of a line of loadgen's timeline."""


@dataclass
class Trouble:
    """A store, and the fault that happens to it."""

    url: str
    begin: Callable[[], object] = lambda: None
    end: Callable[[], object] = lambda: None


@contextmanager
def trouble(case: str) -> Iterator[Trouble]:
    if case == "failed over":
        with SentinelGroup() as group:
            yield Trouble(group.url, begin=lambda: group.primary().kill())
    elif case == "slow":
        with RedisServer() as redis, Proxy(redis.socket) as proxy:
            slow, fast = (
                lambda seconds=seconds: setattr(proxy, "delay", seconds) for seconds in (DELAY, 0.0)
            )
            yield Trouble(f"redis://127.0.0.1:{proxy.port}", begin=slow, end=fast)
    else:
        with RedisServer() as redis:
            redis_trouble = Trouble(redis.url)
            yield redis_trouble if case == "up" else Trouble(redis.url, begin=redis.kill, end=redis.start)


def measure(bench: Bench, case: str, rate: int, seconds: float) -> tuple[str, ...]:
    users = round(rate * seconds)
    with trouble(case) as what:
        director = bench.director(what.url, names=False)
        director.start().wait_ready()
        timeline = bench.folder / "timeline"
        with Watch(lag=lambda: lag(director)) as watch:
            load = bench.load(director, "-n", users, "-r", rate, "-c", 4, "-w", 64, "-k", "-R", timeline)
            time.sleep(seconds / 4)
            what.begin()
            time.sleep(seconds / 2)
            what.end()
            seen = load.result()
        ended = time.monotonic()
        while (lost := users - anyio.run(stored, what.url)) and time.monotonic() < ended + STORED_WITHIN:
            time.sleep(0.1)
        behind = time.monotonic() - ended
        director.kill()
    troubles = len(director.logged("store_unreachable"))
    figures = (seen["rate"], seen["p99_ms"], seen["max_ms"], slowest(timeline, seconds / 4, 3 * seconds / 4))
    return (
        case,
        f"{figures[0]:.0f}",
        *(f"{figure:.1f}" for figure in figures[1:]),
        str(seen["failed"]),
        str(troubles),
        f"{watch.largest['lag']:.1f}",
        f"{behind:.1f}",
        str(lost),
    )


def slowest(timeline: Path, begin: float, end: float) -> float:
    """Return the longest wait, in ms, of the logins answered between two times."""
    lines = [line.split() for line in timeline.read_text().splitlines()]
    return max((float(wait) for at, _, wait in lines if begin - TIMELINE <= float(at) <= end), default=0.0)


async def stored(url: str) -> int:
    """Return how many users the store holds; 0: it does not answer."""
    store = open_store(url, base_dir=Path("/"))
    try:
        await store.open()
        return sum(
            [
                len(bucket.blob) // RECORD.size
                async for batch in store.load_buckets("users")
                for bucket in batch
            ]
        )
    except StoreError:
        return 0
    finally:
        await store.close()


def run(bench: Bench, rate: int, seconds: float, cases: Sequence[str]) -> None:
    rows = []
    for case in cases:
        rows.append(measure(bench, case, rate, seconds))
        print(f"{case}: done", file=sys.stderr)
    head = ("Redis", "rate/s", "p99 ms", "slowest", "amid", "failed", "away", "lag s", "last s", "lost")
    table(f"{rate} new users/s for {seconds:.0f} s", head, rows)
