"""Logins of users that do not exist, against one real director: what they cost in memory.

    python -m tests.attacks.unknown_users [--max N]

A static passdb has the director assign users before their password is checked, so anybody can do this.
"""

from __future__ import annotations

import argparse
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


def resident(pid: int) -> int:
    """Memory of a process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmRSS of process {pid}")


@contextmanager
def attacked(settings: dict[str, str]) -> Iterator[DirectorProcess]:
    """A director of its own, whose auth lets everybody in."""
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
    """Have them all log in; gives the seconds that took."""
    began = time.monotonic()
    with Client(director.login) as client:
        client.ask(users, at_once=500 if len(users[-1]) < 100 else 20)
    return time.monotonic() - began


def wait_in_vain(director: DirectorProcess, count: int, clients: int, padding: int = 0) -> tuple[int, int]:
    """Logins that nobody can answer, over several connections; all backends are down.

    Returns how many were refused at once, and the memory while the others wait, in bytes."""
    for host in director.hosts():
        director.change("PATCH", f"/v1/hosts/{host[0]}", {"up": False})
    connections = [Client(director.login) for _ in range(clients)]
    for number, client in enumerate(connections):
        for first in range(0, count // clients, 200):
            names = [f"w{number}.{first + n}{'x' * padding}" for n in range(200)]
            client.socket.sendall(b"".join(auth_line(n + 1, name) for n, name in enumerate(names, first)))
    refused = 0
    while readable := select.select([client.socket for client in connections], [], [], 2.0)[0]:
        refused += sum(sock.recv(1 << 20).count(b"FAIL\t") for sock in readable)
    memory = resident(director.pid)
    for client in connections:
        client.close()
    return refused, memory


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
            grown, known = resident(director.pid) - before, director.users()
            print(
                f"{what}: {grown / 1e6:.1f} MB more, {grown / len(users):.0f} bytes each;"
                f" {known:,} remembered; {took:.1f} s",
                flush=True,
            )
    for padding in (0, LONG_NAME):
        count = WAITING if not padding else LONG * 2
        with attacked(settings) as director:
            before = resident(director.pid)
            refused, after = wait_in_vain(director, count, 12, padding)
            what = f"{count:,} logins that wait, names of {padding or 'usual'} bytes"
            print(f"{what}: {(after - before) / 1e6:.1f} MB more, {refused:,} refused at once", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max", type=int, help="users.max of the director that is attacked")
    limit = parser.parse_args().max
    report({} if limit is None else {"users": f"max = {limit}"})


if __name__ == "__main__":
    main()
