"""HTTP clients that send a byte, half a request, or half a body, and stay or go."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from director.web.server import HEAD_WITHIN
from tests.attacks.targets import Target, target

ONE_BYTE = b"G"
HALF_A_HEAD = b"GET /v1/status HTTP/1.1\r\nHost: x\r\n"
HALF_A_BODY = b"POST /v1/hosts HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{"
HELD = 300


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("d")) as found:
        yield found


@pytest.mark.parametrize("name", ["http", "api"])
@pytest.mark.parametrize("said", [b"", ONE_BYTE, HALF_A_HEAD, HALF_A_BODY], ids=["0", "1", "head", "body"])
def test_three_hundred_slow_clients_lock_no_other_client_out(
    attacked: Target, name: str, said: bytes
) -> None:
    with ExitStack() as stack:
        for _ in range(HELD):
            stack.enter_context(attacked.connect(name)).sendall(said)
        began = time.monotonic()
        found = {path: attacked.get(name, path) for path in ("/livez", "/readyz", "/metrics")}
        assert found == {"/livez": 200, "/readyz": 200, "/metrics": 200}
        if name == "api":
            assert attacked.director.command("status").returncode == 0
        print(f"{HELD} x {said!r:.20} at {name}: answered within {time.monotonic() - began:.2f} s")


def test_slow_clients_are_disconnected_after_their_time(attacked: Target) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(attacked.connect("http")) for _ in range(12)]
        for sock, said in zip(held, (b"", ONE_BYTE, HALF_A_HEAD, HALF_A_BODY) * 3, strict=True):
            sock.settimeout(HEAD_WITHIN + 20)
            sock.sendall(said)
        began = time.monotonic()
        for sock in held:
            wait_for_end(sock)
        assert time.monotonic() - began > HEAD_WITHIN / 2


def wait_for_end(sock: socket.socket) -> None:
    """Until the other end closes; half a body without a token is refused before."""
    with suppress(ConnectionResetError):
        while sock.recv(1000):
            pass


@pytest.mark.parametrize("said", [ONE_BYTE, HALF_A_HEAD, HALF_A_BODY], ids=["1", "head", "body"])
def test_clients_that_hang_up_within_a_request_leave_no_traceback(attacked: Target, said: bytes) -> None:
    for number in range(200):
        if number % 2:
            attacked.reset("http", said)
        else:
            with attacked.connect("http") as sock:
                sock.sendall(said)
    assert attacked.get("http", "/livez") == 200
    assert "Traceback" not in attacked.director.complete_log()
    assert attacked.metric("director_internal_errors_total") == 0
