"""Admin connections over real sockets: no line and no reply is lost, as Dovecot 2.3's director loses some."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

from director.records import HostInfo
from director.wire.admin import GREETING
from tests.conformance.real_operations import real_node
from tests.conformance.serving import admin_port, admin_socket
from tests.unit.service.parts import Node
from tests.waiting import until

pytestmark = pytest.mark.anyio

HOSTS = [HostInfo(address=f"127.0.1.{number}", weight=100, up=True) for number in (1, 2, 3)]
Connect = Callable[[Node, Path, list[str]], AbstractAsyncContextManager[ByteStream]]

USERS = [(str(number), "127.0.1.1") for number in range(1, 20_003)]


@asynccontextmanager
async def _unix(node: Node, folder: Path, lines: list[str]) -> AsyncIterator[ByteStream]:
    async with (
        admin_socket(node.operations, folder / "admin", lines) as path,
        await anyio.connect_unix(path) as stream,
    ):
        yield stream


@asynccontextmanager
async def _tcp(node: Node, folder: Path, lines: list[str]) -> AsyncIterator[ByteStream]:
    async with admin_port(node.operations, "127.0.0.1", lines) as port:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            yield stream


async def _rest(stream: ByteStream) -> bytes:
    """Return everything up to the end of the connection, orderly or not."""
    read = b""
    with anyio.fail_after(10):
        while True:
            try:
                read += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return read


async def _until(stream: ByteStream, end: bytes) -> bytes:
    read = b""
    with anyio.fail_after(10):
        while not read.endswith(end):
            read += await stream.receive()
    return read


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with real_node(HOSTS) as node:
        yield node


@pytest.fixture
async def full() -> AsyncIterator[Node]:
    """A node with many users."""
    async with real_node(HOSTS, USERS) as node:
        yield node


@pytest.fixture
def lines() -> list[str]:
    """The log lines of the server."""
    return []


@pytest.fixture(params=[_unix, _tcp], ids=["unix", "tcp"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Return a function that sends a request to a server on each kind of socket."""
    kind: Connect = request.param
    return kind


@pytest.mark.shows("I-1")
async def test_pipelined_changes_are_all_made_and_answered_in_order(
    node: Node, connect: Connect, folder: Path, lines: list[str]
) -> None:
    # Dovecot 2.3's director loses the line after a command that waited for the ring
    node.faults.hold = anyio.Event()
    async with connect(node, folder, lines) as stream:
        await stream.send(
            GREETING + b"HOST-UPDATE\t127.0.1.1\t90\nHOST-UPDATE\t127.0.1.9\t80\n"
            b"HOST-UPDATE\t127.0.1.3\t70\nHOST-LIST\n"
        )
        node.faults.hold.set()
        got = await _until(stream, b"\n\n")
    assert got == GREETING + b"OK\nNOTFOUND\nOK\n" + (
        b"127.0.1.1\t90\t0\t\tU\t0\n127.0.1.2\t100\t0\t\tU\t0\n127.0.1.3\t70\t0\t\tU\t0\n\n"
    )


async def test_lines_that_end_with_crlf_are_understood(
    node: Node, connect: Connect, folder: Path, lines: list[str]
) -> None:
    # as Dovecot 2.3's director does: test_side_by_side.py
    async with connect(node, folder, lines) as stream:
        sent = GREETING + b"HOST-UPDATE\t127.0.1.1\t90\nHOST-DOWN\t127.0.1.2\nHOST-UP\tx\n"
        await stream.send(sent.replace(b"\n", b"\r\n"))
        got = await _rest(stream)
    refused = b"doveadm sent invalid HOST-UP parameters: 'x' is not an IP address\n"
    assert got == GREETING + b"OK\nOK\n" + refused


@pytest.mark.shows("I-4")
async def test_a_client_that_shuts_down_its_sending_side_still_gets_every_row(
    full: Node, connect: Connect, folder: Path, lines: list[str]
) -> None:
    # Dovecot 2.3's director sent 278 of 20,002 lines
    async with connect(full, folder, lines) as stream:
        await stream.send(GREETING + b"USER-LIST\nHOST-SET\t127.0.1.1\t5\nUSER-LIST\t127.0.1.1\n")
        await stream.send_eof()
        got = await _rest(stream)
    assert (got.count(b"\t127.0.1.1\n"), got.endswith(b"\t127.0.1.1\n\n")) == (2 * 20_002, True)


async def test_a_client_that_reads_nothing_delays_no_other_client(full: Node, folder: Path) -> None:
    async with admin_socket(full.operations, folder / "admin") as path:
        async with await anyio.connect_unix(path) as slow, await anyio.connect_unix(path) as quick:
            await slow.send(GREETING + b"USER-LIST\n" * 20)
            await quick.send(GREETING + b"HOST-LIST-REMOVED\n")
            got = await _until(quick, b"\n\n")
    assert got == GREETING + b"\n"


async def test_a_client_that_hangs_up_while_its_change_waits_changes_nothing_else(
    node: Node, folder: Path, lines: list[str]
) -> None:
    node.faults.hold = anyio.Event()
    async with admin_socket(node.operations, folder / "admin", lines) as path:
        async with await anyio.connect_unix(path) as leaving:
            await leaving.send(GREETING + b"HOST-DOWN\t127.0.1.1\nHOST-DOWN\t127.0.1.2\n")
            await _until(leaving, GREETING)
        node.faults.hold.set()
        rows = node.director.hosts.rows
        await until(lambda: not (rows[HOSTS[1].address].up or node.faults.busy))
        async with await anyio.connect_unix(path) as other:
            await other.send(GREETING + b"HOST-LIST\n")
            got = await _until(other, b"\n\n")
    assert got.startswith(GREETING + b"127.0.1.1\t100\t0\t\tD\t")
    assert lines == []


@pytest.mark.shows("R-50")
@pytest.mark.parametrize("sent", [b"", b"VERSION", GREETING, GREETING + b"HOST-L", GREETING + b"HOST-LIST\n"])
async def test_a_client_that_hangs_up_at_any_moment_disturbs_no_other_client(
    node: Node, sent: bytes, folder: Path
) -> None:
    async with admin_socket(node.operations, folder / "admin") as path:
        for _ in range(10):
            async with await anyio.connect_unix(path) as leaving:
                await leaving.send(sent)
        async with await anyio.connect_unix(path) as other:
            await other.send(GREETING + b"HOST-LIST-REMOVED\n")
            got = await _until(other, b"\n\n")
    assert got == GREETING + b"\n"


@pytest.mark.shows("R-50")
async def test_a_connection_that_is_reset_at_any_moment_disturbs_no_other_client(
    full: Node, folder: Path
) -> None:
    at_once = struct.pack("ii", 1, 0)
    async with admin_port(full.operations, "127.0.0.1") as port:
        for sent in [b"", b"VERSION", GREETING, GREETING + b"USER-LIST\n", GREETING + b"USER-LIST\n" * 9] * 5:
            async with await anyio.connect_tcp("127.0.0.1", port) as leaving:
                leaving.extra(SocketAttribute.raw_socket).setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, at_once
                )
                await leaving.send(sent)
        async with await anyio.connect_tcp("127.0.0.1", port) as other:
            await other.send(GREETING + b"HOST-LIST-REMOVED\n")
            got = await _until(other, b"\n\n")
    assert got == GREETING + b"\n"


@pytest.mark.shows("K15")
async def test_a_line_of_1024_bytes_is_read_and_a_longer_one_closes_the_connection(
    node: Node, connect: Connect, folder: Path, lines: list[str]
) -> None:
    longest = b"USER-LOOKUP\t" + b"x" * 1011 + b"\n"
    async with connect(node, folder, lines) as stream:
        await stream.send(GREETING + longest + b"HOST-LIST-REMOVED\n" + b"x" + longest)
        got = await _rest(stream)
    assert len(longest) == 1024
    assert got == GREETING + b"\t0\t127.0.1.3\t127.0.1.3\n" + b"\n"
    assert "doveadm sent a line of more than 1024 bytes" in "".join(lines)


async def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    node: Node, connect: Connect, folder: Path, lines: list[str]
) -> None:
    async with connect(node, folder, lines) as stream:
        await stream.send(GREETING + b"x" * 1025)
        got = await _rest(stream)
    assert got == GREETING


async def test_half_a_line_at_the_end_is_not_carried_out_and_is_logged(
    node: Node, folder: Path, lines: list[str]
) -> None:
    async with _unix(node, folder, lines) as stream:
        await stream.send(GREETING + b"HOST-REMOVE\t127.0.1.1\nHOST-REMOVE\t127.0.1.2")
        await stream.send_eof()
        got = await _rest(stream)
    assert (got, node.operations.queries.removed_hosts()) == (GREETING + b"OK\n", ["127.0.1.1"])
    assert "doveadm hung up in the middle of a line" in "".join(lines)


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        (b"HOST-UP\tx\n", b"doveadm sent invalid HOST-UP parameters: 'x' is not an IP address\n"),
        (b"BOGUS\tx\n", b"doveadm sent unknown command: 'BOGUS'\n"),
        (b"USER-LIST\tx\n", b""),
        (b"\n", b""),
    ],
)
async def test_a_line_that_is_no_command_is_answered_with_the_reason_if_one_line_is_expected(
    node: Node, connect: Connect, folder: Path, lines: list[str], sent: bytes, reply: bytes
) -> None:
    # Dovecot 2.3's director closes the connection without a reason
    async with connect(node, folder, lines) as stream:
        await stream.send(GREETING + b"HOST-LIST-REMOVED\n" + sent)
        got = await _rest(stream)
    assert got == GREETING + b"\n" + reply
    assert "event=admin_client_refused" in "".join(lines)


async def test_the_address_of_a_refused_client_is_logged(node: Node, folder: Path, lines: list[str]) -> None:
    async with _tcp(node, folder, lines) as stream:
        await stream.send(GREETING + b"BOGUS\n")
        await _rest(stream)
    assert "peer=127.0.0.1:" in "".join(lines)
