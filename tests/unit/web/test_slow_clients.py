"""Slow HTTP clients, and clients that disconnect, do not affect other clients."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from director.net.accept import Limits
from director.web import server
from tests.unit.web.servers import Caller, serving, tcp_socket, unix_socket
from tests.unit.web.service import Service

HALF_A_BODY = b"POST /v1/hosts HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"
MOST = 16


class Served(NamedTuple):
    ask: Caller
    bugs: list[Exception]


@pytest.fixture
def limits() -> Limits:
    return Limits(MOST)


@pytest.fixture
def served(service: Service, tmp_path: Path, limits: Limits) -> Iterator[Served]:
    """Over a unix socket, which has room for MOST connections."""
    bugs: list[Exception] = []
    with serving(service, unix_socket(tmp_path / "s"), limits=limits, bugs=bugs):
        yield Served(Caller(str(tmp_path / "s")), bugs)


def read_to_end(sock: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    data = b""
    try:
        while part := sock.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def send_until_closed(sock: socket.socket, data: bytes) -> None:
    """Send it every 20 ms, until the other end has closed the connection."""
    try:
        while True:
            sock.sendall(data)
            time.sleep(0.02)
    except (BrokenPipeError, ConnectionResetError):
        return


@pytest.mark.shows("A-7")
def test_a_head_that_does_not_come_in_time_ends_the_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_WITHIN", 0.2)
    with served.ask.connect() as silent, served.ask.connect() as half:
        half.sendall(b"GET /livez HT")
        assert read_to_end(silent) == read_to_end(half) == b""


@pytest.mark.shows("A-7")
def test_single_bytes_of_a_head_do_not_lengthen_its_time(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_WITHIN", 0.3)
    with served.ask.connect() as sock:
        send_until_closed(sock, b"x")
        assert read_to_end(sock) == b""


def test_a_second_head_has_a_time_of_its_own(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_WITHIN", 0.3)
    with served.ask.connect() as sock:
        sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        sock.sendall(b"GET /livez HT")
        assert read_to_end(sock) == b""


@pytest.mark.shows("A-7")
def test_a_body_whose_next_part_does_not_come_in_time_ends_the_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PART_WITHIN", 0.2)
    with served.ask.connect() as sock:
        sock.sendall(HALF_A_BODY)
        assert read_to_end(sock) == b""
    assert served.bugs == []


def test_a_body_that_keeps_arriving_may_take_longer_in_total(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PART_WITHIN", 1.5)
    body = b'{"address": "127.0.1.9"}'
    with served.ask.connect() as sock:
        sock.sendall(b"POST /v1/hosts HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
        for begin in range(0, len(body), 8):
            time.sleep(0.6)
            sock.sendall(body[begin : begin + 8])
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.shows("A-7")
def test_a_client_that_takes_no_answers_is_closed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PART_WITHIN", 0.2)
    with served.ask.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        asked = 300
        sock.sendall(b"GET /schema HTTP/1.1\r\nHost: x\r\n\r\n" * asked)
        send_until_closed(sock, b"\r\n")
        assert read_to_end(sock).count(b"HTTP/1.1 200 ") < asked


@pytest.mark.shows("A-7")
@pytest.mark.parametrize("said", [b"", b"G", HALF_A_BODY])
@pytest.mark.parametrize("count", [MOST - 2, 5 * MOST])
def test_idle_connections_do_not_keep_other_clients_out(served: Served, said: bytes, count: int) -> None:
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(served.ask.connect()).sendall(said)
            assert served.ask("GET", "/livez").status == 200
        for path in ("/livez", "/readyz", "/metrics", "/v1/status"):
            assert served.ask("GET", path).status == 200


def test_connections_from_one_address_do_not_keep_other_clients_out(service: Service) -> None:
    sock = tcp_socket()
    port = sock.getsockname()[1]
    with serving(service, sock, limits=Limits(MOST, per_address=4)), ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(b"G")
        assert Caller(("127.0.0.1", port))("GET", "/livez").status == 200


@pytest.mark.parametrize("said", [HALF_A_BODY, HALF_A_BODY.replace(b"50", b"500000"), b"GET / HTTP/1.1\r\n"])
def test_a_client_that_hangs_up_within_its_request_is_no_error(
    served: Served, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            with served.ask.connect() as sock:
                sock.sendall(said)
        assert served.ask("GET", "/v1/hosts").status == 200
        time.sleep(0.1)
    assert served.bugs == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
