"""An auth process that accepts connections and sends nothing, and login processes that give up."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.processes import Auth, Client, DirectorProcess, Directors, connect, until

CLIENTS = 200
MUCH = bytes(100_000) + b"\n"
"""More bytes than a director keeps of a client that auth has not answered yet."""


def descriptors(director: DirectorProcess) -> int:
    return len(os.listdir(f"/proc/{director.pid}/fd"))


def send_what_fits(client: socket.socket) -> None:
    client.settimeout(0.05)
    with suppress(TimeoutError):
        client.sendall(MUCH * 4)


@pytest.mark.shows("A-49")
def test_clients_that_sent_much_to_a_silent_auth_and_hung_up_leave_nothing_behind(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder: Path = tmp_path_factory.mktemp("d")
    with Directors(folder, first="127.0.2.55", count=1) as directors:
        director = directors[0]
        director.wait_ready()
        directors.auths[0].stop()
        silent = Auth(director.auth_path, greeting=b"").start()
        before = descriptors(director)
        clients = [connect(director.login) for _ in range(CLIENTS)]
        for client in clients:
            client.settimeout(5.0)
            client.sendall(MUCH)
        send_what_fits(clients[0])
        until(lambda: len(silent.connections) == CLIENTS, what="all clients and their auths")
        began = time.monotonic()
        for client in clients:
            client.close()
        until(lambda: not silent.connections, what="their connections to auth are closed")
        assert time.monotonic() - began < 10.0
        until(lambda: descriptors(director) < before + CLIENTS // 2, what="their own connections are closed")
        silent.stop()
        directors.auths[0].start()
        with Client(director.login) as client:
            assert set(client.ask(["lena"])) == {"lena"}
