"""A real server of the API, in its own thread."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from anyio.abc import TaskStatus

from director.net.accept import Limits
from director.web import Offer, run_api
from tests.listening import acceptor
from tests.unit.web.service import Service


@contextmanager
def serving(
    service: Service,
    sock: socket.socket,
    *,
    token: str | None = None,
    trusted: bool = True,
    offer: Offer | None = None,
    limits: Limits | None = None,
    bugs: list[Exception] | None = None,
) -> Iterator[None]:
    async def run(*, task_status: TaskStatus[None]) -> None:
        started = anyio.Event()

        async def serve() -> None:
            await run_api(
                service.operations,
                acceptor(sock, limits or Limits(256)),
                token=lambda: token,
                trusted=trusted,
                bug=lambda text, error: bugs is not None and bugs.append(error),
                offer=offer,
                started=started,
            )

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            await started.wait()
            task_status.started()

    running, _ = service.portal.start_task(run)
    try:
        yield
    finally:
        running.cancel()


def unix_socket(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def tcp_socket() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


class Answer(NamedTuple):
    status: int
    type: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        assert self.type == "application/problem+json"
        assert self.json["status"] == self.status
        return str(self.json["detail"])


class Caller:
    """Sends requests to the server at `address` (a path, or host and port), each on its own connection."""

    def __init__(self, address: Any) -> None:
        self.address = address

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET)
        sock.settimeout(10)
        sock.connect(self.address)
        return sock

    def __call__(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("localhost")
        with self.connect() as connection.sock:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found.get("content-type", ""), found, response.read())
