"""The dialogue of poolmon 0.6, a widespread monitor of backends, as a client of an admin socket.

It makes one connection for each listing and one for each change, and a thread for each host. A change is sent
line by line after the greeting; the connection is closed without reading the answer.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

GREETING = b"VERSION\tdirector-doveadm\t1\t0\n"
WITHIN = 30.0
"""Seconds for one answer."""


class Poolmon:
    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        """Begin. `connect` connects to a director's admin socket."""
        self._connect = connect

    def scan(self, dead: Iterable[str]) -> None:
        """Take out each dead host, and bring back each other host that is down, all at the same time."""
        down = self.hosts_down()
        changes = [(self._enable, host) for host in down - set(dead)]
        changes += [(self._disable, host) for host in set(dead) - down]
        threads = [threading.Thread(target=change, args=(host,)) for change, host in changes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def hosts_down(self) -> set[str]:
        return {fields[0] for fields in self._rows() if fields[4] == "D"}

    def hosts_with_users(self) -> set[str]:
        return {fields[0] for fields in self._rows() if fields[2] != "0"}

    def _rows(self) -> list[list[str]]:
        rows = []
        with self._greeted() as sock, sock.makefile("rb") as lines:
            sock.sendall(b"HOST-LIST\n")
            while (line := lines.readline()) not in (b"\n", b""):
                rows.append(line.decode().split("\t"))
        return rows

    def _disable(self, host: str) -> None:
        with self._greeted() as sock:
            sock.sendall(f"HOST-DOWN\t{host}\n".encode())
            sock.sendall(f"HOST-FLUSH\t{host}\n".encode())

    def _enable(self, host: str) -> None:
        with self._greeted() as sock:
            sock.sendall(f"HOST-UP\t{host}\n".encode())

    def _greeted(self) -> socket.socket:
        sock = self._connect()
        sock.settimeout(WITHIN)
        sock.sendall(GREETING)
        assert sock.recv(len(GREETING), socket.MSG_WAITALL) == GREETING
        return sock


def over_unix(path: Path | str) -> Poolmon:
    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        return sock

    return Poolmon(connect)


def over_tcp(address: str) -> Poolmon:
    """Return a monitor that connects to HOST:PORT."""
    host, _, port = address.rpartition(":")
    return Poolmon(lambda: socket.create_connection((host, int(port))))
