"""The same users log in on both sides of a partition at once: `python -m tests.bench.claims`.

Four real directors in a ring on a real Redis are partitioned into two pairs. Once both sides have noticed it,
every user logs in at all four directors as fast as they answer. The table shows the users claimed through the
store, the logins a second of all four directors, the time of a login, and how many users were sent to two
backends, which must be none. In every second run an operator of one side changes a weight all the time, so
that the hash selects different hosts on the two sides.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.e2e.halves import HELD, HalvedRing, elapsed, log_in, on_two_hosts

CHANGE_EVERY = 0.2
"""Seconds between two changes of a weight."""


@dataclass
class Sample:
    """The result of a run: per second, milliseconds, users."""

    claims: float
    logins: float
    p50: float
    p99: float
    slowest: float
    failed: int
    on_two: int


def run(ring: HalvedRing, users: Sequence[str], window: int, *, changing: bool) -> Sample:
    before = ring.total("director_claims_total")
    with ring.changing_weights(CHANGE_EVERY) if changing else nullcontext():
        logins = asyncio.run(log_in(ring.directors.all, users, window))
    took = elapsed(logins)
    seconds = sorted(login.seconds(0.0) for login in logins)
    return Sample(
        claims=(ring.total("director_claims_total") - before) / took,
        logins=len(logins) / took,
        p50=1000 * seconds[len(seconds) // 2],
        p99=1000 * seconds[len(seconds) * 99 // 100],
        slowest=1000 * seconds[-1],
        failed=sum(login.failed for login in logins),
        on_two=len(on_two_hosts(logins)),
    )


def show(title: str, samples: Sequence[Sample]) -> None:
    print(title)
    for name in ("claims", "logins", "p50", "p99", "slowest"):
        values = sorted(getattr(sample, name) for sample in samples)
        unit = "/s" if name in ("claims", "logins") else "ms"
        print(f"  {name:8} {values[0]:10.1f} {median(values):10.1f} {values[-1]:10.1f} {unit}")
    print(f"  failed logins {sum(sample.failed for sample in samples)}")
    print(f"  users on two backends {sum(sample.on_two for sample in samples)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5, help="of each kind")
    parser.add_argument("--window", type=int, default=64, help="logins at a time at each director")
    options = parser.parse_args()
    samples: dict[bool, list[Sample]] = {False: [], True: []}
    with tempfile.TemporaryDirectory(prefix="claims-") as folder, HalvedRing(Path(folder)) as ring:
        ring.cut()
        ring.wait_until_noticed()
        time.sleep(HELD)
        for number in range(2 * options.runs):
            changing = number % 2 == 1
            users = [f"run{number}user{user}" for user in range(options.users)]
            samples[changing].append(run(ring, users, options.window, changing=changing))
        conflicts = ring.total("director_conflicts_total")
    print(f"{options.users} users at 4 directors, {options.window} logins at a time at each; min median max")
    show("hosts unchanged", samples[False])
    show("a weight changes all the time", samples[True])
    print(f"conflicts found by the directors {conflicts:.0f}")


if __name__ == "__main__":
    main()
