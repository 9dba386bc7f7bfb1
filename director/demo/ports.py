"""Loopback addresses and ports of a demo cluster, and the programs that already use them."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from director.errors import DirectorError

LISTENING = "0A"
UNPRIVILEGED = 1024


class DemoError(DirectorError):
    """The demo cluster cannot be started, or a part of it failed. The text is for the user."""


class Ports(NamedTuple):
    """The TCP ports every proxy and backend listens on, and those of the directors' ring."""

    imap: int = 143
    pop3: int = 110
    lmtp: int = 24
    doveadm: int = 24245
    ring: int = 9090
    submission: int = 587
    sieve: int = 4190

    @property
    def dovecot(self) -> tuple[int, ...]:
        return self.imap, self.pop3, self.lmtp, self.doveadm, self.submission, self.sieve

    def of(self, protocol: str) -> int:
        """The port of `imap`, `pop3`, `lmtp`, `sieve`, `submission` or `doveadm`."""
        port: int = getattr(self, protocol)
        return port


USUAL = Ports()
HIGH = Ports(imap=10143, pop3=10110, lmtp=10024, doveadm=34245, ring=19090, submission=10587, sieve=14190)


def addresses(first: str, count: int) -> list[str]:
    """Return `count` consecutive IPv4 addresses from `first` on."""
    return [str(IPv4Address(first) + number) for number in range(count)]


def free_ports(servers: Iterable[str], directors: Iterable[str]) -> Ports:
    """Return the usual ports if this user may open them and all are free; else the high ports.

    Raises DemoError, which names the process that uses a port, if the high ports are taken too.
    """
    servers, directors = list(servers), list(directors)

    def taken(ports: Ports) -> list[tuple[str, int]]:
        wanted = [(address, port) for address in servers for port in ports.dovecot]
        wanted += [(address, ports.ring) for address in directors]
        return [(address, port) for address, port in wanted if not is_free(address, port)]

    if os.geteuid() == 0 and not taken(USUAL):
        return USUAL
    if blocked := taken(HIGH):
        raise DemoError(port_problem(*blocked[0]))
    return HIGH


def is_free(address: str, port: int) -> bool:
    """Whether this user could listen on address:port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise DemoError(f"cannot listen on {address}:{port}: {error.strerror}") from error
    return True


def is_listening(address: str, port: int) -> bool:
    """Whether a process listens on address:port; found without connecting."""
    return any(where == address for where, _ in _listeners(port))


def port_problem(address: str, port: int) -> str:
    """A sentence that says why address:port cannot be opened, and which process listens there."""
    if port < UNPRIVILEGED and os.geteuid() != 0:
        return f"{address}:{port} may only be opened by root"
    for where, inode in _listeners(port):
        if where in (address, "0.0.0.0", "::"):
            owner = _owner(inode)
            return f"{address}:{port} is taken: {owner} listens on {where}:{port}; stop it and try again"
    return f"{address}:{port} is taken by a process that this user cannot see; stop it and try again"


def _listeners(port: int) -> list[tuple[str, str]]:
    """(address, inode of the socket) of every listener on `port`, from /proc/net."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            packed, number = fields[1].split(":")
            if fields[3] == LISTENING and int(number, 16) == port:
                found.append((_address(packed), fields[9]))
    return found


def _address(packed: str) -> str:
    # /proc/net writes an address as 32-bit words in the machine's byte order
    words = [int(packed[at : at + 8], 16) for at in range(0, len(packed), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, raw)


def _owner(inode: str) -> str:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(link) == f"socket:[{inode}]" for link in (process / "fd").iterdir()):
                command = (
                    (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                )
                return f"process {process.name} ({command[:60]})"
        except OSError:  # the process has ended, or belongs to another user
            continue
    return "a process of another user"
