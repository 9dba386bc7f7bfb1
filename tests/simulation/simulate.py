"""Random runs of whole rings: `python -m tests.simulation.simulate --seeds N`.

A seed decides everything: how many directors, which store, which faults, when. After every step the
invariants are checked (`invariants.py`); at the end all faults end, and all directors and the store must
agree. A run that fails is shortened and written to a file, which `--replay FILE` runs again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import msgspec

from director.stored.pace import FLUSH_WITHIN
from tests.simulation.faults import Player, built
from tests.simulation.invariants import Violation, Watch, in_progress
from tests.simulation.minimise import minimised
from tests.simulation.schedule import FAMILIES, Plan, drawn
from tests.simulation.slices import small_slices

WORKERS = 2
REST = 95
"""Seconds after which every operation has ended."""
CALM = 12
"""Seconds of rest that are always checked."""


class Run:
    """A run of one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.world = built(plan)
        self.watch = Watch(self.world, plan)
        self.player = Player(self.world, plan, self.watch)

    def run(self) -> None:
        """Run the plan. Raises Violation, or AssertionError from the core, if anything is wrong."""
        world = self.world
        begun = world.now
        for name, pause in self.plan.starts:
            world.node(name).start()
            world.run(pause)
        if self.plan.added:
            self.player.add()
            begun = world.now - sum(pause for _, pause in self.plan.starts)
        for action in self.plan.actions:
            world.run(max(0.0, begun + action.at - world.now))
            self.player.do(action.what, action.args)
            self.watch.check()
        self._rest()

    def _rest(self) -> None:
        self.player.heal()
        calm, events = 0.0, -1
        for second in range(REST):
            self.world.run(1.0)
            self.watch.check()
            if second % 5 == 2:
                self.player.restore()
            before, events = events, self.watch.counts["logins"] + self.watch.counts["host"]
            idle = second >= CALM and events == before and self.watch.in_sync() and self._idle()
            calm = calm + 1 if idle else 0.0
            if calm > 2 * FLUSH_WITHIN:
                break  # the last claims have been announced and written too
        self.watch.check_rest()

    def _idle(self) -> bool:
        nodes = self.world.nodes.values()
        busy = any(any(in_progress(node).values()) or node.core.ring.removed for node in nodes)
        # A refresh may just have removed ONE_LOGIN from a record, which is to be written too.
        return not busy and not any(node.users.dirty_count for node in self.world.ups())


@dataclass
class Result:
    """The result of a run. `violation` is empty if all invariants held."""

    seed: int
    family: str
    counts: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    kind: str = ""
    violation: str = ""
    trace: str = ""


def outcome(plan: Plan) -> Result:
    """Run a plan, and return its result."""
    run = Run(plan)
    result = Result(plan.seed, plan.family, run.watch.counts, run.watch.excused)
    try:
        run.run()
    except Violation as exc:
        result.kind, result.violation = exc.kind, str(exc)
    except Exception as exc:  # of the core, or of the world: a busy loop, a storm of messages
        result.violation = f"{type(exc).__name__}: {exc}"
        result.kind = str(exc).partition(":")[0] or type(exc).__name__
    if result.violation:
        result.trace = run.world.trace()
    return result


def failure(plan: Plan) -> str | None:
    """Run a plan. Returns the violation with the trace of the run; None: all invariants held."""
    result = outcome(plan)
    return f"seed {plan.seed} ({plan.family}): {result.violation}\n{result.trace}" if result.kind else None


def _of_seed(seed: int) -> Result:
    return outcome(drawn(seed))


def outcomes(seeds: Iterable[int], workers: int = WORKERS) -> Iterator[Result]:
    """Yield the results of many seeds, in order, computed on several cores."""
    if workers == 1:
        yield from map(_of_seed, seeds)
        return
    with get_context("fork").Pool(workers) as pool:
        yield from pool.imap(_of_seed, seeds, chunksize=4)


def shortest(plan: Plan, seconds: float) -> Plan:
    """Return the shortest schedule found in `seconds` that fails in the same way."""
    kind = outcome(plan).kind

    def fails(candidate: Plan) -> bool:
        return outcome(candidate).kind == kind

    short = minimised(plan, fails, seconds)
    return msgspec.structs.replace(short, found=outcome(short).violation)


def table(results: Sequence[Result]) -> str:
    """Return a table of the events in the runs of each family, so that missing ones are visible."""
    families = [f for f in FAMILIES if any(r.family == f for r in results)]
    lines = []
    for family in [*families, "all"]:
        mine = [r for r in results if family in (r.family, "all")]
        counts = sum((r.counts for r in mine), Counter())
        excused = sum((r.excused for r in mine), Counter())
        lines.append(f"{family}: {len(mine)} runs, {_listed(counts)}")
        if excused:
            lines.append(f"    excused: {_listed(excused)}")
    return "\n".join(lines)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items(), key=lambda c: -c[1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument(
        "--seed", type=int, help="the first seed; without --seeds this seed alone runs, with its trace"
    )
    parser.add_argument("--replay", type=Path, help="a file with a schedule: run it, with its trace")
    parser.add_argument(
        "--out", type=Path, default=Path("build"), help="folder for the schedules of failed runs"
    )
    parser.add_argument(
        "--minimise", type=float, default=60, help="seconds to shorten each of the first three failures"
    )
    parser.add_argument(
        "--small-slices", action="store_true", help="a turn of the loop does the work of a few users only"
    )
    options = parser.parse_args()
    with small_slices() if options.small_slices else nullcontext():
        return simulate(options)


def simulate(options: argparse.Namespace) -> int:
    """Run the seeds or the schedule of the command line, and return the exit code."""
    if options.replay is not None or (options.seed is not None and "--seeds" not in sys.argv):
        plan = drawn(options.seed) if options.replay is None else Plan.read(options.replay)
        run = outcome(plan)
        print(plan, run.trace or "all invariants held", run.violation, table([run]), sep="\n")
        return bool(run.violation)
    first = options.seed or 0
    begun = time.perf_counter()
    results = []
    for result in outcomes(range(first, first + options.seeds)):
        results.append(result)
        if result.kind:
            print(f"seed {result.seed} ({result.family}): {result.violation}", flush=True)
    took = time.perf_counter() - begun
    failed = [result for result in results if result.kind]
    for result in failed[: 3 if options.minimise else 0]:
        short = shortest(drawn(result.seed), options.minimise)
        options.out.mkdir(exist_ok=True)
        path = options.out / f"seed{result.seed}.json"
        short.write(path)
        print(
            f"\n{outcome(short).trace}\n{short}\n{short.found}\n"
            f"again: --replay {path}; all of it: --seed {result.seed}"
        )
    print(table(results))
    print(f"{len(results)} seeds, {len(failed)} failed, {len(results) / took:.1f} seeds/s")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
