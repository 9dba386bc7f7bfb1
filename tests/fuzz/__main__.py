"""`python -m tests.fuzz`: all targets in turn with new seeds, until the time has passed. Exits 1 on
failure."""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz import sockets
from tests.fuzz.engine import Target, run
from tests.fuzz.targets import TARGETS

TURN = 2.0
"""Seconds of one target before the turn of the next."""
AT_ONCE = 20
"""The number of seeds between two readings of the clock."""


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    options.add_argument("--minutes", type=float, default=1.0, help="how long")
    options.add_argument("--seed", type=int, default=int(time.time()) * 1000, help="the first one")
    options.add_argument("--count", type=int, help="this many seeds of each target, however long they take")
    options.add_argument(
        "--target", action="append", choices=sorted(TARGETS), help="this target only; repeatable"
    )
    given = options.parse_args()
    targets = {name: TARGETS[name] for name in given.target or TARGETS}
    print(f"{len(targets)} targets, first seed {given.seed}", flush=True)
    try:
        return (
            _with_count(targets, given.seed, given.count)
            if given.count
            else _until(targets, given.seed, time.monotonic() + 60 * given.minutes)
        )
    finally:
        sockets.stop()


def _with_count(targets: dict[str, Target], seed: int, count: int) -> int:
    return max([_shown(target, range(seed, seed + count)) for target in targets.values()])


def _until(targets: dict[str, Target], seed: int, end: float) -> int:
    """Run all targets in turn. A target that has failed is left out from then on."""
    failed, next_seed = 0, dict.fromkeys(targets, seed)
    while targets and time.monotonic() < end:
        for name, target in list(targets.items()):
            turn = min(end, time.monotonic() + TURN)
            while time.monotonic() < turn:
                first, next_seed[name] = next_seed[name], next_seed[name] + AT_ONCE
                if _shown(target, range(first, next_seed[name])):
                    failed = 1
                    del targets[name]
                    break
    for name, after in next_seed.items():
        print(f"{name}: {after - seed} cases")
    return failed


def _shown(target: Target, seeds: range) -> int:
    failure = run(target, seeds)
    if failure is not None:
        print(failure, flush=True)
    return int(failure is not None)


if __name__ == "__main__":
    sys.exit(main())
