"""Logins through real Dovecot while the director is replaced in place, again and again.

    python -m tests.e2e.restarts_in_place --seconds 60 --restarts 20 --rate 200 [--dovecot 2.4]

Auth answers late, so that requests are waiting at each replacement; they are counted. Idle sessions stay
open, mails are delivered by LMTP, and doveadm looks up users, on connections that are kept. Nothing may fail.
"""

from __future__ import annotations

import argparse
import re
import socket
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from director.demo.clients import Imap, Login, failures, login_many
from director.demo.cluster import Cluster
from director.demo.dovecot import Programs
from director.demo.ports import addresses, free_ports
from tests.e2e.conftest import dovecot, new_folder
from tests.e2e.mailclients import deliver_lmtp, on_two_backends

PROXY, BACKEND = "127.0.60.31", "127.0.60.41"
"""Addresses for the command; the first of two backends."""
DELAY = 0.1
"""Seconds by which the replies of auth are delayed."""
PARALLEL = 250
IDLE = 20
_REQUEST, _REPLY = re.compile(rb"(?m)^(?:AUTH|PASS)\t"), re.compile(rb"(?m)^(?:OK|FAIL|PASS|NOTFOUND)\t")


class SlowAuth:
    """A relay between the director and Dovecot's auth that delays replies, used as a context manager.

    It records how many requests were waiting at each time.
    """

    def __init__(self, path: Path, auth: Path, delay: float) -> None:
        self.path, self.auth, self.delay = path, auth, delay
        self.under_way = 0
        self.history: list[tuple[float, int]] = []
        """Unix time and the number of waiting requests, at each change."""
        self._lock = threading.Lock()

    def at(self, unix: float) -> int:
        """Return how many requests were waiting at a time."""
        return next((number for when, number in reversed(self.history) if when <= unix), 0)

    def __enter__(self) -> SlowAuth:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(100)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.socket(socket.AF_UNIX)
                try:
                    there.connect(str(self.auth))
                except OSError:
                    here.close()
                    there.close()
                    continue
                threading.Thread(target=self._serve, args=(here, there), daemon=True).start()

    def _serve(self, here: socket.socket, there: socket.socket) -> None:
        with here, there:
            back = threading.Thread(target=self._pass, args=(there, here, self.delay), daemon=True)
            back.start()
            self._pass(here, there, 0.0)
            back.join()

    def _pass(self, source: socket.socket, target: socket.socket, delay: float) -> None:
        counted = _REPLY if delay else _REQUEST
        with suppress(OSError):
            while data := source.recv(1 << 18):
                time.sleep(delay)
                number = len(counted.findall(data))
                if number and not delay:
                    self._count(number)
                target.sendall(data)
                if number and delay:
                    self._count(-number)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _count(self, number: int) -> None:
        with self._lock:
            self.under_way += number
            self.history.append((time.time(), self.under_way))


class Report(NamedTuple):
    release: str
    logins: list[Login]
    closed: list[str]
    """Idle sessions that did not answer at the end."""
    deliveries: list[str]
    """The result of each LMTP delivery: its reply, or the error."""
    look_ups: list[int]
    """The exit codes of doveadm."""
    under_way: list[int]
    """Requests that auth had not answered, at each replacement."""
    paused: list[float]
    """Seconds without an answer, at each replacement."""
    problems: list[str]
    """Replacements that failed."""
    descriptors: tuple[int, int]
    """Descriptors open in the director, before and after."""

    def failed(self) -> list[str]:
        """Return all that must not happen, in words."""
        found = [f"{login.user}: {login.error}" for login in failures(self.logins)]
        found += [f"{user} on {hosts}" for user, hosts in on_two_backends(self.logins).items()]
        found += [f"session cut: {name}" for name in self.closed]
        found += [f"lmtp: {reply}" for reply in self.deliveries if not reply.startswith("250")]
        found += [f"doveadm: exit code {code}" for code in self.look_ups if code]
        return found + self.problems

    def text(self) -> str:
        slowest = sorted(login.seconds for login in self.logins)
        return "\n".join(
            [
                f"Dovecot {self.release}: {len(self.paused)} replacements, {sum(self.under_way)} requests"
                f" under way at them ({', '.join(map(str, self.under_way))})",
                f"  logins: {len(self.logins)}, failed {len(failures(self.logins))};"
                f" slowest {slowest[-1]:.2f} s, median {statistics.median(slowest):.2f} s",
                f"  idle sessions cut: {len(self.closed)}; deliveries: {len(self.deliveries)};"
                f" look-ups by doveadm: {len(self.look_ups)}",
                f"  seconds without an answer: min {min(self.paused, default=0):.2f}, median"
                f" {statistics.median(self.paused or [0]):.2f}, max {max(self.paused, default=0):.2f} s",
                f"  descriptors: {self.descriptors[0]} before, {self.descriptors[1]} after",
                *(f"  FAILED {problem}" for problem in self.failed()[:20]),
            ]
        )


def run(
    programs: Programs, proxy_address: str, backend: str, *, seconds: float, restarts: int, rate: float
) -> Report:
    """Start everything, replace the program under load, and end everything.

    `backend` is the first of two addresses.
    """
    ports = free_ports([proxy_address, *addresses(backend, 2)], [proxy_address])
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder(programs))
        cluster = Cluster(
            folder / "c",
            directors=1,
            backends=2,
            ports=ports,
            first_proxy=proxy_address,
            first_backend=backend,
            settings={"dovecot": 'auth_socket = "slow-login"\nuserdb_socket = "slow-userdb"'},
            programs=programs,
        )
        director, proxy = cluster.directors[0], cluster.proxies[0]
        proxy.write()
        slow = [
            stack.enter_context(SlowAuth(proxy.run / "slow-login", proxy.run / "auth-login", DELAY)),
            stack.enter_context(SlowAuth(proxy.run / "slow-userdb", proxy.run / "auth-userdb", DELAY)),
        ]
        stack.enter_context(cluster)
        idle = [stack.enter_context(Imap(proxy_address, ports.imap)) for _ in range(IDLE)]
        for number, session in enumerate(idle):
            session.login(f"idle{number}", "any")
        over = threading.Event()
        deliveries: list[str] = []
        look_ups: list[int] = []
        problems: list[str] = []

        def deliver() -> None:
            while not over.wait(0.3):
                try:
                    deliveries.append(
                        deliver_lmtp(proxy.address, ports.lmtp, f"lena{len(deliveries) % 7}", "hello")
                    )
                except Exception as exc:  # any error is a result of the test
                    deliveries.append(str(exc))

        def look_up() -> None:
            while not over.wait(1.0):
                user = f"lena{len(look_ups) % 7}"
                look_ups.append(
                    proxy.doveadm("mailbox", "status", "-u", user, "messages", "INBOX").returncode
                )

        def replace() -> None:
            begun = time.monotonic()
            for number in range(restarts):
                time.sleep(max(0.0, begun + 0.5 + number * (seconds - 2) / restarts - time.monotonic()))
                done = director.command("reload", "--exec")
                if done.returncode:
                    problems.append(done.stdout + done.stderr)

        def descriptors() -> int:
            return len(list(Path(f"/proc/{director.pid}/fd").iterdir()))

        before = descriptors()
        threads = [threading.Thread(target=each) for each in (deliver, look_up, replace)]
        for thread in threads:
            thread.start()
        users = [f"user{number % 997}" for number in range(round(seconds * rate))]
        logins = login_many(users, [proxy_address], ports.imap, rate=rate, parallel=PARALLEL)
        threads[-1].join()
        over.set()
        for thread in threads:
            thread.join()
        closed = []
        for number, session in enumerate(idle):
            try:
                session.command("NOOP")
            except Exception as exc:  # as above
                closed.append(f"idle{number}: {exc}")
        after = descriptors()
        for session in idle:
            session.close()
        paused, under_way = [], []
        for line in director.log.splitlines():
            if " event=program_replaced " in line:
                seconds_paused = float(line.split(" paused=")[1].split()[0])
                at = datetime.fromisoformat(line.split()[0].removeprefix("time=")).timestamp()
                paused.append(seconds_paused)
                under_way.append(sum(each.at(at - seconds_paused) for each in slow))
            elif " level=error " in line and "kick" not in line:
                problems.append(line)
        return Report(
            programs.release,
            logins,
            closed,
            deliveries,
            look_ups,
            under_way,
            paused,
            problems,
            (before, after),
        )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.restarts_in_place")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--rate", type=float, default=200.0, help="logins begun a second")
    parser.add_argument("--dovecot", choices=["2.3", "2.4"], default="2.3")
    options = parser.parse_args(arguments)
    report = run(
        dovecot(options.dovecot),
        PROXY,
        BACKEND,
        seconds=options.seconds,
        restarts=options.restarts,
        rate=options.rate,
    )
    print(report.text())
    return 1 if report.failed() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
