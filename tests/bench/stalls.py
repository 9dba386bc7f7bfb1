"""How long new users wait while a director fails, beside Dovecot 2.3's director: `python -m
tests.bench.stalls`.

All rings of three run at the same time and get the same fault in the same moment, while new users log in at
the two directors without a fault. A round of `hung` takes Dovecot 2.3's director a minute. Needs what `make
bench` needs, and Redis.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Protocol

import anyio
import anyio.to_thread
import uvloop

from tests.bench.systems import (
    HOSTS,
    Dovecot23Director,
    build_tools,
    fake_auth,
    wait_for,
)
from tests.e2e.processes import DirectorProcess, Directors
from tests.logins import Logins
from tests.servers import RedisServer

RATE = 200.0
FAULTS = ("hung", "suspended", "stopped", "killed")
SUSPENDED_FOR = 3.0
BEFORE = 1.0
"""Seconds of logins before a fault."""
AFTER = 3.0
"""Seconds after a fault was noticed, or has ended, until the measurement ends, if no login waits then."""
NOTICED_WITHIN = 70.0
NOT_WAITING = 0.1
"""Seconds that a login may have taken so far to count as not waiting."""
ALL_WITHIN = 60.0
"""Seconds after which a waiting login counts with its time so far."""
POLL = 0.005


class Ring(Protocol):
    """Three directors of one kind."""

    name: str
    directors: Sequence[Dovecot23Director] | Sequence[DirectorProcess]

    def pid(self, number: int) -> int:
        """Return the id of the process that hangs or is suspended."""

    def tell_to_stop(self, number: int) -> None:
        """Send SIGTERM, as an init system does, without waiting."""

    def bring_back(self, number: int) -> None:
        """Start a director that has ended, or is about to."""

    def mentions(self, number: int) -> str:
        """Return how the logs of the others name this director."""

    def complete(self) -> bool: ...


class Dovecot23Ring:
    name = "Dovecot 2.3"

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        addresses = [f"127.0.21.{i}" for i in range(1, 4)]
        self.directors = [Dovecot23Director(folder / f"o{a[-1]}", a, addresses) for a in addresses]
        for director in self.directors:
            director.start()
            stack.callback(director.kill)
        fake_auth(folder, stack, [director.run for director in self.directors])
        for director in self.directors:
            director.wake()

    def pid(self, number: int) -> int:
        return self.directors[number].pid

    def tell_to_stop(self, number: int) -> None:
        self.directors[number].tell_to_stop()

    def bring_back(self, number: int) -> None:
        self.directors[number].stop()
        self.directors[number].start()
        self.directors[number].wake()

    def mentions(self, number: int) -> str:
        return f"{self.directors[number].address}:"

    def complete(self) -> bool:
        return all(
            sorted(row[2] for row in rows if row[4].endswith("synced")) == ["left", "right", "self"]
            for rows in (director.ring_list() for director in self.directors)
        )


class DirectorRing:
    def __init__(self, name: str, state: str, network: int, folder: Path, stack: ExitStack) -> None:
        self.name = name
        ring = Directors(
            folder / f"n{network}", first=f"127.0.{network}.1", state=state, backends=HOSTS, auths=False
        )
        self.directors = ring.all
        fake_auth(folder, stack, [director.run for director in self.directors])
        stack.enter_context(ring)

    def pid(self, number: int) -> int:
        return self.directors[number].pid

    def tell_to_stop(self, number: int) -> None:
        self.directors[number].send(signal.SIGTERM)

    def bring_back(self, number: int) -> None:
        self.directors[number].wait()
        self.directors[number].start().wait_ready()

    def mentions(self, number: int) -> str:
        return f"peer={self.directors[number].member}"

    def complete(self) -> bool:
        return all(
            director.ready() and len(director.get("/v1/ring")["ring"]) == 3 for director in self.directors
        )


@dataclass
class Sample:
    """The effect of a fault on the other two directors, in seconds."""

    noticed: float | None
    longest: float
    failed: int
    logins: int
    late: float


class Watch:
    """The lines written to the logs of the other two directors from now on."""

    def __init__(self, ring: Ring, victim: int) -> None:
        self._text = ring.mentions(victim).encode()
        logs = [d.log_path for number, d in enumerate(ring.directors) if number != victim]
        self._ends = {log: log.stat().st_size if log.exists() else 0 for log in logs}

    def mentioned(self) -> bool:
        for log, end in self._ends.items():
            if log.exists():
                with log.open("rb") as file:
                    file.seek(end)
                    if self._text in file.read():
                        return True
        return False


async def measure(ring: Ring, fault: str, victim: int) -> Sample:
    survivors = {str(n): d.login for n, d in enumerate(ring.directors) if n != victim}
    names = f"{fault}{time.time_ns()}-"
    async with Logins(survivors, RATE, lambda number: f"{names}{number}") as logins:
        await anyio.sleep(BEFORE)
        watch = Watch(ring, victim)
        process, begun = ring.pid(victim), time.monotonic()
        if fault in ("hung", "suspended"):
            os.kill(process, signal.SIGSTOP)
        elif fault == "stopped":
            ring.tell_to_stop(victim)
        else:
            ring.directors[victim].kill()
        if fault == "suspended":
            noticed = await first(watch.mentioned, SUSPENDED_FOR)
            await anyio.sleep(max(0.0, begun + SUSPENDED_FOR - time.monotonic()))
            os.kill(process, signal.SIGCONT)
        else:
            noticed = await first(watch.mentioned, NOTICED_WITHIN)
        await anyio.sleep(AFTER)
        await first(lambda: no_login_waits(logins), ALL_WITHIN)
        now, during = time.monotonic(), logins.since(begun)
        sample = Sample(
            noticed,
            max(login.seconds(now) for login in during),
            sum(login.failed for login in during),
            len(during),
            logins.late,
        )
    await anyio.to_thread.run_sync(partial(heal, ring, fault, victim, process))
    return sample


async def first(true: Callable[[], bool], within: float) -> float | None:
    """Return the seconds until a condition holds; None: it does not hold in time."""
    begun = time.monotonic()
    while not true():
        if time.monotonic() > begun + within:
            return None
        await anyio.sleep(POLL)
    return time.monotonic() - begun


def no_login_waits(logins: Logins) -> bool:
    now = time.monotonic()
    return all(login.seconds(now) < NOT_WAITING for login in logins.waiting)


def heal(ring: Ring, fault: str, victim: int, process: int) -> None:
    if fault == "hung":
        os.kill(process, signal.SIGCONT)
    elif fault != "suspended":
        ring.bring_back(victim)
    wait_for(f"{ring.name}: the complete ring", ring.complete)


async def measure_all(rings: Sequence[Ring], fault: str, victim: int) -> dict[str, Sample]:
    samples = await asyncio.gather(*(measure(ring, fault, victim) for ring in rings))
    return {ring.name: sample for ring, sample in zip(rings, samples, strict=True)}


def figures(values: Sequence[float], scale: float, digits: int) -> str:
    """Return min / median / max."""
    return " / ".join(f"{scale * v:.{digits}f}" for v in (min(values), median(values), max(values)))


def show(fault: str, rounds: Sequence[dict[str, Sample]]) -> None:
    print(f"\n{fault} ({len(rounds)} rounds; min / median / max)")
    print(
        f"{'':14}{'noticed after, s':>24}{'longest wait, ms':>28}{'failed':>8}{'logins':>9}{'late, ms':>10}"
    )
    for name in rounds[0]:
        runs = [samples[name] for samples in rounds]
        noticed = [run.noticed for run in runs if run.noticed is not None]
        delay = figures(noticed, 1, 2) if noticed else "not"
        delay += f" ({len(runs) - len(noticed)} not)" if 0 < len(noticed) < len(runs) else ""
        print(
            f"{name:14}{delay:>24}{figures([run.longest for run in runs], 1000, 1):>28}"
            f"{sum(run.failed for run in runs):>8}{sum(run.logins for run in runs):>9}"
            f"{1000 * max(run.late for run in runs):>10.1f}"
        )


async def run(rings: Sequence[Ring], faults: Sequence[str], count: int) -> None:
    for fault in faults:
        rounds = []
        for number in range(count):
            rounds.append(await measure_all(rings, fault, random.randrange(3)))
            print(f"{fault}: round {number + 1} of {count}", file=sys.stderr)
        show(fault, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=FAULTS, action="append", help="these faults only")
    parser.add_argument("--without-dovecot", action="store_true", help="without Dovecot 2.3's director")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("Dovecot 2.3's director needs root: run this as root")
    with tempfile.TemporaryDirectory(prefix="stalls") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        build_tools(folder, "fakeauth")
        redis = stack.enter_context(RedisServer())
        rings: list[Ring] = [] if options.without_dovecot else [Dovecot23Ring(folder, stack)]
        rings.append(DirectorRing("on SQLite", "sqlite:///state.db", 24, folder, stack))
        rings.append(DirectorRing("on Redis", redis.url, 25, folder, stack))
        for ring in rings:
            wait_for(f"{ring.name}: the ring", ring.complete)
        print("late: the lag of the generator of logins; part of every wait", file=sys.stderr)
        uvloop.run(run(rings, options.only or FAULTS, options.rounds))


if __name__ == "__main__":
    main()
