"""The relay between real sockets: a login process on one side, auth on the other."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import NamedTuple

import anyio
import msgspec
import pytest

from director.net.listen import Listener, unix_listener
from director.net.login import HELD_LIMIT, LINE_LIMIT, Client, Connection, Relay
from tests.listening import acceptor
from tests.waiting import until

pytestmark = pytest.mark.anyio
Socket = socket.socket
TROUBLE = "auth_unreachable"


class LoginOwner:
    """Passes every line on, and notes what else it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.gone = 0

    def lines(self, client: Client, data: bytes) -> None:
        assert data.endswith(b"\n")
        client.write(data)

    def client_gone(self, client: Client) -> None:
        self.gone += 1

    def auth_unreachable(self, path: str, reason: str) -> None:
        self.told.append(TROUBLE)

    def auth_reached(self, path: str) -> None:
        self.told.append("auth_reached")

    def line_too_long(self, path: str, limit: int) -> None:
        self.told.append("line_too_long")


class Service:
    """Auth: takes connections one by one, and does what a test says."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen(10)
        self.socket.setblocking(False)

    async def accept(self) -> socket.socket:
        with anyio.fail_after(10):
            connection, _ = await asyncio.get_running_loop().sock_accept(self.socket)
        return connection

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


class Setting:
    """A relay that is served, and its folder."""

    def __init__(self, folder: Path) -> None:
        self.owner = LoginOwner()
        self.auth_path = folder / "auth"
        self.path = folder / "login"
        self.relay = Relay("login", str(self.auth_path), False, self.owner)

    def service(self) -> Service:
        return Service(self.auth_path)

    async def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, str(self.path))
        return sock


@asynccontextmanager
async def served(setting: Setting, listener: Listener) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(setting.relay.serve, acceptor(listener.socket.dup()))
        yield
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Setting]:
    setting = Setting(folder)
    listener = unix_listener("login", str(setting.path), mode=0o600)
    async with served(setting, listener):
        yield setting
    listener.close()


@pytest.fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    async with serving(tmp_path) as setting:
        yield setting


@pytest.fixture
def service(setting: Setting) -> Iterator[Service]:
    with setting.service() as service:
        yield service


@pytest.fixture
async def client(setting: Setting) -> AsyncIterator[Socket]:
    with await setting.connect() as client:
        yield client


@pytest.fixture
async def auth(service: Service, client: Socket) -> AsyncIterator[Socket]:
    """The end of the client's connection at auth."""
    with await service.accept() as auth:
        yield auth


async def read(sock: Socket, size: int) -> bytes:
    """So many bytes, fewer only at the end of the connection."""
    data = b""
    with anyio.fail_after(10), suppress(ConnectionResetError):
        while len(data) < size:
            part = await asyncio.get_running_loop().sock_recv(sock, size - len(data))
            if not part:
                break
            data += part
    return data


async def send(sock: Socket, data: bytes) -> None:
    with anyio.fail_after(10):
        await asyncio.get_running_loop().sock_sendall(sock, data)


async def send_what_fits(sock: Socket, data: bytes) -> int:
    """Send until the other end has not read for a while. Returns the number of bytes."""
    sent = refused = 0
    while sent < len(data) and refused < 200:
        try:
            sent += sock.send(data[sent : sent + 65536])
        except BlockingIOError:
            refused += 1
            await anyio.sleep(0.001)
    return sent


async def test_bytes_go_to_auth_as_they_come_and_back_line_by_line(client: Socket, auth: Socket) -> None:
    await send(client, b"half a ")
    assert await read(auth, 7) == b"half a "
    await send(auth, b"first\nsec")
    assert await read(client, 6) == b"first\n"
    await send(auth, b"ond\n")
    assert await read(client, 7) == b"second\n"


async def test_our_own_lines_reach_auth_between_those_of_the_client_never_in_one(
    setting: Setting, client: Socket, auth: Socket
) -> None:
    await send(client, b"AUTH\t1\nAU")
    assert await read(auth, 9) == b"AUTH\t1\nAU"
    (relayed,) = setting.relay.clients
    relayed.tell_auth(b"CANCEL\t1\n")
    await send(client, b"TH\t")
    assert await read(auth, 3) == b"TH\t"
    relayed.tell_auth(b"CANCEL\t2\n")
    await send(client, b"2\nA")
    assert await read(auth, 21) == b"2\nCANCEL\t1\nCANCEL\t2\nA"
    await send(client, b"\n")
    assert await read(auth, 1) == b"\n"
    relayed.tell_auth(b"CANCEL\t3\n")
    assert await read(auth, 9) == b"CANCEL\t3\n"


async def test_each_client_has_a_connection_of_its_own_which_ends_with_it(
    setting: Setting, service: Service, client: Socket, auth: Socket
) -> None:
    with await setting.connect() as other, await service.accept() as auth_of_other:
        await send(auth, b"to one\n")
        await send(auth_of_other, b"to two\n")
        assert await read(client, 7) == b"to one\n"
        assert await read(other, 7) == b"to two\n"
        client.close()
        assert await read(auth, 1) == b""
        auth_of_other.close()
        assert await read(other, 1) == b""
        await until(lambda: setting.owner.gone == 2)
        assert setting.relay.clients == set()


async def test_a_client_is_held_until_auth_appears_and_nothing_of_it_is_lost(
    setting: Setting, client: Socket
) -> None:
    await send(client, b"early ")
    await until(lambda: setting.owner.told)
    await send(client, b"bird\n")
    with setting.service() as service, await service.accept() as auth:
        assert await read(auth, 11) == b"early bird\n"
        await send(auth, b"hello\n")
        assert await read(client, 6) == b"hello\n"
        assert setting.owner.told[0] == TROUBLE
        assert setting.owner.told[-1] == "auth_reached"


async def test_an_auth_that_dies_before_its_first_word_is_replaced_with_growing_pauses(
    service: Service, client: Socket
) -> None:
    await send(client, b"hello\n")
    begun = anyio.current_time()
    for _ in range(4):
        (await service.accept()).close()
    assert anyio.current_time() - begun > 0.05 + 0.1 + 0.2 - 0.01
    with await service.accept() as auth:
        assert await read(auth, 6) == b"hello\n"


async def test_a_client_whose_auth_has_answered_ends_when_auth_dies(
    setting: Setting, client: Socket, auth: Socket
) -> None:
    await send(auth, b"last words\n")
    auth.close()
    assert await read(client, 100) == b"last words\n"
    await until(lambda: setting.owner.gone == 1)


async def test_a_client_that_disconnects_while_auth_is_unreachable_is_forgotten(setting: Setting) -> None:
    with await setting.connect():
        await until(lambda: setting.owner.told)
    await until(lambda: setting.owner.gone == 1)
    with setting.service() as service, await setting.connect() as client:
        with await service.accept() as auth:
            await send(client, b"the next one\n")
            assert await read(auth, 13) == b"the next one\n"


async def test_the_longest_line_passes_and_a_longer_one_ends_the_connection_after_those_before(
    setting: Setting, client: Socket, auth: Socket
) -> None:
    longest = b"x" * LINE_LIMIT + b"\n"
    await send(auth, longest)
    assert await read(client, len(longest)) == longest
    await send(auth, b"before\n" + b"x" + longest + b"behind\n")
    assert await read(client, 100) == b"before\n"
    assert await read(auth, 1) == b""
    assert setting.owner.told.count("line_too_long") == 1


async def test_a_client_that_does_not_read_stops_auth_and_everything_arrives_in_the_end(
    client: Socket, auth: Socket
) -> None:
    data = b"".join(b"%d\n" % number for number in range(400_000))
    sent = await send_what_fits(auth, data)
    assert sent < len(data)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send, auth, data[sent:])
        assert await read(client, len(data)) == data


async def test_an_auth_that_does_not_read_stops_the_client_and_everything_arrives_in_the_end(
    client: Socket, auth: Socket
) -> None:
    data = bytes(range(256)) * 20_000
    await send(auth, b"hello\n")
    assert await read(client, 6) == b"hello\n"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send, client, data)
        await anyio.wait_all_tasks_blocked()
        assert await read(auth, len(data)) == data


@pytest.mark.shows("A-48")
async def test_a_client_that_sends_much_before_auth_is_reachable_is_not_read_without_end(
    setting: Setting, client: Socket
) -> None:
    data = bytes(range(256)) * 20_000
    sent = await send_what_fits(client, data)
    assert HELD_LIMIT < sent < len(data)
    with setting.service() as service, await service.accept() as auth:
        await send(auth, b"hello\n")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, client, data[sent:])
            assert await read(auth, len(data)) == data


@pytest.mark.shows("A-49")
async def test_a_client_that_sends_much_while_auth_is_silent_and_hangs_up_is_closed_at_once(
    setting: Setting, client: Socket, auth: Socket
) -> None:
    data = bytes(range(256)) * 20_000
    await send_what_fits(client, data)
    assert setting.owner.gone == 0
    client.close()
    await until(lambda: setting.owner.gone == 1)
    assert setting.relay.clients == set()
    assert len(await read(auth, len(data))) < len(data)


async def test_a_client_that_sends_much_while_auth_is_unreachable_and_hangs_up_is_closed_at_once(
    setting: Setting,
) -> None:
    clients = [await setting.connect() for _ in range(20)]
    for client in clients:
        await send_what_fits(client, bytes(3 * HELD_LIMIT))
    for client in clients[1:]:
        client.close()
    await until(lambda: setting.owner.gone == 19)
    assert len(setting.relay.clients) == 1
    clients[0].close()
    await until(lambda: setting.owner.gone == 20)


@pytest.mark.shows("A-50")
async def test_a_client_that_hangs_up_is_closed_at_once_although_its_auth_stopped_reading(
    setting: Setting, client: Socket, auth: Socket
) -> None:
    await send(auth, b"hello\n")
    assert await read(client, 6) == b"hello\n"
    await send_what_fits(client, bytes(10_000_000))
    client.close()
    await until(lambda: setting.owner.gone == 1)


async def test_a_paused_client_that_reads_again_is_no_longer_watched_and_can_hang_up(
    setting: Setting, client: Socket, auth: Socket
) -> None:
    data = bytes(range(256)) * 2000
    sent = await send_what_fits(client, data)
    await send(auth, b"hello\n")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send, client, data[sent:])
        assert await read(auth, len(data)) == data
    await send(client, b"last words\n")
    client.close()
    assert await read(auth, 12) == b"last words\n"
    await until(lambda: setting.owner.gone == 1)


async def test_a_paused_client_is_handed_over_and_its_end_is_seen_by_the_successor(
    setting: Setting, client: Socket, auth: Socket, tmp_path: Path
) -> None:
    await send_what_fits(client, bytes(3 * HELD_LIMIT))
    given = setting.relay.hand_over(lambda _: [])
    successor = Successor(tmp_path, given)
    async with successor.serving(tmp_path):
        client.close()
        await until(lambda: successor.owner.gone == 1)


async def test_a_relay_that_stops_sends_what_was_written_and_then_closes_everything(
    setting: Setting, client: Socket, auth: Socket
) -> None:
    await send(auth, b"hello\n")
    assert await read(client, 6) == b"hello\n"
    (held,) = setting.relay.clients
    held.write(b"last words\n")
    setting.relay.stop()
    await send(auth, b"too late\n")
    assert await read(client, 100) == b"last words\n"
    assert await read(auth, 1) == b""


class Successor:
    """Takes over the connections `given`, with a relay of its own and no listener."""

    def __init__(self, folder: Path, given: list[Connection]) -> None:
        self.owner = LoginOwner()
        self.relay = Relay("login", str(folder / "auth"), False, self.owner)
        self.given = msgspec.msgpack.decode(msgspec.msgpack.encode(given), type=list[Connection])

    @asynccontextmanager
    async def serving(self, folder: Path) -> AsyncIterator[Successor]:
        listener = unix_listener("login", str(folder / "next"), mode=0o600)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.relay.serve, acceptor(listener.socket.dup()))
            await until(lambda: self.relay._acceptor is not None)
            await self.relay.take_over(self.given)
            yield self
            tasks.cancel_scope.cancel()
        listener.close()


async def test_a_connection_accepted_at_the_last_moment_is_given_to_the_successor(setting: Setting) -> None:
    with setting.service(), await setting.connect():
        await until(lambda: setting.relay.clients)
        with await setting.connect():
            acceptor = setting.relay._acceptor
            assert acceptor is not None
            acceptor._accept()
            await setting.relay.finish_accepting()
            assert len(setting.relay.clients) == 2
            with await setting.connect():  # waits in the kernel for the successor
                await anyio.sleep(0.01)
                given = setting.relay.hand_over(lambda _: [])
                assert len(given) == 2
                for one in given:
                    os.close(one.client)
                    if one.auth >= 0:
                        os.close(one.auth)


async def test_a_connection_continues_at_a_successor_in_the_middle_of_lines_in_both_directions(
    setting: Setting, client: Socket, auth: Socket, tmp_path: Path
) -> None:
    await send(client, b"a req")
    await send(auth, b"first\nsec")
    assert await read(auth, 5) == b"a req"
    assert await read(client, 6) == b"first\n"
    given = setting.relay.hand_over(lambda _: [b"held back"])
    assert [one.rest for one in given] == [b"sec"]
    await send(auth, b"ond\n")  # waits in the kernel
    await send(client, b"uest\n")
    async with Successor(tmp_path, given).serving(tmp_path):
        assert sorted((await read(client, 17)).splitlines()) == [b"held back", b"second"]
        assert await read(auth, 5) == b"uest\n"
        await send(client, b"more\n")
        assert await read(auth, 5) == b"more\n"


async def test_bytes_that_the_kernel_had_no_room_for_are_sent_by_the_successor_once_and_in_order(
    setting: Setting, client: Socket, auth: Socket, tmp_path: Path
) -> None:
    lines = b"".join(b"%07d\n" % number for number in range(100_000))
    sent = await send_what_fits(auth, lines)
    given = setting.relay.hand_over(lambda _: [])
    assert given[0].to_client, "nothing waits: the test would show nothing"
    async with Successor(tmp_path, given).serving(tmp_path):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, auth, lines[sent:])
            assert await read(client, len(lines)) == lines


async def test_lines_from_before_auth_was_reachable_reach_it_from_the_successor(
    setting: Setting, client: Socket, tmp_path: Path
) -> None:
    await send(client, b"hello\n")
    await until(lambda: setting.owner.told)
    given = setting.relay.hand_over(lambda _: [])
    assert (given[0].auth, given[0].first) == (-1, b"hello\n")
    with setting.service() as service:
        async with Successor(tmp_path, given).serving(tmp_path):
            with await service.accept() as auth:
                assert await read(auth, 6) == b"hello\n"
                await send(auth, b"welcome\n")
                assert await read(client, 8) == b"welcome\n"


async def test_lines_to_an_auth_that_has_not_answered_are_not_sent_twice(
    setting: Setting, client: Socket, auth: Socket, tmp_path: Path
) -> None:
    await send(client, b"hello\n")
    assert await read(auth, 6) == b"hello\n"
    given = setting.relay.hand_over(lambda _: [])
    async with Successor(tmp_path, given).serving(tmp_path):
        await send(client, b"more\n")
        assert await read(auth, 5) == b"more\n"


async def test_a_client_that_hangs_up_at_the_successor_ends_its_connection_to_auth(
    setting: Setting, client: Socket, auth: Socket, tmp_path: Path
) -> None:
    await send(auth, b"hello\n")
    assert await read(client, 6) == b"hello\n"
    given = setting.relay.hand_over(lambda _: [])
    client.close()
    async with Successor(tmp_path, given).serving(tmp_path):
        assert await read(auth, 1) == b""


async def test_a_socket_in_a_folder_that_the_director_may_not_enter_is_served(tmp_path: Path) -> None:
    # login/ is for root and the login processes; Python 3.13 wanted to see the file, and the director ended
    setting = Setting(tmp_path / "inside")
    setting.path.parent.mkdir(mode=0o700)
    listener = unix_listener("login", str(setting.path), mode=0o666)
    with await setting.connect():
        if os.geteuid() == 0:
            os.seteuid(65534)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(setting.relay.serve, acceptor(listener.socket.dup()))
                await until(lambda: setting.owner.told)
                tasks.cancel_scope.cancel()
        finally:
            os.seteuid(os.getuid())
    listener.close()


class Unserved(NamedTuple):
    """A relay whose socket nothing serves yet."""

    setting: Setting
    auth: Service
    listener: Listener


@pytest.fixture
def unserved(tmp_path: Path) -> Iterator[Unserved]:
    setting = Setting(tmp_path)
    path = str(setting.path)
    with setting.service() as auth, closing(unix_listener("login", path, mode=0o600)) as listener:
        yield Unserved(setting, auth, listener)


@pytest.fixture
async def waiting(unserved: Unserved) -> AsyncIterator[Socket]:
    """A login process that waits behind two connections with its CPID that were given up."""
    for _ in range(2):
        with await unserved.setting.connect() as gave_up:
            gave_up.send(b"VERSION\t1\t2\nCPID\t77\n")
    with await unserved.setting.connect() as client:
        client.send(b"VERSION\t1\t2\nCPID\t77\n")
        yield client


@pytest.mark.usefixtures("waiting")
async def test_a_login_process_that_gave_up_before_it_was_accepted_is_not_named_to_auth(
    unserved: Unserved,
) -> None:
    """It has connected again meanwhile, and auth refuses a second connection with the same CPID."""
    setting, auth, listener = unserved
    async with served(setting, listener):
        with await auth.accept() as connection:
            await until(lambda: setting.owner.gone == 2)
            with pytest.raises(BlockingIOError):
                auth.socket.accept()
            connection.setblocking(False)
            assert b"CPID\t77\n" in await asyncio.get_running_loop().sock_recv(connection, 100)
            assert setting.relay.clients
