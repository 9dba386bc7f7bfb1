"""Starting and stopping the server inside the event loop of the service."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream

from director.net.accept import Limits
from director.web import run_api
from tests.listening import acceptor
from tests.unit.service.parts import running
from tests.unit.web.servers import Caller, unix_socket
from tests.unit.web.service import GOLD, small_node
from tests.waiting import until

WAITING_CHANGE = (
    b"PATCH /v1/hosts/127.0.1.3 HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\nConnection: close\r\n\r\n"
    b'{"weight":7}'
)


class Server:
    """The API on a unix socket, in the task group of the test."""

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self.path, self.limits = path, limits
        self.node = small_node()
        self.release = self.node.faults.hold = anyio.Event()
        self.started, self.ended = anyio.Event(), anyio.Event()
        self.scope = anyio.CancelScope()

    async def run(self) -> None:
        sock = unix_socket(self.path)
        async with running(self.node):
            with self.scope:
                await run_api(
                    self.node.operations,
                    acceptor(sock, self.limits),
                    token=lambda: None,
                    trusted=True,
                    bug=lambda *_: None,
                    started=self.started,
                )
            self.release.set()
        self.ended.set()

    async def change(self) -> SocketStream:
        """Send a change that does not end before `release`."""
        stream = await anyio.connect_unix(self.path)
        before = len(self.node.faults.asked)
        await stream.send(WAITING_CHANGE)
        await until(lambda: len(self.node.faults.asked) > before)
        return stream

    def weight(self) -> int:
        return self.node.director.hosts.rows[GOLD].weight


@pytest.mark.anyio
async def test_a_request_under_way_is_finished_before_the_server_ends(tmp_path: Path) -> None:
    server = Server(tmp_path / "api.sock")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run)
        await server.started.wait()
        stream = await server.change()
        server.scope.cancel()
        server.release.set()
        assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")
        await stream.aclose()
    assert server.weight() == 7


@pytest.mark.anyio
async def test_a_request_that_does_not_end_keeps_the_server_for_a_second_at_most(tmp_path: Path) -> None:
    server = Server(tmp_path / "api.sock")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run)
        await server.started.wait()
        stream = await server.change()
        server.scope.cancel()
        with anyio.fail_after(1.5):
            await server.ended.wait()
        await stream.aclose()
    assert server.weight() == 100


@pytest.mark.anyio
async def test_requests_under_way_leave_a_quarter_of_the_connections_to_probes_which_always_answer(
    tmp_path: Path,
) -> None:
    server = Server(tmp_path / "api.sock", Limits(8))

    async def ask(path: bytes) -> bytes:
        async with await anyio.connect_unix(server.path) as stream:
            await stream.send(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            return (await stream.receive()).split(b" ")[1]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run)
        await server.started.wait()
        changes = [await server.change() for _ in range(6)]
        assert [await ask(path) for path in (b"/livez", b"/readyz", b"/v1/hosts")] == [b"200", b"200", b"503"]
        server.release.set()
        assert (await changes[0].receive()).startswith(b"HTTP/1.1 200 ")
        await until(lambda: server.weight() == 7)
        for stream in changes:
            await stream.aclose()
        server.scope.cancel()


@pytest.mark.anyio
async def test_the_server_does_not_change_signal_handlers(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    server = Server(tmp_path / "api.sock")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run)
        await server.started.wait()
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        server.scope.cancel()


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03" * 20, b"VERSION\tauth\t1\t0\n\n", b"GET / SMTP\r\n\r\n"],
)
def test_a_client_that_does_not_speak_http_is_answered_and_affects_no_other_client(
    ask: Caller, garbage: bytes
) -> None:
    with ask.connect() as sock:
        sock.sendall(garbage + b"\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
    assert ask("GET", "/v1/hosts").status == 200


def test_a_request_without_a_host_header_is_answered_like_any_other(ask: Caller) -> None:
    with ask.connect() as sock:
        sock.sendall(b"GET /nothing HTTP/1.0\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 404 ")


def test_the_connection_of_an_endless_head_is_closed(ask: Caller) -> None:
    with ask.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 20_000)
        assert sock.recv(100).startswith(b"HTTP/1.1 400 ")


def test_half_a_request_does_not_hold_up_others(ask: Caller) -> None:
    with ask.connect() as sock:
        sock.sendall(b"POST /v1/hosts HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
        assert ask("GET", "/v1/hosts").status == 200
        sock.shutdown(socket.SHUT_RDWR)


def test_importing_the_entry_of_the_api_does_not_import_its_framework() -> None:
    program = "import sys, director.web; sys.exit('litestar' in sys.modules or 'uvicorn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


TWO_LISTENERS = """
import socket, sys, threading
from functools import partial
import anyio
from director.web import run_api
from tests.listening import acceptor

class Turns:
    threads = []

    def find_spec(self, name, path, target=None):
        me = threading.get_ident()
        if name.startswith("litestar") and self.threads[-1:] != [me]:
            self.threads.append(me)

async def main():
    serve = partial(run_api, token=lambda: None, trusted=True, bug=print)
    async with anyio.create_task_group() as tasks:
        started = [anyio.Event(), anyio.Event()]
        for event in started:
            sock = socket.create_server(("127.0.0.1", 0))
            tasks.start_soon(partial(serve, None, acceptor(sock), started=event))
        for event in started:
            await event.wait()
        tasks.cancel_scope.cancel()

sys.setswitchinterval(0.0005)  # as the daemon does
sys.meta_path.insert(0, Turns())
anyio.run(main, backend_options={"use_uvloop": True})
print(Turns.threads == list(dict.fromkeys(Turns.threads)))
"""


def test_a_start_with_two_listeners_does_not_crash() -> None:
    """The framework was imported in two threads at once: some starts ended with an ImportError."""
    result = subprocess.run([sys.executable, "-c", TWO_LISTENERS], capture_output=True, text=True, timeout=60)
    # one thread after the other
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr[-2000:]
