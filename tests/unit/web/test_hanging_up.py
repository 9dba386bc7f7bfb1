"""Clients of the API that hang up: a request that has come whole is carried out."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from director.web import run_api
from tests.listening import acceptor
from tests.unit.service.parts import Node, running
from tests.unit.web.servers import unix_socket
from tests.unit.web.service import ONE, small_node
from tests.waiting import until

pytestmark = pytest.mark.anyio

TOKEN = "a token of operators"


class Place:
    """The API on a listener, and its clients, which are plain sockets."""

    def __init__(self, node: Node, sock: socket.socket) -> None:
        self.node, self.bugs = node, list[object]()
        self.acceptor = acceptor(sock)
        self._family, self._address = sock.family, sock.getsockname()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        trusted, started = self._family == socket.AF_UNIX, anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._serve, trusted, started)
            await started.wait()
            task_status.started()

    async def _serve(self, trusted: bool, started: anyio.Event) -> None:
        await run_api(
            self.node.operations,
            self.acceptor,
            token=lambda: None if trusted else TOKEN,
            trusted=trusted,
            bug=lambda *bug: self.bugs.append(bug),
            started=started,
        )

    def client(self, sent: bytes) -> socket.socket:
        made = socket.socket(self._family)
        made.connect(self._address)
        made.sendall(sent)
        return made

    def weight(self) -> int:
        return self.node.director.hosts.rows[ONE].weight


@pytest.fixture(params=["unix", "tcp"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    unix = request.param == "unix"
    sock = unix_socket(tmp_path / "api.sock") if unix else socket.create_server(("127.0.0.1", 0))
    async with running(small_node()) as node, anyio.create_task_group() as tasks:
        made = Place(node, sock)
        await tasks.start(made.run)
        yield made
        tasks.cancel_scope.cancel()


def close(client: socket.socket) -> None:
    client.close()


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def change(weight: int, cut: int = 0) -> bytes:
    """A request for another weight; cut: without so many bytes of its end."""
    body = b'{"weight":%d}' % weight
    head = (
        f"PATCH /v1/hosts/{ONE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    sent = head.encode() + body
    return sent[: len(sent) - cut]


@pytest.mark.parametrize("hang_up", [close, reset])
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 10])
async def test_the_request_of_a_client_that_disconnects_is_carried_out(
    place: Place, hang_up: Callable[[socket.socket], None], turns: int
) -> None:
    client = place.client(change(5))
    for _ in range(turns):
        await anyio.lowlevel.checkpoint()
    hang_up(client)
    await until(lambda: place.weight() == 5)
    await until(lambda: not place.acceptor.connections)
    assert place.bugs == []


async def test_the_request_of_a_client_that_shuts_down_its_sending_side_is_carried_out(place: Place) -> None:
    with place.client(change(5)) as client:
        client.shutdown(socket.SHUT_WR)
        await until(lambda: place.weight() == 5)


@pytest.mark.parametrize("hang_up", [close, reset])
@pytest.mark.parametrize("cut", [1, 5, 14])
async def test_an_incomplete_request_is_not_carried_out(
    place: Place, hang_up: Callable[[socket.socket], None], cut: int
) -> None:
    hang_up(place.client(change(5, cut)))
    hang_up(place.client(change(8)))
    await until(lambda: place.weight() == 8)
    await until(lambda: not place.acceptor.connections)
    assert place.weight() == 8
    assert place.bugs == []
