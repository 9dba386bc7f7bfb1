"""This project's director and Dovecot 2.3's director, side by side: `make bench`, or `python -m tests.bench
--help`.

Both run at the same time on loopback. The same load generator asks them in random order, round by round, so a
noisy machine is noisy for both. The ratio within a round counts, not the absolute time.
Needs root (Dovecot drops its privileges), Dovecot 2.3 with its director, and a C compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench.systems import HOSTS, Dovecot23Director, build_tools, fake_auth
from tests.e2e.processes import Directors

TICKS = os.sysconf("SC_CLK_TCK")
DOVECOT = "Dovecot 2.3"
"""The name of its director in the tables."""
DRAINED_AFTER = 0.3
"""Seconds without CPU use of any director after which a run counts as drained."""


@dataclass
class Instance:
    """A director under test."""

    socket: Path
    pid: Callable[[], int]


@dataclass
class System:
    """An implementation: a director alone, or three in a ring."""

    name: str
    directors: list[Instance] = field(default_factory=list)

    def cpu(self) -> list[float]:
        return [cpu_seconds(d.pid()) for d in self.directors]


@dataclass
class Sample:
    rate: float
    p50: float
    p99: float
    cpu: float
    """CPU seconds of the asked director per 100,000 requests."""
    cpu_others: float
    """CPU seconds of the busier neighbour per 100,000 requests."""
    failed: int


@dataclass
class Load:
    name: str
    requests: int
    connections: int
    window: int


LOADS = [Load("one at a time", 20_000, 1, 1), Load("pipelined", 200_000, 8, 128)]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Bench:
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.first_user = 0
        build_tools(folder, "loadgen", "fakeauth")

    def dovecot23(self, count: int) -> System:
        addresses = [f"127.0.21.{i}" for i in range(1, count + 1)]
        ring = addresses if count > 1 else []
        directors = [
            Dovecot23Director(self.folder / f"o{count}{i}", a, ring) for i, a in enumerate(addresses)
        ]
        for director in directors:
            director.start()
            self.stack.callback(director.stop)
        fake_auth(self.folder, self.stack, [director.run for director in directors])
        for director in directors:
            director.wake()
        return System(DOVECOT, [Instance(d.login, lambda d=d: d.pid) for d in directors])

    def directors(
        self, count: int, state: str, name: str, network: int, *, program: str = "director", tls: str = ""
    ) -> System:
        """Start directors of this project.

        Args:
            program: the module that is run.
            tls: a line of [ring] that contains `{address}`; empty: no TLS.
        """
        addresses = [f"127.0.{network}.{number}" for number in range(1, count + 1)]
        each = [{"settings": {"ring": tls.format(address=address)}} for address in addresses]
        ring = Directors(
            self.folder / f"n{network}{count}",
            first=addresses[0],
            count=count,
            state=state,
            backends=HOSTS,
            program=(program,),
            each=each,
            auths=False,
        )
        fake_auth(self.folder, self.stack, [director.run for director in ring.all])
        self.stack.enter_context(ring)
        for director in ring.all:
            director.wait_ready()
        return System(name, [Instance(director.login, lambda d=director: d.pid) for director in ring.all])

    def measure(self, system: System, load: Load) -> Sample:
        self.first_user += load.requests
        before = system.cpu()
        answer = subprocess.run(
            [
                self.folder / "loadgen",
                "-n",
                str(load.requests),
                "-s",
                str(self.first_user),
                "-c",
                str(load.connections),
                "-w",
                str(load.window),
                system.directors[0].socket,
            ],
            check=True,
            capture_output=True,
        )
        after = self.drained(system)
        result = json.loads(answer.stdout)
        used = [(b - a) * 100_000 / load.requests for a, b in zip(before, after, strict=True)]
        failed = result["fail"] + result["nohost"] + load.requests - result["done"]
        return Sample(
            result["rate"], result["p50_ms"], result["p99_ms"], used[0], max(used[1:], default=0.0), failed
        )

    @staticmethod
    def drained(system: System) -> list[float]:
        used = system.cpu()
        while True:
            time.sleep(DRAINED_AFTER)
            now = system.cpu()
            if sum(now) - sum(used) <= 0.02:
                return now
            used = now


COLUMNS: dict[str, tuple[Callable[[Sample], float], int]] = {
    "rate /s": (lambda sample: sample.rate, 0),
    "p50 ms": (lambda sample: sample.p50, 3),
    "p99 ms": (lambda sample: sample.p99, 3),
    "CPU s/100k": (lambda sample: sample.cpu, 2),
    "CPU, neighbour": (lambda sample: sample.cpu_others, 2),
}


def show(scenario: str, load: Load, samples: dict[str, list[Sample]], base: str = DOVECOT) -> None:
    """Print min / median / max of each figure, and of its ratio to that of `base` in the same round."""
    print(f"\n{scenario}, {load.name} ({load.connections} x {load.window}, {load.requests} new users a run)")
    print(f"{'':15}{'':14}{'min':>9}{'median':>9}{'max':>9}   ratio to {base}")
    for name, (value, digits) in COLUMNS.items():
        for system, runs in samples.items():
            values = [value(sample) for sample in runs]
            if not any(values):
                continue
            figures = "".join(f"{v:>9.{digits}f}" for v in (min(values), median(values), max(values)))
            ratios = [value(s) / value(o) for s, o in zip(runs, samples[base], strict=True) if value(o)]
            ratio_range = f"{min(ratios):.2f} / {median(ratios):.2f} / {max(ratios):.2f}" if ratios else ""
            print(f"{name:15}{system:14}{figures}   {'' if system == base else ratio_range}".rstrip())
    print("failed: " + ", ".join(f"{name} {sum(s.failed for s in runs)}" for name, runs in samples.items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the usual number of requests")
    parser.add_argument("--only", choices=["alone", "ring"], help="one scenario only")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("Dovecot 2.3's director needs root: run this as root")
    for scenario, count in (("alone", 1), ("ring", 3)):
        if options.only not in (None, scenario):
            continue
        with tempfile.TemporaryDirectory(prefix="bench") as name, ExitStack() as stack:
            folder = Path(name)
            folder.chmod(0o755)
            bench = Bench(folder, stack)
            systems = [
                bench.dovecot23(count),
                bench.directors(count, "sqlite:///state.db", "on SQLite", 22),
                bench.directors(count, "memory:", "in memory", 23),
            ]
            for load in LOADS:
                size = Load(load.name, int(load.requests * options.scale), load.connections, load.window)
                # The first run forms the ring of Dovecot 2.3's director and warms up all processes.
                for system in systems:
                    bench.measure(system, Load("", max(1000, size.requests // 20), 1, 16))
                samples: dict[str, list[Sample]] = {system.name: [] for system in systems}
                for turn in range(options.runs):
                    for system in random.sample(systems, len(systems)):
                        samples[system.name].append(bench.measure(system, size))
                    print(f"{scenario}, {load.name}: round {turn + 1} of {options.runs}", file=sys.stderr)
                show("alone" if count == 1 else "ring of three, all to one", size, samples)


if __name__ == "__main__":
    main()
