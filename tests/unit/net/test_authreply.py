"""The authreply socket between a real client and an owner that answers whenever it likes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from director.net.authreply import AuthreplyClient, AuthreplySocket
from director.net.listen import unix_listener
from director.wire.authreply import GREETING, LINE_LIMIT
from tests.listening import acceptor
from tests.waiting import until

pytestmark = pytest.mark.anyio

HELLO = b"VERSION\tdirector-authreply-client\t1\t0\n"


class AuthreplyOwner:
    """Keeps lines that say `later`, and passes all others back."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.gone = 0
        self.held: list[tuple[AuthreplyClient, bytes]] = []

    def lines(self, client: AuthreplyClient, data: bytes) -> None:
        for line in data.splitlines(keepends=True):
            if b"later" in line:
                client.waiting.add(len(self.held))
                self.held.append((client, line))
            else:
                client.write(line)

    def client_gone(self, client: AuthreplyClient) -> None:
        self.gone += 1

    def authreply_refused(self, reason: str) -> None:
        self.refused.append(reason)

    def answer(self) -> None:
        for number, (client, line) in enumerate(self.held):
            client.waiting.discard(number)
            client.write(line)


class Setting:
    def __init__(self, path: Path) -> None:
        self.owner, self.path = AuthreplyOwner(), path
        self.served = AuthreplySocket(self.owner)

    async def connect(self, sent: bytes) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, str(self.path))
        await loop.sock_sendall(sock, sent)
        return sock


@pytest.fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    async with _serving(tmp_path) as setting:
        yield setting


@asynccontextmanager
async def _serving(folder: Path) -> AsyncIterator[Setting]:
    listener = unix_listener("authreply", str(folder / "authreply"), mode=0o600)
    setting = Setting(folder / "authreply")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(setting.served.serve, acceptor(listener.socket))
        yield setting
        tasks.cancel_scope.cancel()


async def _rest(sock: socket.socket) -> bytes:
    """Everything up to the end of the connection."""
    got, loop = b"", asyncio.get_running_loop()
    with sock, anyio.fail_after(10):
        while data := await loop.sock_recv(sock, 1 << 16):
            got += data
    return got


async def test_a_client_that_shuts_down_its_sending_side_still_gets_the_replies_that_wait(
    setting: Setting,
) -> None:
    sock = await setting.connect(HELLO + b"later 1\nnow\nlater 2\n")
    sock.shutdown(socket.SHUT_WR)
    await until(lambda: len(setting.owner.held) == 2)
    setting.owner.answer()
    assert await _rest(sock) == GREETING + b"now\nlater 1\nlater 2\n"


async def test_a_line_may_come_in_pieces(setting: Setting) -> None:
    sock = await setting.connect(HELLO[:10])
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, HELLO[10:] + b"no")
    await loop.sock_sendall(sock, b"w\n")
    sock.shutdown(socket.SHUT_WR)
    assert await _rest(sock) == GREETING + b"now\n"


async def test_the_lines_in_front_of_one_that_is_too_long_are_answered(setting: Setting) -> None:
    sock = await setting.connect(HELLO + b"now\n" + b"x" * LINE_LIMIT)
    assert await _rest(sock) == GREETING + b"now\n"
    assert setting.owner.refused == ["authreply client sent a line of more than 8192 bytes"]


async def test_a_first_line_with_a_password_is_refused_without_a_word_of_it(setting: Setting) -> None:
    sock = await setting.connect(b"OK\t1\tuser=alice\tproxy\tpass=secret\n")
    assert await _rest(sock) == GREETING
    (reason,) = setting.owner.refused
    assert "secret" not in reason
    assert "expected VERSION director-authreply-client 1 0" in reason


async def test_half_a_line_at_the_end_is_reported_and_not_answered(setting: Setting) -> None:
    sock = await setting.connect(HELLO + b"now\nno")
    sock.shutdown(socket.SHUT_WR)
    assert await _rest(sock) == GREETING + b"now\n"
    assert "in the middle of a line" in setting.owner.refused[0]


async def test_the_owner_is_told_when_a_client_disconnects_while_a_reply_waits(setting: Setting) -> None:
    sock = await setting.connect(HELLO + b"later\n")
    await until(lambda: len(setting.owner.held) == 1)
    sock.close()
    await asyncio.sleep(0)
    setting.owner.answer()
    await until(lambda: setting.owner.gone == 1)
    assert not setting.served.clients


async def test_a_client_that_reads_nothing_is_not_read_from_without_end(setting: Setting) -> None:
    sock = await setting.connect(HELLO)
    sent = 0
    with suppress(BlockingIOError):
        while sent < 1 << 26:
            sent += sock.send(b"now\n" * 4096)
            for _ in range(3):
                await asyncio.sleep(0)
    sock.close()
    assert 0 < sent < 1 << 24
