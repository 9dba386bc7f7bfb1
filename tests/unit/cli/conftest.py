from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from director.cli.main import program
from tests.unit.web.servers import serving, tcp_socket, unix_socket
from tests.unit.web.service import Service


@pytest.fixture(scope="session")
def api(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path: Path = tmp_path_factory.mktemp("cli") / "api.sock"
    with serving(shared_service, unix_socket(path)):
        yield str(path)


@pytest.fixture(scope="session")
def url(shared_service: Service) -> Iterator[str]:
    """The URL of the API over TCP, with a token."""
    sock = tcp_socket()
    host, port = sock.getsockname()
    with serving(shared_service, sock, token="right-token", trusted=False):
        yield f"http://{host}:{port}"


@pytest.fixture(autouse=True)
def steady_surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give every machine the same environment: no variables of the director, and the time zone UTC."""
    for name in ("DIRECTOR_CONFIG", "DIRECTOR_TOKEN", "NO_COLOR", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Director:
    """Runs `director -S SOCKET …` in this process."""

    def __init__(self, where: str, service: Service) -> None:
        self.where = where
        self.service = service

    def __call__(self, *arguments: str, stdin: str = "") -> Result:
        return alone("-S", self.where, *arguments, stdin=stdin)


def alone(*arguments: str, stdin: str = "") -> Result:
    """Run `director` with these arguments in this process."""
    return CliRunner().invoke(program, list(arguments), input=stdin, catch_exceptions=False)


@pytest.fixture
def director(api: str, service: Service) -> Director:
    return Director(api, service)
