"""A proxy with one login process whose director dies, and clients that connect meanwhile.

    python -m tests.e2e.dead_director [--kills 100] [--sites 8] [--dovecot 2.4] [--without-keeper]

kills the directors of several such proxies again and again under thin traffic, and prints how long clients
waited to be greeted. Without a keeper a client that came while the director was dead may wait until another
comes to the same login process, or for 30 s (docs/dovecot.md, "While no director runs").
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from director.demo.cluster import Cluster
from director.demo.dovecot import Programs
from director.demo.ports import free_ports
from director.demo.process import ServeProcess
from director.net import keeperlink
from tests.e2e.conftest import dovecot, new_folder

ONE_PROCESS = """
service imap-login {
  process_min_avail = 1
  process_limit = 1
}
"""
GIVES_UP = 40.0
"""Seconds after which a client hangs up; Dovecot does so after 30."""
SLOW = 10.0
PROXY, BACKEND = "127.0.83.{}", "127.0.84.{}"
"""Addresses for the command."""


@contextmanager
def site(
    folder: Path, programs: Programs, proxy: str, backend: str, *, expire: str = "15 min"
) -> Iterator[Cluster]:
    """Give a director, its proxy with one imap-login process, and one backend."""
    cluster = Cluster(
        folder,
        directors=1,
        backends=1,
        ports=free_ports([proxy, backend], [proxy]),
        first_proxy=proxy,
        first_backend=backend,
        programs=programs,
        settings={"users": f'expire = "{expire}"'},
        protocols=("imap",),
    )
    cluster.proxies[0].extra = ONE_PROCESS
    with cluster:
        yield cluster


def keeper_of(cluster: Cluster) -> int:
    """Return the process id of the director's keeper."""
    return keeperlink.status(str(cluster.proxies[0].run / "director-keeper")).process


class Visitor:
    """A client that connects and waits for the greeting."""

    def __init__(self, cluster: Cluster) -> None:
        self.began = time.monotonic()
        self.ended = 0.0
        """The time when it was greeted, or the connection was closed."""
        self.lines: list[str] = []
        self._address = (cluster.proxies[0].address, cluster.ports.imap)
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    @property
    def greeted(self) -> bool:
        return bool(self.lines) and "ready." in self.lines[-1]

    def done(self, within: float = GIVES_UP) -> Visitor:
        """Wait until it has ended."""
        self._thread.join(within)
        return self

    def _wait(self) -> None:
        with suppress(OSError):
            with socket.create_connection(self._address, timeout=GIVES_UP) as end, end.makefile() as stream:
                for line in stream:
                    self.lines.append(line.rstrip())
                    if self.greeted:
                        break
        self.ended = time.monotonic()


class Wait(NamedTuple):
    seconds: float
    after_ready: float
    """The part of it after the director was ready: the time of its start depends on the machine."""
    greeted: bool
    during: bool
    """Whether it came while no director served."""
    lines: list[str]

    def __str__(self) -> str:
        when = "without a director" if self.during else "with a director"
        return f"came {when}, {self.seconds:.1f} s, {self.after_ready:.1f} s since it was ready: {self.lines}"


class Site:
    """One of the command's proxies. It kills its director, and starts clients."""

    def __init__(self, cluster: Cluster, *, gap: float, keeper: bool, chance: random.Random) -> None:
        """Prepare the site. `gap`: seconds between two clients, on average."""
        self.waits: list[Wait] = []
        self._cluster, self._gap, self._keeper, self._chance = cluster, gap, keeper, chance
        self._away = False
        self._ready: list[float] = [time.monotonic()]
        """The times when the director was ready."""
        self._over = threading.Event()

    def run(self, kills: int) -> None:
        guests = threading.Thread(target=self._let_clients_come)
        guests.start()
        director = self._cluster.directors[0]
        for _ in range(kills):
            time.sleep(self._chance.uniform(2, 6))
            self._away = True
            self._kill(director)
            time.sleep(self._chance.uniform(0.2, 3))
            director.start()
            director.wait_ready()
            self._ready.append(time.monotonic())
            self._away = False
            time.sleep(self._chance.uniform(8, 14))
        self._over.set()
        guests.join()

    def _kill(self, director: ServeProcess) -> None:
        process = keeper_of(self._cluster)
        director.kill()
        if not self._keeper:
            os.kill(process, signal.SIGKILL)

    def _let_clients_come(self) -> None:
        visitors: list[tuple[Visitor, bool]] = []
        while not self._over.wait(self._chance.expovariate(1 / self._gap)):
            visitors.append((Visitor(self._cluster), self._away))
        for visitor, away in visitors:
            visitor.done()
            self.waits.append(self._wait(visitor, away))

    def _wait(self, visitor: Visitor, away: bool) -> Wait:
        began, ended = visitor.began, visitor.ended
        ready = max((at for at in self._ready if at < ended), default=began)
        return Wait(ended - began, ended - max(began, ready), visitor.greeted, away, visitor.lines)


def report(waits: Sequence[Wait], kills: int) -> str:
    slow = [wait for wait in waits if wait.seconds > SLOW or not wait.greeted]
    late = sum(wait.after_ready > SLOW for wait in waits)
    longest = max(wait.seconds for wait in waits), max(wait.after_ready for wait in waits)
    away, never = sum(wait.during for wait in waits), sum(not wait.greeted for wait in waits)
    text = (
        f"{kills} kills, {len(waits)} clients, {away} of them while no director served; "
        f"{len(slow)} waited over {SLOW:.0f} s, {late} of them that long since the director was ready, "
        f"{never} were not greeted; longest {longest[0]:.1f} s, since it was ready {longest[1]:.1f} s"
    )
    return "\n".join([text, *(f"  {wait}" for wait in slow)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.dead_director", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="in all")
    parser.add_argument("--sites", type=int, default=8, help="proxies at the same time")
    parser.add_argument(
        "--gap", type=float, default=5.0, help="seconds between two clients of a proxy, on average"
    )
    parser.add_argument("--dovecot", choices=("2.3", "2.4"), default="2.4")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--without-keeper", action="store_true", help="kill the keeper too, as if there were none"
    )
    given = parser.parse_args()
    programs = dovecot(given.dovecot)
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder(programs))
        sites = []
        for number in range(given.sites):
            proxy, backend = PROXY.format(11 + number), BACKEND.format(11 + number)
            cluster = stack.enter_context(site(folder / f"s{number}", programs, proxy, backend))
            chance = random.Random(given.seed * 1000 + number)
            sites.append(Site(cluster, gap=given.gap, keeper=not given.without_keeper, chance=chance))
        each = -(-given.kills // given.sites)
        threads = [threading.Thread(target=site_.run, args=(each,)) for site_ in sites]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    waits = [wait for site_ in sites for wait in site_.waits]
    print(f"Dovecot {given.dovecot}: {report(waits, each * given.sites)}")
    return 0 if all(wait.greeted and wait.after_ready <= SLOW for wait in waits) else 1


if __name__ == "__main__":
    sys.exit(main())
