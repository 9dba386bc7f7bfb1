"""Write-behind: new users at a steady rate, on one director with each kind of store, one after the other.

The ratio to `memory:` within a round is what counts, for the rate that was reached and for the CPU.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.state.parts import MB, Bench, Watch, resident, sampled, spread, table
from tests.e2e.processes import DirectorProcess

KINDS = ("memory", "redis", "sqlite")
CONNECTIONS, WINDOW = 8, 128
STORED_WITHIN = 60.0
"""Seconds from the last login until all is stored."""


@dataclass
class Sample:
    """The result of a run, in seconds and bytes."""

    rate: float
    p99: float
    slowest: float
    failed: int
    cpu: float
    """CPU of the director, from the first login until all is stored."""
    redis_cpu: float
    lag: float
    """The largest lag."""
    lags: list[float]
    behind: float
    """Seconds from the last login until all is stored."""
    rss: int
    """The largest resident memory of the director."""
    written: int
    """Bytes that the director wrote to sockets and files."""


def lag(director: DirectorProcess) -> float:
    return float(director.get("/v1/status")["store"]["lag"])


def stored(director: DirectorProcess) -> bool:
    return bool(director.get("/v1/status")["store"]["queued_buckets"] == 0)


def written(pid: int) -> int:
    with open(f"/proc/{pid}/io") as lines:
        return int(dict(line.split(": ") for line in lines)["wchar"])


def measure(bench: Bench, kind: str, rate: int, seconds: float, *, names: bool) -> Sample:
    redis = bench.redis() if kind == "redis" else None
    state = {"memory": "memory:", "redis": redis.url if redis else "", "sqlite": "sqlite:///state.db"}[kind]
    director = bench.director(state, names=names)
    director.start().wait_ready()
    pids = {"director": director.pid} | ({"redis": redis.pid} if redis else {})
    before = written(director.pid)
    with sampled(pids) as cpu:
        with Watch(lag=lambda: lag(director), rss=lambda: resident(director.pid)) as watch:
            load = bench.load(
                director, "-n", round(rate * seconds), "-r", rate, "-c", CONNECTIONS, "-w", WINDOW
            )
            seen = load.result()
        ended = time.monotonic()
        deadline = ended + STORED_WITHIN
        while not stored(director) and time.monotonic() < deadline:
            time.sleep(0.05)
        behind = time.monotonic() - ended
    out = written(director.pid) - before
    director.kill()
    if redis:
        redis.close()
    return Sample(
        rate=seen["rate"],
        p99=seen["p99_ms"],
        slowest=seen["max_ms"],
        failed=seen["failed"],
        cpu=cpu["director"],
        redis_cpu=cpu.get("redis", 0.0),
        lag=watch.largest["lag"],
        lags=watch.seen["lag"],
        behind=behind,
        rss=round(watch.largest["rss"]),
        written=out,
    )


def run(
    bench: Bench, rates: Sequence[int], seconds: float, rounds: int, *, names: bool, kinds: Sequence[str]
) -> None:
    for rate in rates:
        samples: dict[str, list[Sample]] = {kind: [] for kind in KINDS if kind in kinds}
        for number in range(rounds):
            for kind in random.sample(list(samples), len(samples)):
                samples[kind].append(measure(bench, kind, rate, seconds, names=names))
            print(f"{rate} new users/s: round {number + 1} of {rounds}", file=sys.stderr)
        show(f"{rate} new users/s for {seconds:.0f} s, {rounds} rounds, min / median / max", samples)


def show(title: str, samples: dict[str, list[Sample]]) -> None:
    base = samples.get("memory", [])
    logins = [
        (
            kind,
            spread((run.rate / 1000 for run in runs), 0),
            spread(run.rate / other.rate for run, other in zip(runs, base, strict=False)),
            spread((run.p99 for run in runs), 0),
            f"{max(run.slowest for run in runs):.0f}",
            str(sum(run.failed for run in runs)),
        )
        for kind, runs in samples.items()
    ]
    table(title, ("logins", "1000/s", "to memory:", "p99 ms", "max ms", "failed"), logins)
    costs = [
        (
            kind,
            spread((run.cpu for run in runs), 1),
            f"{median(run.redis_cpu for run in runs):.1f}",
            spread(median(run.lags) for run in runs),
            f"{max(run.lag for run in runs):.2f}",
            f"{max(run.behind for run in runs):.2f}",
            f"{max(run.rss for run in runs) / MB:.0f}",
            f"{median(run.written for run in runs) / MB:.0f}",
        )
        for kind, runs in samples.items()
    ]
    head = ("costs", "CPU s", "redis", "lag s", "largest", "last s", "RSS MB", "out MB")
    table("lag: of the oldest change; last: until all is stored; out: to sockets and files", head, costs)
