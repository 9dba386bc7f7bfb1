"""Lets several pytest processes (`pytest -n`, of xdist) run at once.

Each has its own network, so that ports never conflict, and tests that share something run in one process, in
their order.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 0x1
APART = "simulation"
"""The folder of tests that share nothing. Each may run in any process."""
SHARED = ("cluster", "plain", "site")
"""Fixtures of tests/e2e that many files use. One process makes them, once for each release of Dovecot."""


def own_network() -> None:
    """Move this process into a network with nothing but loopback. Raises OSError if root does not run it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot make a network namespace: only root may use pytest -n")
    with socket.socket() as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("16xh", fcntl.ioctl(sock, SIOCGIFFLAGS, request))
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def shorter(base: str) -> str:
    """Return a shorter folder for this process' temporary files: the path of a socket has 107 bytes at
    most."""
    path = Path(base)
    return str(path.with_name(path.name.removeprefix("popen-gw")))


def group_of(item: pytest.Item) -> str:
    """Return the group of a test.

    The tests of a group run in one process. Empty: the test is its own group.
    """
    folder, *_ = item.nodeid.removeprefix("tests/").split("/")
    if folder == APART:
        return ""
    fixtures = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
    if any(name in fixtures and fixtures[name][-1].scope == "package" for name in SHARED):
        return f"e2e with Dovecot {item.callspec.params['programs']}"  # type: ignore[attr-defined]
    return item.nodeid.partition("::")[0]
