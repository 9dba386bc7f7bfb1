"""The kick channel of Dovecot 2.4, against a stand-in on a real socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from director.core.protocol.kicktypes import MOST_HOSTS, ByName, HashOnHosts, OnHost
from director.errors import KickError
from director.service.kicks import channels
from director.service.kicks.channels import HOSTS, Anvil, Ipc
from director.wire.anvil import SessionRows, Sessions
from director.wire.sessions import SessionList
from tests.anvil import FakeAnvil, row
from tests.ipc import FakeIpc

pytestmark = pytest.mark.anyio
HOST, OTHER = b"127.0.41.1", b"127.0.41.2"
ANN = [row(b"ann", HOST, id=b"1"), row(b"ann", OTHER, id=b"2"), row(b"ann", HOST, id=b"3")]
BOB = row(b"bob", HOST, 2, id=b"4")
KICK = HashOnHosts(1, ["127.0.41.1"])


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions that remain here remain in the first listing already."""
    monkeypatch.setattr(channels, "PATIENCE", 0.1)
    monkeypatch.setattr(channels, "PATIENCE_WITH_PROCESSES", 0.1)


async def test_a_kick_ends_what_it_names_and_counts_it(tmp_path: Path) -> None:
    async with FakeAnvil(*ANN, BOB).listening(tmp_path / "anvil") as fake:
        anvil = Anvil(str(tmp_path / "anvil"))
        assert await anvil.kick(KICK) == 2
        assert fake.rows == [ANN[1], BOB]
        assert await anvil.kick(ByName(b"ann")) == 1
        assert await anvil.kick(OnHost("127.0.41.1")) == 1
        assert fake.rows == []
        assert await anvil.kick(OnHost("127.0.41.1")) == 0


async def test_a_kick_without_a_user_lists_nothing(tmp_path: Path) -> None:
    async with FakeAnvil(BOB).listening(tmp_path / "anvil") as fake:
        assert await Anvil(str(tmp_path / "anvil")).kick(KICK) == 0
    assert fake.requests == [b"KICK-ALT-USER\tuser_dirkey\t1@127.0.41.1"]


@pytest.mark.shows("A-44")
async def test_a_kick_on_ten_thousand_hosts_is_written_some_hosts_at_a_time(
    tmp_path: Path,
) -> None:
    hosts = [f"10.9.{n >> 8}.{n & 255}" for n in range(MOST_HOSTS)]
    ended = turns = 0

    async def other_work() -> None:
        nonlocal turns
        while not ended:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with (
        FakeIpc(lambda _: b"+1\n").listening(tmp_path / "ipc") as fake,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(other_work)
        ended = await Ipc(str(tmp_path / "ipc")).kick(HashOnHosts(1, hosts))
    words = [word for request in fake.requests for word in request.split(b"\t")[2:]]
    assert words == [b"1@" + host.encode() for host in hosts]
    assert ended == len(fake.requests)
    assert turns > MOST_HOSTS // HOSTS


async def test_kicks_at_once_share_the_look_whether_they_worked(tmp_path: Path) -> None:
    rows = [row(b"u%d" % n, HOST, n, id=b"%d" % n) for n in range(50)]
    async with FakeAnvil(*rows).listening(tmp_path / "anvil") as fake, anyio.create_task_group() as tasks:
        anvil = Anvil(str(tmp_path / "anvil"))
        for number in range(50):
            tasks.start_soon(anvil.kick, HashOnHosts(number, ["127.0.41.1"]))
    assert fake.rows == []
    assert fake.requests.count(b"CONNECT-DUMP") < 25


async def test_sessions_that_stay_though_anvil_says_they_are_ended_are_told_with_the_setting(
    tmp_path: Path,
) -> None:
    async with FakeAnvil(*ANN).listening(tmp_path / "anvil") as fake:
        fake.stubborn = {b"1", b"3"}
        with pytest.raises(
            KickError, match=r"continue: 2 of imap-login; set restart_request_count = unlimited"
        ):
            await Anvil(str(tmp_path / "anvil")).kick(KICK)


@asynccontextmanager
async def login_process(folder: Path, fake: FakeAnvil, *, works: bool = True) -> AsyncIterator[list[bytes]]:
    """The socket of the process that has all the sessions; what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"VERSION\tmaster-admin-server\t1\t0\n")
        asked.append(await reader.readline())
        id = asked[-1].split(b"\t")[-1].strip()
        if works:
            fake.rows = [line for line in fake.rows if line.split(b"\t")[4] != id]
        writer.write(b"+1\n")
        writer.close()

    (folder / "srv.imap-login").mkdir()
    async with await asyncio.start_unix_server(serve, folder / "srv.imap-login" / "10"):
        yield asked


async def test_sessions_that_stay_are_ended_at_their_own_login_process_where_that_may_be_asked(
    tmp_path: Path,
) -> None:
    fake = FakeAnvil(*ANN)
    fake.stubborn = {b"3"}
    async with login_process(tmp_path, fake) as asked, fake.listening(tmp_path / "anvil"):
        assert await Anvil(str(tmp_path / "anvil")).kick(KICK) == 2
    assert fake.rows == [ANN[1]]
    assert asked == [b"VERSION\tmaster-admin-client\t1\t0\n", b"KICK-USER\tann\t3\n"]


async def test_a_login_process_is_not_believed_either(tmp_path: Path) -> None:
    fake = FakeAnvil(*ANN)
    fake.stubborn = {b"3"}
    async with login_process(tmp_path, fake, works=False), fake.listening(tmp_path / "anvil"):
        with pytest.raises(KickError, match="some continue: 1 of imap-login"):
            await Anvil(str(tmp_path / "anvil")).kick(KICK)


async def test_a_kick_among_5_000_sessions_does_not_hold_the_loop(tmp_path: Path) -> None:
    """Looking for the sessions of a kick by hash was a walk over all, for each of its hosts."""
    there = Sessions()
    rows = SessionRows(there)
    rows.add(b"user_dirkey")
    for n in range(5_000):
        rows.add(row(b"u%d" % n, HOST, n, id=b"%d" % n).strip())
    what = HashOnHosts(7, [f"127.0.41.{n}" for n in range(50)])
    began = time.process_time()
    assert [session.name for _ in range(100) for session in there.of(what)] == [b"u7"] * 100
    assert time.process_time() - began < 1


async def test_a_session_begun_after_the_kick_is_not_taken_for_one_that_stayed(tmp_path: Path) -> None:
    fake = FakeAnvil(*ANN)
    usual = fake._usual

    def answer(request: bytes) -> bytes:
        told = usual(request)
        if request.startswith(b"KICK"):
            fake.rows.append(row(b"ann", HOST, id=b"new"))
        return told

    fake._answer = answer
    async with fake.listening(tmp_path / "anvil"):
        assert await Anvil(str(tmp_path / "anvil")).kick(ByName(b"ann")) == 3


async def test_a_session_past_the_director_is_told_where_it_cannot_be_ended_alone(tmp_path: Path) -> None:
    past = b"10\tann\timap-login\t127.0.0.1\t9\t127.0.41.1\t\n"
    async with FakeAnvil(past).listening(tmp_path / "anvil") as fake:
        with pytest.raises(KickError, match="1 sessions without user_dirkey continue"):
            await Anvil(str(tmp_path / "anvil")).kick(OnHost("127.0.41.1"))
    assert fake.rows == [past]


async def test_another_greeting_ends_the_connection_with_a_reason(tmp_path: Path) -> None:
    """As from the anvil of Dovecot 2.3."""
    async with FakeIpc(lambda _: b"VERSION\tanvil-server\t1\t0\n").listening(tmp_path / "anvil"):
        with pytest.raises(KickError, match=r"no greeting of Dovecot 2\.4"):
            await Anvil(str(tmp_path / "anvil")).kick(KICK)


async def test_an_empty_listing_is_one(tmp_path: Path) -> None:
    async with FakeAnvil(answer=lambda _: b"\n\n").listening(tmp_path / "anvil"):
        listed = SessionList()
        await Anvil(str(tmp_path / "anvil")).read(listed)
        assert listed.sessions == []


async def test_a_kick_that_is_cancelled_leaves_no_connection_and_later_kicks_a_reason(
    tmp_path: Path,
) -> None:
    async with FakeAnvil(*ANN, answer=lambda _: None).listening(tmp_path / "anvil") as fake:
        with anyio.move_on_after(0.1):
            await Anvil(str(tmp_path / "anvil")).kick(KICK)
        with anyio.fail_after(10):
            while fake.open:  # noqa: ASYNC110 - the stand-in has to notice
                await anyio.sleep(0.01)
