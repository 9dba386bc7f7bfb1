"""Logins of users that do not exist, against one real director: what they cost in memory.

    python -m tests.attacks.unknown_users [--max N]

With a static passdb the director assigns users before their password is checked, so any client can do this.
"""

from __future__ import annotations

import argparse
import re
import select
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.processes import Auth, Client, DirectorProcess, auth_line
from tests.servers import free_port

MANY, LONG, LONG_NAME, WAITING = 200_000, 20_000, 4000, 120_000
"""Users of each flood, and bytes of a long name."""


def resident(pid: int, *, peak: bool = False) -> int:
    """Return the memory of a process, or the most that it has had, in bytes."""
    field = "VmHWM:" if peak else "VmRSS:"
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field} of process {pid}")


@contextmanager
def attacked(settings: dict[str, str]) -> Iterator[DirectorProcess]:
    """Run a director whose auth accepts all users."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        director = DirectorProcess(
            Path(folder) / "d1", "127.0.2.61", port, [], state="memory:", settings=settings
        )
        with Auth(director.auth_path):
            try:
                director.start().wait_ready()
                yield director
            finally:
                director.close()


def log_in(director: DirectorProcess, users: Sequence[str]) -> float:
    """Log in all users, and return the seconds that it took."""
    began = time.monotonic()
    with Client(director.login) as client:
        client.ask(users, at_once=500 if len(users[-1]) < 100 else 20)
    return time.monotonic() - began


def wait_in_vain(director: DirectorProcess, count: int, clients: int, padding: int = 0) -> int:
    """Send logins that cannot be answered, over several connections: all backend hosts are down.

    Returns:
        How many were refused at once, because too many were waiting.
    """
    for host in director.hosts():
        director.change("PATCH", f"/v1/hosts/{host[0]}", {"up": False})
    connections = [Client(director.login) for _ in range(clients)]
    each = 1000 if padding == 0 else 40
    for first in range(0, count // clients, each):
        for number, client in enumerate(connections):
            names = [f"w{number}.{first + n}{'x' * padding}" for n in range(each)]
            client.socket.sendall(b"".join(auth_line(n + 1, name) for n, name in enumerate(names, first)))
            while select.select([client.socket], [], [], 0)[0]:
                client.socket.recv(1 << 20)
    page = director.request("GET", "/metrics")[1].decode()
    for client in connections:
        client.close()
    found = re.search(r"^director_waiting_refused_total ([0-9.]+)", page, re.MULTILINE)
    return int(float(found[1])) if found else 0


def report(settings: dict[str, str]) -> None:
    floods = {
        f"{MANY:,} unknown users": [f"unknown{n}@example.com" for n in range(MANY)],
        f"{LONG:,} names of {LONG_NAME:,} bytes": [f"{n:0{LONG_NAME}}" for n in range(LONG)],
    }
    for what, users in floods.items():
        with attacked(settings) as director:
            log_in(director, users[:100])
            before = resident(director.pid)
            took = log_in(director, users)
            time.sleep(1)
            grown, counted = resident(director.pid) - before, director.users()
            print(
                f"{what}: {grown / 1e6:.1f} MB more, {grown / len(users):.0f} bytes each;"
                f" {counted:,} remembered; {took:.1f} s",
                flush=True,
            )
    for padding, count in ((0, WAITING), (LONG_NAME, LONG)):
        with attacked(settings) as director:
            before = resident(director.pid)
            refused = wait_in_vain(director, count, 12, padding)
            grown = resident(director.pid, peak=True) - before
            what = f"{count:,} logins that wait, names of {padding or 'usual'} bytes"
            print(f"{what}: {grown / 1e6:.1f} MB more, {refused:,} refused at once", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max", type=int, help="users.max of the director that is attacked")
    limit = parser.parse_args().max
    report({} if limit is None else {"users": f"max = {limit}"})


if __name__ == "__main__":
    main()
