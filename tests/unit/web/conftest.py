from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.web.servers import Caller, serving, tcp_socket, unix_socket
from tests.unit.web.service import Service


@pytest.fixture(scope="session")
def bugs() -> list[Exception]:
    """Errors that the server on the unix socket reports."""
    return []


@pytest.fixture(scope="session")
def unix_server(
    shared_service: Service, bugs: list[Exception], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    path: Path = tmp_path_factory.mktemp("api") / "api.sock"
    with serving(shared_service, unix_socket(path), bugs=bugs):
        yield str(path)


@pytest.fixture(scope="session")
def open_tcp_server(shared_service: Service) -> Iterator[tuple[str, int]]:
    sock = tcp_socket()
    address = sock.getsockname()
    with serving(shared_service, sock, trusted=False):
        yield address


@pytest.fixture(scope="session")
def token_tcp_server(shared_service: Service) -> Iterator[tuple[str, int]]:
    sock = tcp_socket()
    address = sock.getsockname()
    with serving(shared_service, sock, token="right-token", trusted=False):
        yield address


@pytest.fixture
def ask(unix_server: str, service: Service) -> Caller:
    """Requests over the unix socket."""
    return Caller(unix_server)


@pytest.fixture
def ask_open(open_tcp_server: tuple[str, int], service: Service) -> Caller:
    """Requests over TCP, without a configured token."""
    return Caller(open_tcp_server)


@pytest.fixture
def ask_token(token_tcp_server: tuple[str, int], service: Service) -> Caller:
    """Requests over TCP, where changes need a token."""
    return Caller(token_tcp_server)
