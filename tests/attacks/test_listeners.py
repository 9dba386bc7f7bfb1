"""Clients that reset their connections, take every descriptor, or stay and send nothing."""

from __future__ import annotations

import os
import resource
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from director.service.lifecycle.listeners import SHARE
from tests.attacks.targets import TCP, UNIX, Target, target
from tests.e2e.processes import Client, until

RESETS = 300
IDLE = 160
FEW = 120
"""Descriptors."""


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("d")


def closed(sock: socket.socket) -> bool:
    """Whether the other end has closed a connection. It may have sent a greeting."""
    sock.setblocking(False)
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def works(target: Target) -> bool:
    """Whether logins and operators are answered."""
    with suppress(OSError, AssertionError), Client(target.director.login, within=10) as client:
        return bool(client.ask(["alice"])) and b"127.0.3.1" in target.host_list()
    return False


@pytest.mark.shows("A-1")
@pytest.mark.parametrize("name", [*TCP, *UNIX])
def test_clients_that_reset_at_once_end_nothing(attacked: Target, name: str) -> None:
    for number in range(RESETS):
        attacked.reset(name, b"" if number % 3 else b"VERSION\tx\n")
    assert works(attacked)
    assert attacked.director.all_logged("internal_error") == []
    assert attacked.director.all_logged("program_crashed") == []


@pytest.mark.shows("A-2")
@pytest.mark.parametrize("name", [*TCP, *UNIX])
def test_idle_connections_that_take_every_descriptor_end_nothing(folder: Path, name: str) -> None:
    with target(folder, program=("tests.attacks.limited", str(FEW))) as attacked:
        idle = []
        for _ in range(IDLE):
            idle.append(attacked.connect(name))
        if name != "admin":
            assert b"127.0.3.1" in attacked.host_list()
        if name in ("login", "userdb"):
            assert attacked.director.command("status").returncode == 0
            paused = f'director_accept_pauses_total{{listener="{name}"}}'
            until(lambda: attacked.metric(paused) > 0)
        else:
            refused = f'director_connections_refused_total{{limit="all",listener="{name}"}}'
            until(lambda: attacked.metric(refused) >= IDLE - FEW // SHARE)
            with Client(attacked.director.login) as client:
                assert client.ask(["alice"])
        for sock in idle:
            sock.close()
        until(lambda: works(attacked))
        assert attacked.director.stop() == 0
        assert attacked.director.logged("internal_error") == []


def test_a_director_that_is_started_without_standard_descriptors_works(folder: Path) -> None:
    with target(folder, program=("tests.attacks.closed",)) as attacked:
        for name in (*TCP, *UNIX):
            attacked.reset(name)
        assert works(attacked)
        opened = [os.readlink(f"/proc/{attacked.director.pid}/fd/{number}") for number in range(3)]
        assert opened == [os.devnull] * 3
        assert attacked.director.stop() == 0


@pytest.mark.shows("A-5")
def test_five_thousand_idle_connections_delay_no_login(folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(5000, hard // 3)
    idle: list[socket.socket] = []
    try:
        with target(folder) as attacked:
            before, began = attacked.memory, time.monotonic()
            while len(idle) < count:
                idle.append(socket.socket(socket.AF_UNIX))
                idle[-1].connect(str(attacked.director.login))  # waits while the kernel's queue is full
            with Client(attacked.director.login) as client:
                took, slowest = time.monotonic() - began, 0.0
                for number in range(200):
                    sent = time.monotonic()
                    client.ask([f"user{number}"])
                    slowest = max(slowest, time.monotonic() - sent)
            each = (attacked.memory - before) / count
            print(
                f"{count} idle connections in {took:.2f} s, {each:.0f} bytes each; "
                f"slowest of 200 logins beside them {1000 * slowest:.1f} ms"
            )
            assert each < 20_000
            assert works(attacked)
            for sock in idle:
                sock.close()
            assert works(attacked)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
