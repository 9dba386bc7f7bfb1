"""Connections to ipc, against a stand-in on a real socket."""

from __future__ import annotations

import asyncio
import itertools
import os
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from director.errors import KickError
from director.net import kickline
from director.net.ipc import IpcConnection
from director.net.kickline import CONNECTIONS, IDLE_KEPT, LINES, Connections
from tests.ipc import FakeIpc
from tests.waiting import until

pytestmark = pytest.mark.anyio
KICK = b"proxy\t*\tKICK\tx\n"


def channel(folder: Path) -> Connections[IpcConnection]:
    return Connections(str(folder / "ipc"), IpcConnection)


async def test_the_answers_to_all_lines_are_added_up_and_their_rows_passed_on(tmp_path: Path) -> None:
    fake = FakeIpc(lambda request: b":row of %s\n+%s\n" % (request, request[-1:]))
    rows: list[bytes] = []
    async with fake.listening(tmp_path / "ipc"), channel(tmp_path).connection() as connection:
        requests = [b"proxy\t*\tKICK\tu%d\n" % number for number in range(10)]
        assert await connection.ask(requests, rows.append) == 45
        assert await connection.ask(requests[:4]) == 6
    assert rows == [b"row of KICK\tu%d" % number for number in range(10)]


async def test_a_refusal_is_an_error_that_names_the_socket(tmp_path: Path) -> None:
    fake = FakeIpc(lambda _: b"-Unknown command\n")
    async with fake.listening(tmp_path / "ipc"):
        ipc = channel(tmp_path)
        with pytest.raises(KickError) as caught:
            async with ipc.connection() as connection:
                await connection.ask([KICK, KICK])
        assert (caught.value.socket, caught.value.reason) == (ipc.path, "refused: Unknown command")
        await until(lambda: fake.open == 0)


async def test_a_connection_is_used_again_until_it_is_lost(tmp_path: Path) -> None:
    fake = FakeIpc(lambda _: b"+0\n")
    async with fake.listening(tmp_path / "ipc"):
        ipc = channel(tmp_path)
        async with ipc.connection() as first:
            await first.ask([KICK])
        async with ipc.connection() as again:
            assert again is first
        fake.hang_up()
        await until(lambda: not first.open)
        async with ipc.connection() as second:
            assert await second.ask([KICK]) == 0
    assert fake.accepted == 2


async def test_a_kick_that_waits_fails_when_the_connection_is_lost(tmp_path: Path) -> None:
    async with (
        FakeIpc(lambda _: None).listening(tmp_path / "ipc") as fake,
        anyio.create_task_group() as tasks,
    ):

        async def ask() -> None:
            async with channel(tmp_path).connection() as connection:
                with pytest.raises(KickError, match="Dovecot closed the connection"):
                    await connection.ask([KICK])
                with pytest.raises(KickError, match="Dovecot closed the connection"):
                    await connection.ask([KICK])

        tasks.start_soon(ask)
        await until(lambda: fake.requests)
        fake.hang_up()


async def test_the_error_says_that_no_process_listens_at_the_socket(tmp_path: Path) -> None:
    with pytest.raises(KickError) as caught:
        async with channel(tmp_path).connection():
            pass
    assert str(caught.value) == f"{tmp_path / 'ipc'}: cannot connect: No such file or directory"


async def test_a_missing_permission_is_reported_with_the_setting_to_change(tmp_path: Path) -> None:
    async with FakeIpc(lambda _: b"+0\n").listening(tmp_path / "ipc"):
        (tmp_path / "ipc").chmod(0o600 if os.getuid() == 0 else 0)
        if os.getuid() == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(KickError, match="Permission denied; give unix_listener ipc in "):
                async with Connections(str(tmp_path / "ipc"), IpcConnection).connection():
                    pass
        finally:
            os.seteuid(os.getuid())


@pytest.mark.parametrize("data", [b"hello\n", b":" + b"x" * 20_000 + b"\n", b"+1\n+1\n"])
async def test_a_reply_that_ipc_never_sends_ends_the_connection(tmp_path: Path, data: bytes) -> None:
    async with FakeIpc(lambda _: data).listening(tmp_path / "ipc"):
        async with channel(tmp_path).connection() as connection:
            with suppress(KickError):
                await connection.ask([KICK])  # the third case is an answer, and one too many
            with pytest.raises(KickError, match="unexpected reply"):
                await connection.ask([KICK])


async def test_a_connection_is_closed_when_its_user_gives_up(tmp_path: Path) -> None:
    async with FakeIpc(lambda _: None).listening(tmp_path / "ipc") as fake:
        with anyio.move_on_after(0.1):
            async with channel(tmp_path).connection() as connection:
                await connection.ask([KICK])
        await until(lambda: fake.open == 0)
    assert fake.accepted == 1


async def test_kicks_do_not_reach_the_anvil_of_a_dovecot_that_was_stopped_and_started(
    tmp_path: Path,
) -> None:
    """An anvil waits for its clients to leave: the old one still answers, but it knows no new session."""
    old, new = FakeIpc(lambda _: b"+0\n"), FakeIpc(lambda _: b"+1\n")
    ipc = channel(tmp_path)
    async with old.listening(tmp_path / "ipc"):
        async with ipc.connection() as connection:
            assert await connection.ask([KICK]) == 0
        async with ipc.connection() as busy, new.listening(tmp_path / "ipc"):
            async with ipc.connection() as connection:
                assert await connection.ask([KICK]) == 1
            assert await busy.ask([KICK]) == 0
            await until(lambda: old.open == 1)
        await until(lambda: old.open == 0)
    ipc.close()


async def test_unused_connections_do_not_keep_an_anvil_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kickline, "IDLE_TIME", 0.1)
    fake = FakeIpc(lambda _: b"+0\n")
    async with fake.listening(tmp_path / "ipc"):
        async with channel(tmp_path).connection() as connection:
            await connection.ask([KICK])
        await until(lambda: fake.open == 0, within=20)


async def test_the_number_of_connections_is_limited_and_lower_for_idle_connections(tmp_path: Path) -> None:
    answered: list[int] = []
    async with FakeIpc(lambda _: b"+1\n").listening(tmp_path / "ipc") as fake:
        ipc, fake.held = channel(tmp_path), anyio.Event()

        async def ask() -> None:
            async with ipc.connection() as connection:
                answered.append(await connection.ask([KICK]))

        async with anyio.create_task_group() as tasks:
            for _ in range(CONNECTIONS + 10):
                tasks.start_soon(ask)
            await until(lambda: len(fake.requests) == CONNECTIONS)
            assert fake.accepted == CONNECTIONS
            fake.held.set()
        await until(lambda: fake.open == IDLE_KEPT)
        ipc.close()
        await until(lambda: fake.open == 0)
    assert answered == [1] * (CONNECTIONS + 10)


async def test_a_long_listing_is_read_in_slices_and_whole_though_the_other_end_hangs_up_behind_it(
    tmp_path: Path,
) -> None:
    rows: list[bytes] = []
    seen: list[int] = []
    listing = b"".join(b":%d\n" % number for number in range(20 * LINES)) + b"+0\n"
    fake = FakeIpc(lambda _: listing)
    async with fake.listening(tmp_path / "ipc"), channel(tmp_path).connection() as connection:
        line = connection._line

        def watched(data: bytes) -> None:
            if not rows:
                asyncio.get_running_loop().call_soon(look)
            line(data)

        def look() -> None:
            seen.append(len(rows))
            if len(rows) < 20 * LINES:
                asyncio.get_running_loop().call_soon(look)

        connection._line = watched  # type: ignore[method-assign]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.ask, [KICK], rows.append)
            await until(lambda: rows)
            fake.hang_up()
    assert len(rows) == 20 * LINES
    assert max(later - earlier for earlier, later in itertools.pairwise(seen)) <= LINES
