"""Directors killed, paused and stopped at random under logins: `python -m tests.e2e.chaos --seconds 60`.

Five directors share one Redis. Users log in again and again everywhere, and are followed by
new users; an operator changes weights meanwhile, so that the hash alone does not find an assigned user's
host. Ends with code 1 and keeps the logs if a login fails or a user is on two hosts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import uvloop

from tests.bench.systems import build_tools, fake_auth
from tests.e2e.processes import ROOT, DirectorProcess, Directors
from tests.logins import Login, Logins
from tests.servers import RedisServer

FIRST, COUNT = "127.0.27.1", 5
BACKENDS = [f"127.0.3.{i}" for i in range(1, 5)]
FAULT_EVERY = 2.0
CHANGE_EVERY = 1.5
PAUSES = (1.0, 6.0)
AWAY = 1.0
"""Seconds from the end of a director until it is started again."""
UNREAD = 0.2
"""Seconds for which the end of a dead director may go unnoticed, while logins are still written to it."""
UNHARMED = 2
"""The number of directors to which no fault is done at any time."""
LOGINS_A_USER = 24
CURRENT = 1000
"""The number of users who log in at the same time."""
LATE = 1.0
AFTER_PAUSE = 2.0
"""Seconds after a pause during which a login may still be answered late, or be refused."""
AT_ONCE = 1.0
"""Two hosts for a user within so many seconds are two sessions at the same time."""
WHOLE_WITHIN = 30.0
QUIET = 2.0
SHOWN = 5


@dataclass
class Fault:
    """A fault of one director. Times are monotonic seconds."""

    kind: str
    member: str
    began: float
    ended: float = float("inf")

    def covers(self, login: Login, after: float = 0.0) -> bool:
        """Whether this login was waiting at that director during the fault."""
        assert login.ended is not None
        return self.member == login.at and login.began <= self.ended + after and self.began <= login.ended


@dataclass
class Report:
    """The result of a run."""

    seed: int
    faults: list[Fault]
    changes: int
    logins: list[Login]
    unanswered: int
    turned_away: int
    lag: float
    differing: list[str]
    """Users on whose host the directors differ in the end."""
    users: int
    in_flight: list[Login] = field(default_factory=list)
    """Logins lost with a director that was killed or stopped."""
    put_off: list[Login] = field(default_factory=list)
    """Logins refused by a director that had been paused."""
    late: list[Login] = field(default_factory=list)
    """Logins answered late by a director that was paused."""
    failed: list[Login] = field(default_factory=list)
    """Logins that failed without such an excuse."""
    slowest_new: float = 0.0
    """The longest wait at a director that was not paused, in seconds."""
    slowest_known: float = 0.0
    """The longest wait of users who had been answered before, in seconds."""
    on_two_hosts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        pauses = [fault for fault in self.faults if fault.kind == "paused"]
        ends = [fault for fault in self.faults if fault.kind != "paused"]
        first = first_answers(self.logins)
        for login in self.logins:
            paused = any(fault.covers(login, AFTER_PAUSE) for fault in pauses)
            if login.lost and any(fault.covers(login, UNREAD) for fault in ends):
                self.in_flight.append(login)
            elif login.failed:
                (self.put_off if paused and not login.lost else self.failed).append(login)
            elif paused and login.seconds(0) > LATE:
                self.late.append(login)
            elif not paused and login.began > first.get(login.user, float("inf")):
                self.slowest_known = max(self.slowest_known, login.seconds(0))
            elif not paused:
                self.slowest_new = max(self.slowest_new, login.seconds(0))
        self.on_two_hosts = list(users_on_two_hosts(self.logins))

    @property
    def violations(self) -> list[str]:
        texts = [f"failed: {login}" for login in self.failed]
        texts += [f"never answered: {self.unanswered}"] if self.unanswered else []
        texts += [f"two hosts: {text}" for text in self.on_two_hosts]
        return texts + [f"not the same everywhere: {text}" for text in self.differing]

    def _end_of(self, login: Login) -> Fault:
        return next(fault for fault in self.faults if fault.kind != "paused" and fault.covers(login, UNREAD))

    def table(self) -> str:
        kinds = Counter(fault.kind for fault in self.faults)
        lost = Counter(self._end_of(login).kind for login in self.in_flight)
        answered = sum(bool(login.host) for login in self.logins)
        rows = {
            "directors killed, paused, stopped": "{killed}, {paused}, {stopped}".format_map(
                defaultdict(int, kinds)
            ),
            "weights changed": self.changes,
            "logins answered": answered,
            "users": self.users,
            "longest wait of a new user, none paused": f"{self.slowest_new:.3f} s",
            "longest wait of an assigned user, none paused": f"{self.slowest_known:.3f} s",
            f"answered after more than {LATE:.0f} s at a paused one": len(self.late),
            "refused for a while at a paused one": len(self.put_off),
            "lost with the director killed, stopped": f"{lost['killed']}, {lost['stopped']}",
            "due while no director took any": self.turned_away,
            "longest lag of the logins themselves": f"{self.lag:.3f} s",
            "failed otherwise (0 wanted)": len(self.failed),
            "never answered (0 wanted)": self.unanswered,
            f"users on two hosts within {AT_ONCE:.0f} s (0 wanted)": len(self.on_two_hosts),
            "users that differ in the end (0 wanted)": len(self.differing),
        }
        return "\n".join(f"{name:46}{value!s:>12}" for name, value in rows.items())


def first_answers(logins: Sequence[Login]) -> dict[str, float]:
    """Return when each user was answered first."""
    first: dict[str, float] = {}
    for login in logins:
        if login.host and login.ended is not None:
            first[login.user] = min(login.ended, first.get(login.user, login.ended))
    return first


def users_on_two_hosts(logins: Sequence[Login]) -> Iterator[str]:
    """Yield each user who was answered with two hosts at the same time, and how."""
    last: dict[str, Login] = {}
    reported = set()
    for login in sorted((login for login in logins if login.host), key=lambda login: login.ended or 0):
        before = last.get(login.user)
        last[login.user] = login
        if before is None or before.host == login.host or login.user in reported:
            continue
        if (login.ended or 0) - (before.ended or 0) < AT_ONCE:
            reported.add(login.user)
            yield f"{before}, then {login}"


class Chaos:
    def __init__(
        self, ring: Sequence[DirectorProcess], rate: float, seconds: float, seed: int, least: int
    ) -> None:
        """Prepare a run. `least`: the fewest faults, however long they take."""
        self.ring, self.rate, self.seconds, self.seed, self.least = ring, rate, seconds, seed, least
        self.random = random.Random(seed)
        self.faults: list[Fault] = []
        self.changes = 0
        self.harmed: set[str] = set()

    async def run(self) -> Report:
        sockets = {director.member: director.login for director in self.ring}
        async with Logins(sockets, self.rate, self.user, connections=2) as logins:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._change_weights, tasks)
                await self._harm(tasks)
                tasks.cancel_scope.deadline = anyio.current_time() + WHOLE_WITHIN
            await self._all_whole()
            await asyncio.sleep(QUIET)
            now = time.monotonic()
            unanswered = sum(login.seconds(now) > LATE for login in logins.waiting)
            answered = [login for login in logins.all if login.ended is not None]
            turned_away, late = logins.turned_away, logins.late
        await asyncio.sleep(QUIET)
        maps = [await anyio.to_thread.run_sync(partial(users_of, director)) for director in self.ring]
        users = {login.user for login in answered}
        return Report(
            self.seed,
            self.faults,
            self.changes,
            answered,
            unanswered,
            turned_away,
            late,
            list(differing(maps)),
            len(users),
        )

    def user(self, number: int) -> str:
        """Return a user of a sliding window of users: each is first unassigned, and then logs in again and
        again."""
        return f"user{number // LOGINS_A_USER + self.random.randrange(CURRENT)}"

    async def _harm(self, tasks: anyio.abc.TaskGroup) -> None:
        until = anyio.current_time() + self.seconds
        while anyio.current_time() + FAULT_EVERY < until or len(self.faults) < self.least:
            await asyncio.sleep(FAULT_EVERY)
            choice = [director for director in self.ring if director.member not in self.harmed]
            if len(choice) > UNHARMED:
                director = self.random.choice(choice)
                harm = self.random.choice([self._kill, self._pause, self._stop])
                self.harmed.add(director.member)
                tasks.start_soon(harm, director)

    async def _kill(self, director: DirectorProcess) -> None:
        fault = self._begin("killed", director)
        director.kill()
        await self._bring_back(director, fault)

    async def _stop(self, director: DirectorProcess) -> None:
        fault = self._begin("stopped", director)
        director.send(signal.SIGTERM)
        await anyio.to_thread.run_sync(director.wait)
        await self._bring_back(director, fault)

    async def _pause(self, director: DirectorProcess) -> None:
        fault = self._begin("paused", director)
        director.send(signal.SIGSTOP)
        await asyncio.sleep(self.random.uniform(*PAUSES))
        director.send(signal.SIGCONT)
        fault.ended = time.monotonic()
        self.harmed.discard(director.member)

    def _begin(self, kind: str, director: DirectorProcess) -> Fault:
        fault = Fault(kind, director.member, time.monotonic())
        self.faults.append(fault)
        return fault

    async def _bring_back(self, director: DirectorProcess, fault: Fault) -> None:
        fault.ended = time.monotonic()
        await asyncio.sleep(AWAY)
        director.start()
        await anyio.to_thread.run_sync(director.wait_ready, WHOLE_WITHIN)
        self.harmed.discard(director.member)

    async def _change_weights(self, tasks: anyio.abc.TaskGroup) -> None:
        until = anyio.current_time() + self.seconds
        while anyio.current_time() < until:
            tasks.start_soon(self._change_a_weight)
            await asyncio.sleep(CHANGE_EVERY)

    async def _change_a_weight(self) -> None:
        choice = [director for director in self.ring if director.member not in self.harmed]
        director, host = self.random.choice(choice), self.random.choice(BACKENDS)
        weight = {"weight": self.random.choice([20, 60, 100, 200])}
        request = partial(director.request, "PATCH", f"/v1/hosts/{host}", weight)
        try:
            status, _ = await anyio.to_thread.run_sync(request, abandon_on_cancel=True)
        except (OSError, AssertionError):
            return  # a fault hit the director meanwhile
        self.changes += status == 200

    async def _all_whole(self) -> None:
        for director in self.ring:
            await anyio.to_thread.run_sync(director.wait_whole, len(self.ring), WHOLE_WITHIN)


def users_of(director: DirectorProcess) -> dict[str, str]:
    """Return the host of each key, from `director map`."""
    command = [sys.executable, "-m", "director", "-c", str(director.config), "map", "--json"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return {user["key"]: user["host"] for user in json.loads(listed.stdout)}


def differing(maps: Sequence[dict[str, str]]) -> Iterator[str]:
    for key in sorted(set().union(*maps)):
        hosts = [hosts_of.get(key, "unassigned") for hosts_of in maps]
        if len(set(hosts)) > 1:
            yield f"{key}: {', '.join(hosts)}"


def unleash(rate: float, seconds: float, seed: int, folder: Path, *, least: int = 0) -> Report:
    """Start everything in `folder`, and run. `least`: the fewest faults."""
    build_tools(folder, "fakeauth")
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        ring = Directors(folder, first=FIRST, count=COUNT, state=redis.url, auths=False)
        fake_auth(folder, stack, [director.run for director in ring.all])
        stack.enter_context(ring)
        ring.wait_whole()
        return uvloop.run(Chaos(ring.all, rate, seconds, seed, least).run())


@contextmanager
def kept_if_bad() -> Iterator[Path]:
    """Give a folder that is kept, and named, if the block raises an exception."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        yield folder
    except BaseException:
        print(f"the logs are kept in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=2000.0, help="logins a second, at all directors")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    options = parser.parse_args()
    print(f"seed {options.seed}", file=sys.stderr)
    with kept_if_bad() as folder:
        report = unleash(options.rate, options.seconds, options.seed, folder)
        print(report.table())
        for violation in report.violations[:SHOWN]:
            print(violation, file=sys.stderr)
        if report.violations:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
