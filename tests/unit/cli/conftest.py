from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from director.cli.main import program
from tests.unit.web.fake import FakeOperations
from tests.unit.web.servers import serving, tcp_socket, unix_socket


@pytest.fixture(scope="session")
def shared_operations() -> FakeOperations:
    return FakeOperations()


@pytest.fixture
def operations(shared_operations: FakeOperations) -> FakeOperations:
    shared_operations.start_over()
    return shared_operations


@pytest.fixture(scope="session")
def api(shared_operations: FakeOperations, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path: Path = tmp_path_factory.mktemp("cli") / "api.sock"
    with serving(shared_operations, unix_socket(path)):
        yield str(path)


@pytest.fixture(scope="session")
def url(shared_operations: FakeOperations) -> Iterator[str]:
    """The same over TCP, with a token."""
    sock = tcp_socket()
    host, port = sock.getsockname()
    with serving(shared_operations, sock, token="right-token", trusted=False):
        yield f"http://{host}:{port}"


@pytest.fixture(autouse=True)
def steady_surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable of whoever runs the tests, and one time zone."""
    for name in ("DIRECTOR_CONFIG", "DIRECTOR_TOKEN", "NO_COLOR", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Director:
    """Runs `director -S SOCKET …` in this process."""

    def __init__(self, where: str, operations: FakeOperations) -> None:
        self.where = where
        self.operations = operations

    def __call__(self, *arguments: str, stdin: str = "") -> Result:
        return alone("-S", self.where, *arguments, stdin=stdin)


def alone(*arguments: str, stdin: str = "") -> Result:
    """`director …` as it is written."""
    return CliRunner().invoke(program, list(arguments), input=stdin, catch_exceptions=False)


@pytest.fixture
def director(api: str, operations: FakeOperations) -> Director:
    return Director(api, operations)
