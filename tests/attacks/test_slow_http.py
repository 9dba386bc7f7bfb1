"""HTTP clients that send a byte, half a request, or half a body, and stay or hang up."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, suppress

import pytest

from director.web.server import HEAD_WITHIN
from tests.attacks.targets import Target

ONE_BYTE = b"G"
HALF_A_HEAD = b"GET /v1/status HTTP/1.1\r\nHost: x\r\n"
HALF_A_BODY = b"POST /v1/hosts HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{"
HELD = 300


@pytest.mark.parametrize("name", ["http", "api"])
@pytest.mark.parametrize("data", [b"", ONE_BYTE, HALF_A_HEAD, HALF_A_BODY], ids=["0", "1", "head", "body"])
def test_three_hundred_slow_clients_lock_no_other_client_out(
    attacked: Target, name: str, data: bytes
) -> None:
    with ExitStack() as stack:
        for _ in range(HELD):
            stack.enter_context(attacked.connect(name)).sendall(data)
        began = time.monotonic()
        found = {path: attacked.get(name, path) for path in ("/livez", "/readyz", "/metrics")}
        assert found == {"/livez": 200, "/readyz": 200, "/metrics": 200}
        if name == "api":
            assert attacked.director.command("status").returncode == 0
        print(f"{HELD} x {data!r:.20} at {name}: answered within {time.monotonic() - began:.2f} s")


def test_slow_clients_are_disconnected_after_their_time(attacked: Target) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(attacked.connect("http")) for _ in range(12)]
        for sock, data in zip(clients, (b"", ONE_BYTE, HALF_A_HEAD, HALF_A_BODY) * 3, strict=True):
            sock.settimeout(HEAD_WITHIN + 20)
            sock.sendall(data)
        began = time.monotonic()
        for sock in clients:
            wait_for_end(sock)
        assert time.monotonic() - began > HEAD_WITHIN / 2


def wait_for_end(sock: socket.socket) -> None:
    """Wait until the other end closes. Half a body without a token is refused earlier."""
    with suppress(ConnectionResetError):
        while sock.recv(1000):
            pass


@pytest.mark.parametrize("data", [ONE_BYTE, HALF_A_HEAD, HALF_A_BODY], ids=["1", "head", "body"])
def test_clients_that_hang_up_within_a_request_leave_no_traceback(attacked: Target, data: bytes) -> None:
    for number in range(200):
        if number % 2:
            attacked.reset("http", data)
        else:
            with attacked.connect("http") as sock:
                sock.sendall(data)
    assert attacked.get("http", "/livez") == 200
    assert "Traceback" not in attacked.director.complete_log()
    assert attacked.metric("director_internal_errors_total") == 0
