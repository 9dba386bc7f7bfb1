"""How long the longest turn of the loop is while very many users change hosts: `python -m tests.bench.turns`.

A core is fed with so many users at once until it is at rest, and the CPU time of each turn is measured. The
table shows the longest turn of each run, the longest that was as long in every run, the median of all, and
the time of all together. All runs do the same, so a turn that is long in one run only was the machine's
doing: among 100,000 turns there is always such a turn where a host takes the processor away.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median

from director.core.protocol.effects import Effect
from director.service.lifecycle import garbage
from tests.turns import SITUATIONS, Busy

LIMIT = 5.0
"""Milliseconds that a turn may take."""


def turns_of(name: str, users: int) -> list[float]:
    """Return the milliseconds of each turn."""
    took = []

    def measure(turn: Callable[[], list[Effect]]) -> list[Effect]:
        begun = time.thread_time()
        effects = turn()
        took.append((time.thread_time() - begun) * 1000)
        return effects

    busy = Busy(measure)
    garbage.begin()  # as the service does: full collections have their own turns
    SITUATIONS[name](busy, users)
    gc.unfreeze()
    return took


def longest_in_all(runs: Sequence[Sequence[float]]) -> float:
    """Return the longest time, in milliseconds, that the same turn took at least in every run."""
    if len({len(took) for took in runs}) > 1:
        return min(max(took) for took in runs)
    return max(min(turn) for turn in zip(*runs, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("situations", nargs="*", choices=[*SITUATIONS, []], help="all, if none is named")
    parser.add_argument("--users", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    print(
        f"{'situation':<22}{'users':>8}{'longest ms: min median max':>28}"
        f"{'in all runs':>13}{'median ms':>11}{'turns':>8}{'s':>7}"
    )
    worst = 0.0
    for name in options.situations or SITUATIONS:
        for users in options.users:
            runs = [turns_of(name, users) for _ in range(options.runs)]
            longest = sorted(max(took) for took in runs)
            spread = f"{longest[0]:.2f} {median(longest):.2f} {longest[-1]:.2f}"
            all_turns = [turn for took in runs for turn in took]
            total = median(sum(took) for took in runs) / 1000
            print(
                f"{name:<22}{users:>8}{spread:>28}{longest_in_all(runs):>13.2f}"
                f"{median(all_turns):>11.3f}{len(runs[0]):>8}{total:>7.2f}",
                flush=True,
            )
            worst = max(worst, longest_in_all(runs))
    return worst > LIMIT


if __name__ == "__main__":
    sys.exit(main())
