"""Clients that hang up: the commands that they had sent are carried out, over real sockets."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import anyio
import pytest

from director.net.accept import Acceptor, Limits
from director.net.admin import READ_AHEAD, READ_SIZE, AdminClients
from director.records import HostInfo, UserInfo
from director.service.endpoints.admin import AdminHandler
from director.service.log import Log
from director.wire.admin import GREETING
from tests.conformance.real_operations import real_node
from tests.listening import acceptor
from tests.unit.service.parts import Node
from tests.waiting import until

pytestmark = pytest.mark.anyio

HOSTS = [HostInfo(address=f"127.0.1.{number}", weight=100, up=True) for number in (1, 2, 3)]
USERS = [(str(number), f"127.0.1.{1 + number % 2}") for number in range(1, 101)]
MONITOR = b"HOST-DOWN\t127.0.1.1\nHOST-FLUSH\t127.0.1.1\n"
"""The commands that poolmon sends for a dead host, before it hangs up."""
WITHIN = 10.0
TURNS = 300
"""Turns of the loop in which it reads everything that the kernel has received."""


class Place:
    """An admin listener, and its clients, which are plain sockets."""

    def __init__(self, sock: socket.socket, node: Node, limits: Limits | None = None) -> None:
        self.node, self.operations, self.lines = node, node.operations, list[str]()
        log = Log(write=self.lines.append, level="debug")
        self.clients = AdminClients(AdminHandler(node.operations, log), log)
        self.acceptor: Acceptor = acceptor(sock, limits)
        self._made: list[socket.socket] = []
        self._family, self._address = sock.family, sock.getsockname()

    def client(self, sent: bytes) -> socket.socket:
        """Connect and send, and read nothing. The kernel takes both before the listener accepts the
        connection."""
        made = socket.socket(self._family)
        made.settimeout(WITHIN)
        self._made.append(made)
        made.connect(self._address)
        made.sendall(sent)
        return made

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self.clients.serve, self.acceptor)
        return self

    async def __aexit__(self, *failure: Any) -> None:
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(*failure)
        for client in self._made:
            client.close()

    async def quiet(self) -> None:
        """Wait until no client is left."""
        await all_tasks_wait()
        await until(lambda: not self.acceptor.connections)

    async def hosts(self) -> dict[str, tuple[int, bool, int]]:
        """Return weight, whether it is up, and number of users, of each host."""
        return {h.address[-1]: (h.weight, h.up, h.users) for h in await self.operations.queries.hosts()}


async def all_tasks_wait() -> None:
    """Wait until every task has done all that does not depend on this test."""
    for _ in range(TURNS):
        await anyio.lowlevel.checkpoint()


def unix_socket(folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(folder / "admin"))
    sock.listen()
    return sock


@pytest.fixture(params=["unix", "tcp"])
async def place(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Place]:
    sock = unix_socket(folder) if request.param == "unix" else socket.create_server(("127.0.0.1", 0))
    async with real_node(HOSTS, USERS) as node, Place(sock, node) as made:
        yield made


def close(client: socket.socket) -> None:
    client.close()


def close_after_the_greeting(client: socket.socket) -> None:
    assert client.recv(1000) == GREETING
    client.close()


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def shut_down_sending(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)


def shut_down_reading(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_RD)
    client.shutdown(socket.SHUT_WR)


HANG_UPS = [close, close_after_the_greeting, reset, shut_down_sending, shut_down_reading]


@pytest.mark.parametrize("hang_up", HANG_UPS)
@pytest.mark.parametrize("when", ["before it is accepted", "while a command runs"])
async def test_all_commands_of_a_client_that_hangs_up_are_carried_out(
    place: Place, hang_up: Callable[[socket.socket], None], when: str
) -> None:
    place.node.faults.hold = anyio.Event()
    client = place.client(
        GREETING + MONITOR + b"HOST-UPDATE\t127.0.1.2\t50\nHOST-LIST\nHOST-DOWN\t127.0.1.3\n"
    )
    if when == "while a command runs" or hang_up is close_after_the_greeting:
        await all_tasks_wait()
    await anyio.to_thread.run_sync(hang_up, client)
    await all_tasks_wait()
    assert (await place.hosts())["1"] == (100, True, 50)
    place.node.faults.hold.set()
    await place.quiet()
    assert await place.hosts() == {"1": (100, False, 0), "2": (50, True, 50), "3": (100, False, 0)}
    assert "level=error" not in "".join(place.lines)


async def test_one_command_of_a_client_that_never_reads_is_carried_out(place: Place) -> None:
    place.client(GREETING + b"HOST-DOWN\t127.0.1.1\n").close()
    await place.quiet()
    assert (await place.hosts())["1"] == (100, False, 50)


async def test_an_answer_that_does_not_reach_its_client_delays_no_command(place: Place) -> None:
    # The client is connected when its first command is answered, and not when the second is.
    client = place.client(GREETING + b"HOST-DOWN\t127.0.1.1\n")
    await all_tasks_wait()
    place.node.faults.hold = anyio.Event()
    client.sendall(b"HOST-DOWN\t127.0.1.2\n" + b"HOST-FLUSH\t127.0.1.1\n" * 3 + b"HOST-UP\t127.0.1.1\n")
    await all_tasks_wait()
    client.close()
    place.node.faults.hold.set()
    await place.quiet()
    assert await place.hosts() == {"1": (100, True, 0), "2": (100, False, 50), "3": (100, True, 0)}


@pytest.mark.parametrize("first", [b"", b"HELLO\n", b"VERSION\tdirector-doveadm\t2\t0\n"])
@pytest.mark.parametrize("hang_up", [close, reset, shut_down_sending])
async def test_nothing_is_carried_out_after_a_wrong_handshake(
    place: Place, first: bytes, hang_up: Callable[[socket.socket], None]
) -> None:
    hang_up(place.client(first + MONITOR + GREETING + MONITOR))
    await place.quiet()
    assert (await place.hosts())["1"] == (100, True, 50)
    assert "event=admin_client_refused" in "".join(place.lines)


async def test_a_line_that_is_no_command_discards_the_rest_of_what_a_client_sent_before_it_hung_up(
    place: Place,
) -> None:
    place.client(GREETING + b"HOST-DOWN\t127.0.1.1\nBOGUS\nHOST-DOWN\t127.0.1.2\n").close()
    await place.quiet()
    assert await place.hosts() == {"1": (100, False, 50), "2": (100, True, 50), "3": (100, True, 0)}


async def test_half_a_line_of_a_client_that_hung_up_is_not_carried_out(place: Place) -> None:
    reset(place.client(GREETING + MONITOR + b"HOST-UPDATE\t127.0.1.2\t5"))
    await place.quiet()
    assert await place.hosts() == {"1": (100, False, 0), "2": (100, True, 50), "3": (100, True, 0)}
    assert "hung up in the middle of a line" in "".join(place.lines)


BATCHES = 1000


def list_long(node: Node) -> list[int]:
    """Give the node more users than are sent to a client that does not read, and count the listed batches."""
    batches = [0]

    async def users(host: str | None = None) -> AsyncIterator[list[UserInfo]]:
        row = UserInfo(hash=1, key=f"{1:016x}", host="127.0.1.1", expires=0)
        for _ in range(BATCHES):
            batches[0] += 1
            await anyio.lowlevel.checkpoint()
            yield [row] * 1000

    node.operations.queries.users = users
    return batches


@pytest.mark.parametrize("hang_up", [close, reset])
async def test_a_list_stops_when_its_client_has_hung_up(
    folder: Path, hang_up: Callable[[socket.socket], None]
) -> None:
    async with real_node(HOSTS, USERS) as node, Place(unix_socket(folder), node) as place:
        batches = list_long(node)
        client = place.client(GREETING + b"USER-LIST\nUSER-LIST\nHOST-LIST\n" + MONITOR)
        await all_tasks_wait()
        (begun,) = batches
        hang_up(client)
        await place.quiet()
        assert 0 < begun < BATCHES
        assert batches == [begun]
        assert (await place.hosts())["1"] == (100, False, 0)


LINE = b"HOST-UPDATE\t127.0.1.2\t%03d\n"
SIZE = len(LINE % 0)


async def _fill(place: Place) -> int:
    """Send lines as long as the listener takes them, while a command runs. Returns their number."""
    place.node.faults.hold = anyio.Event()
    client = place.client(GREETING + b"HOST-DOWN\t127.0.1.1\n")
    client.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await all_tasks_wait()
    sent = blocked = 0
    while blocked < 3:
        line, begun = LINE % (sent // SIZE % 1000), sent % SIZE
        try:
            sent += client.send(line[begun:])
        except BlockingIOError:
            blocked += 1
            await all_tasks_wait()
        else:
            blocked = 0
    client.close()
    return sent // SIZE


@pytest.mark.shows("A-8")
async def test_while_a_command_runs_up_to_64_kb_of_lines_are_read(folder: Path) -> None:
    async with real_node(HOSTS) as node, Place(unix_socket(folder), node) as place:
        sent = await _fill(place)
    (dropped,) = [line for line in place.lines if "event=admin_commands_dropped" in line]
    read = int(dropped.partition("commands=")[2].split()[0]) - len(["HOST-DOWN"])
    assert (READ_AHEAD - 2 * READ_SIZE) // SIZE < read <= READ_AHEAD // SIZE < sent


async def test_more_lines_than_are_read_ahead_are_all_carried_out(place: Place) -> None:
    weights: list[int] = []

    async def update(address: str, weight: int, **_: object) -> None:
        weights.append(weight)

    place.operations.hosts.update = update  # tens of thousands of real changes would take long
    sent = await _fill(place)
    assert place.node.faults.hold is not None
    place.node.faults.hold.set()
    await place.quiet()
    assert weights == [number % 1000 for number in range(sent)]


async def test_all_commands_of_a_client_that_is_disconnected_for_another_are_carried_out(
    folder: Path,
) -> None:
    # The client has stopped reading a list; the listener is full, and another client connects.
    async with (
        real_node(HOSTS, USERS) as node,
        Place(unix_socket(folder), node, Limits(1)) as place,
    ):
        list_long(node)
        client = place.client(GREETING + b"USER-LIST\n" + MONITOR)
        await all_tasks_wait()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("director.net.places.TAKE_WITHIN", 0.0)
            other = place.client(GREETING + b"HOST-DOWN\t127.0.1.2\n")
            await until(lambda: place.acceptor.connections == 1 and not place.clients.busy)
        assert await place.hosts() == {"1": (100, False, 0), "2": (100, False, 50), "3": (100, True, 0)}
        assert other.recv(1000).startswith(GREETING)
        client.close()


async def test_commands_that_have_arrived_are_carried_out_before_the_listeners_close(place: Place) -> None:
    idle, sends = place.client(GREETING), place.client(GREETING)
    await all_tasks_wait()
    place.node.faults.hold = anyio.Event()
    sends.sendall(MONITOR + b"HOST-DO")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place.clients.finish_commands)
        await all_tasks_wait()
        place.client(GREETING + b"HOST-DOWN\t127.0.1.2\n")
        await all_tasks_wait()
        assert place.clients.busy
        place.node.faults.hold.set()
    assert await place.hosts() == {"1": (100, False, 0), "2": (100, True, 50), "3": (100, True, 0)}
    assert idle.recv(1000) == GREETING
    assert idle.recv(1000) == b""
    assert "level=error" not in "".join(place.lines)


async def test_commands_that_are_not_carried_out_before_the_end_are_logged(folder: Path) -> None:
    async with real_node(HOSTS, USERS) as node, Place(unix_socket(folder), node) as place:
        place.node.faults.hold = anyio.Event()
        place.client(GREETING + MONITOR).close()
        await all_tasks_wait()
    assert "event=admin_commands_dropped peer=unix commands=2" in "".join(place.lines)
