"""The connection to ipc, against a stand-in on a real socket."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from director.errors import KickError
from director.net.ipc import Ipc
from tests.ipc import FakeIpc
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def test_answers_belong_to_the_requests_in_their_order(tmp_path: Path) -> None:
    fake = FakeIpc(lambda request: b":row of %s\n+%s\n" % (request, request[-1:]))
    rows: list[bytes] = []
    async with fake.listening(tmp_path / "ipc"):
        connection = await Ipc(str(tmp_path / "ipc")).connection()
        answers = [connection.ask(b"proxy\t*\tKICK\tu%d\n" % n, rows.append) for n in range(10)]
        with anyio.fail_after(10):
            assert [await answer.count() for answer in answers] == list(range(10))
    assert rows == [b"row of KICK\tu%d" % n for n in range(10)]


async def test_an_error_concerns_only_its_own_request(tmp_path: Path) -> None:
    fake = FakeIpc(lambda request: b"-Unknown command\n" if request == b"BOGUS" else b"+3\n")
    async with fake.listening(tmp_path / "ipc"):
        connection = await Ipc(str(tmp_path / "ipc")).connection()
        bad, good = connection.ask(b"proxy\t*\tBOGUS\n"), connection.ask(b"proxy\t*\tKICK\tx\n")
        with pytest.raises(KickError) as caught:
            await bad.count()
        assert await good.count() == 3
    assert caught.value.socket == str(tmp_path / "ipc")
    assert caught.value.reason == "refused: Unknown command"


async def test_one_connection_serves_until_it_is_lost_and_then_another_one_does(tmp_path: Path) -> None:
    fake = FakeIpc(lambda _: b"+0\n")
    async with fake.listening(tmp_path / "ipc"):
        ipc = Ipc(str(tmp_path / "ipc"))
        first = await ipc.connection()
        assert await ipc.connection() is first
        await until(lambda: fake.open)
        fake.hang_up()
        await until(lambda: not first.open)
        second = await ipc.connection()
        assert await second.ask(b"proxy\t*\tKICK\tx\n").count() == 0
    assert fake.accepted == 2


async def test_who_waits_when_the_connection_is_lost_is_told(tmp_path: Path) -> None:
    fake = FakeIpc(lambda _: None)
    async with fake.listening(tmp_path / "ipc"):
        connection = await Ipc(str(tmp_path / "ipc")).connection()
        answers = [connection.ask(b"proxy\t*\tKICK\tx\n") for _ in range(2)]
        await until(lambda: fake.requests)
        fake.hang_up()
        for answer in answers:
            with pytest.raises(KickError, match="ipc closed the connection"):
                await answer.count()
        with pytest.raises(KickError, match="the connection is closed"):
            await connection.ask(b"proxy\t*\tKICK\tx\n").count()


async def test_where_nobody_listens_the_error_names_the_socket(tmp_path: Path) -> None:
    with pytest.raises(KickError) as caught:
        await Ipc(str(tmp_path / "ipc")).connection()
    assert str(caught.value) == f"{tmp_path / 'ipc'}: cannot connect: No such file or directory"


@pytest.mark.parametrize("data", [b"hello\n", b":" + b"x" * 20_000 + b"\n", b"+1\n+1\n"])
async def test_what_no_ipc_says_ends_the_connection(tmp_path: Path, data: bytes) -> None:
    async with FakeIpc(lambda _: data).listening(tmp_path / "ipc"):
        connection = await Ipc(str(tmp_path / "ipc")).connection()
        connection.ask(b"proxy\t*\tKICK\tx\n")
        await until(lambda: not connection.open)


async def test_a_retired_connection_takes_nothing_more_and_lives_until_its_last_answer(
    tmp_path: Path,
) -> None:
    fake = FakeIpc(lambda _: b"+1\n")
    async with fake.listening(tmp_path / "ipc"):
        ipc = Ipc(str(tmp_path / "ipc"))
        connection = await ipc.connection()
        fake.held = anyio.Event()
        given_up, waited_for = (connection.ask(b"proxy\t*\tKICK\tx\n") for _ in range(2))
        given_up.drop()
        connection.retire()
        assert await ipc.connection() is not connection
        await until(lambda: fake.open == 2)
        fake.held.set()
        assert await waited_for.count() == 1
        await until(lambda: fake.open == 1)


async def test_a_connection_is_closed_at_once_where_nobody_waits_any_more(tmp_path: Path) -> None:
    fake = FakeIpc(lambda _: None)
    async with fake.listening(tmp_path / "ipc"):
        connection = await Ipc(str(tmp_path / "ipc")).connection()
        connection.ask(b"proxy\t*\tKICK\tx\n").drop()
        await until(lambda: fake.requests)
        connection.retire()
        await until(lambda: fake.open == 0)
