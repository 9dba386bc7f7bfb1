"""The kicker, against a stand-in for ipc on a real socket."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from director.core.protocol.events import Event, KicksEnded, SessionsListed
from director.core.protocol.kicktypes import ByName, Fence, HashOnHosts, KickWhat, OnHost, ProxiedSession
from director.errors import KickError
from director.service.configuration.config import DovecotConfig
from director.service.kicks import kicker
from director.service.kicks.kicker import WAITING_LIMIT, Kicker
from director.service.log import Log
from tests.anvil import FakeAnvil, row
from tests.descriptors import without_descriptors
from tests.ipc import HEADER, FakeIpc, session
from tests.waiting import until

pytestmark = pytest.mark.anyio
HOST, OTHER = b"127.0.32.1", b"127.0.32.2"
LISTING = HEADER + session(b"ann", HOST) + session(b"ann", OTHER) + HEADER + session(b"bob", HOST, 2) + b"+\n"


def dovecot(request: bytes) -> bytes | None:
    return LISTING if request == b"LIST-FULL" else b"+1\n"


class Bench:
    """A running kicker and what it tells."""

    def __init__(self, folder: Path, *, kick: str = "ipc", timeout: float = 10.0) -> None:
        self.path, self.anvil = folder / "ipc", folder / "anvil"
        self.ended: list[tuple[int, int, str]] = []
        self.log: list[str] = []
        self.late: list[list[ProxiedSession]] = []
        self.listed: list[list[ProxiedSession]] = []
        self.kicker = Kicker(
            DovecotConfig(kick=kick, ipc_socket=str(self.path), anvil_socket=str(self.anvil)),
            Log(write=self.log.append),
            self._handle,
            timeout=timeout,
        )

    def _handle(self, event: Event) -> None:
        if isinstance(event, KicksEnded):
            self.ended += [(end.kick, end.sessions, end.problem) for end in event.ends]
        else:
            assert isinstance(event, SessionsListed)
            (self.late if event.late else self.listed).append(list(event.sessions))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Bench]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.kicker.run)
            yield self
            tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def with_ipc(self, answer: Callable[[bytes], bytes | None] = dovecot) -> AsyncIterator[FakeIpc]:
        async with FakeIpc(answer).listening(self.path) as fake, self.running():
            yield fake

    async def end(self, count: int = 1) -> list[tuple[int, int, str]]:
        await until(lambda: len(self.ended) >= count)
        return sorted(self.ended)


async def test_a_kick_tells_how_many_sessions_it_ended_on_all_login_processes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.with_ipc() as fake:
        bench.kicker.kick(7, ByName(b"ann"))
        assert bench.ended == []
        assert await bench.end() == [(7, 2, "")]
    assert fake.requests == [b"LIST-FULL", b"KICK\tann"]


async def test_kicks_at_once_share_a_listing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.with_ipc() as fake:
        for number in range(100):
            bench.kicker.kick(number, HashOnHosts(number, [HOST.decode(), OTHER.decode()]))
        ended = await bench.end(100)
    assert [(number, problem) for number, _, problem in ended] == [(n, "") for n in range(100)]
    assert [count for _, count, _ in ended][1:3] == [2, 1]
    assert (len(fake.requests), fake.requests.count(b"LIST-FULL")) == (101, 1)


async def test_kicks_one_after_another_share_a_connection(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.with_ipc() as fake:
        for number in range(5):
            bench.kicker.kick(number, ByName(b"ann"))
            await bench.end(number + 1)
    assert fake.accepted == 1


async def test_a_later_kick_gets_a_listing_of_its_own(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.with_ipc() as fake:
        bench.kicker.kick(1, OnHost("127.0.32.1"))
        await bench.end()
        await anyio.sleep(0.3)  # no listing is kept for longer than 0.25 s of real time
        bench.kicker.kick(2, OnHost("127.0.32.1"))
        assert await bench.end(2) == [(1, 2, ""), (2, 2, "")]
    assert fake.requests.count(b"LIST-FULL") == 2


async def test_a_listing_that_was_had_in_no_time_does_not_count_sessions_begun_since(tmp_path: Path) -> None:
    listings = iter([HEADER + b"+\n", LISTING])
    bench = Bench(tmp_path)
    async with bench.with_ipc(lambda r: next(listings) if r == b"LIST-FULL" else b"+1\n"):
        bench.kicker.kick(1, ByName(b"unknown"))
        await bench.end()
        await anyio.sleep(0.15)  # more than ten times what the stand-in needs for a listing
        bench.kicker.kick(2, ByName(b"ann"))
        assert await bench.end(2) == [(1, 1, ""), (2, 2, "")]


async def test_without_a_listing_the_count_is_that_of_the_last_login_process(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.with_ipc(lambda r: b"-Unknown command\n" if r == b"LIST-FULL" else b"+1\n"):
        bench.kicker.kick(1, ByName(b"ann"))
        assert await bench.end() == [(1, 1, "")]


async def test_a_listing_that_failed_counts_no_later_kick(tmp_path: Path) -> None:
    listings = iter([b"-Unknown command\n", LISTING])
    bench = Bench(tmp_path)
    async with bench.with_ipc(lambda r: next(listings) if r == b"LIST-FULL" else b"+1\n"):
        for number in range(2):
            bench.kicker.kick(number, ByName(b"ann"))
            await bench.end(number + 1)
    assert bench.ended == [(0, 1, ""), (1, 2, "")]


async def test_a_fence_and_a_kick_on_no_host_are_done_without_asking_anybody(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.with_ipc() as fake:
        bench.kicker.kick(1, Fence())
        bench.kicker.kick(2, HashOnHosts(1, []))
        assert await bench.end(2) == [(1, 0, ""), (2, 0, "")]
    assert fake.accepted == 0


async def test_a_name_with_a_tab_and_a_line_feed_arrives_intact(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.with_ipc() as fake:
        bench.kicker.kick(1, ByName(b"a\tb\nc"))
        await bench.end()
    assert fake.requests[1:] == [b"KICK\ta\x01tb\x01nc"]


async def test_a_refused_kick_ends_with_the_reason(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.with_ipc(lambda r: LISTING if r == b"LIST-FULL" else b"-Missing parameter\n"):
        bench.kicker.kick(1, ByName(b"ann"))
        assert await bench.end() == [(1, 0, f"{bench.path}: refused: Missing parameter")]


async def test_without_anybody_listening_each_kick_ends_with_a_problem(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.running():
        bench.kicker.kick(1, ByName(b"ann"))
        assert await bench.end() == [(1, 0, f"{bench.path}: cannot connect: No such file or directory")]


async def test_a_silent_channel_ends_every_kick_in_time_and_is_left(tmp_path: Path) -> None:
    bench = Bench(tmp_path, timeout=0.5)
    async with bench.with_ipc(lambda _: None) as fake:
        for number in range(200):
            bench.kicker.kick(number, ByName(b"ann"))
        late = f"{bench.path}: no answer within 0.5 s"
        assert await bench.end(200) == [(number, 0, late) for number in range(200)]
        await until(lambda: fake.open == 0)
        fake.answer = dovecot
        bench.kicker.kick(999, ByName(b"ann"))
        assert (await bench.end(201))[-1] == (999, 2, "")


async def test_a_kick_waits_neither_for_a_listing_nor_for_a_kick_that_is_stuck(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.with_ipc(lambda r: None if r in (b"LIST-FULL", b"KICK\tann") else b"+1\n") as fake:
        bench.kicker.kick(1, ByName(b"ann"))
        await until(lambda: len(fake.requests) == 2)
        bench.kicker.kick(2, ByName(b"bob"))
        assert await bench.end() == [(2, 1, "")]


async def test_a_late_answer_is_ignored_and_taken_for_no_other_kicks(tmp_path: Path) -> None:
    bench = Bench(tmp_path, timeout=0.5)
    async with bench.with_ipc(lambda r: b"+9\n" if r == b"KICK\tann" else dovecot(r)) as fake:
        fake.held = anyio.Event()
        bench.kicker.kick(1, ByName(b"ann"))
        assert await bench.end() == [(1, 0, f"{bench.path}: no answer within 0.5 s")]
        fake.held.set()
        fake.held = None
        bench.kicker.kick(2, OnHost("127.0.32.1"))
        number, sessions, problem = (await bench.end(2))[1]
    assert (number, problem) == (2, "")
    assert sessions in {1, 2}, "2 of the listing, or 1 of the channel where a busy machine has none in 0.25 s"
    assert len(bench.ended) == 2


async def test_a_connection_closed_in_the_middle_ends_the_kick_and_the_next_one_connects_anew(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    async with bench.with_ipc(lambda r: LISTING if r == b"LIST-FULL" else None) as fake:
        bench.kicker.kick(1, ByName(b"ann"))
        await until(lambda: len(fake.requests) == 2)
        fake.hang_up()
        assert await bench.end() == [(1, 0, f"{bench.path}: Dovecot closed the connection")]
        fake.answer = dovecot
        bench.kicker.kick(2, ByName(b"ann"))
        assert (await bench.end(2))[1] == (2, 2, "")


async def test_a_slow_channel_is_waited_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.with_ipc() as fake:
        fake.held = anyio.Event()
        bench.kicker.kick(1, ByName(b"ann"))
        await until(lambda: fake.requests)
        assert bench.ended == []
        fake.held.set()
        assert await bench.end() == [(1, 2, "")]


async def test_kicks_beyond_the_limit_end_at_once_with_a_problem(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.with_ipc(lambda _: None):
        for number in range(WAITING_LIMIT + 2):
            bench.kicker.kick(number, ByName(b"ann"))
        problem = f"{WAITING_LIMIT} kicks are in progress already; try again later"
        assert await bench.end(2) == [(WAITING_LIMIT, 0, problem), (WAITING_LIMIT + 1, 0, problem)]


async def test_switched_off_every_kick_is_done_at_once_and_nothing_is_listed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, kick="none")
    async with bench.with_ipc() as fake:
        bench.kicker.kick(1, ByName(b"ann"))
        assert await bench.end() == [(1, 0, "")]
        assert await bench.kicker.list_sessions() == []
    assert fake.accepted == 0


async def test_auto_takes_ipc_whenever_its_socket_is_there_and_logs_each_change_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, kick="auto")
    async with bench.running():
        for number in range(2):
            bench.kicker.kick(number, ByName(b"ann"))
        await bench.end(2)
        async with FakeIpc(dovecot).listening(bench.path):
            for number in range(2, 4):
                bench.kicker.kick(number, OnHost("127.0.32.2"))
            assert await bench.end(4) == [(0, 0, ""), (1, 0, ""), (2, 1, ""), (3, 1, "")]
    assert [line.split(" ", 1)[1] for line in bench.log] == [
        "level=warning event=kick_channel_changed channel=none "
        'problem="neither socket exists: sessions are not ended until Dovecot creates one" '
        f"ipc={bench.path} anvil={bench.anvil}\n",
        f"level=info event=kick_channel_changed channel=ipc socket={bench.path}\n",
    ]


async def test_sessions_are_listed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.with_ipc():
        assert await bench.kicker.list_sessions() == [
            ProxiedSession(b"ann", "127.0.32.1", 1),
            ProxiedSession(b"ann", "127.0.32.2", 1),
            ProxiedSession(b"bob", "127.0.32.1", 2),
        ]


async def test_a_dovecot_2_3_that_is_starting_is_listed_by_ipc_and_not_by_the_anvil_that_is_there_first(
    tmp_path: Path,
) -> None:
    """Both start at boot: the director asked its anvil, was refused, and told to give it another mode."""
    bench = Bench(tmp_path, kick="auto")
    with socket.socket(socket.AF_UNIX) as anvil:
        anvil.bind(str(bench.anvil))
        async with anyio.create_task_group() as tasks:
            found: list[list[ProxiedSession]] = []

            async def listing() -> None:
                found.append(await bench.kicker.list_sessions())

            tasks.start_soon(listing)
            await until(lambda: bool(bench.log))
            assert "channel=anvil" in bench.log[0]
            async with bench.with_ipc():
                await until(lambda: bool(found))
    assert len(found[0]) == 3
    assert "channel=ipc" in bench.log[1]


async def test_an_anvil_that_refuses_is_told_where_no_ipc_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kicker, "STARTS_WITHIN", 0.02)
    bench = Bench(tmp_path, kick="auto")
    with socket.socket(socket.AF_UNIX) as anvil:
        anvil.bind(str(bench.anvil))
        with pytest.raises(KickError, match="anvil"):
            await bench.kicker.list_sessions()


async def test_a_listing_that_does_not_come_is_an_error_and_leaves_no_connection(tmp_path: Path) -> None:
    bench = Bench(tmp_path, timeout=0.1)
    async with bench.with_ipc(lambda _: None) as fake:
        with pytest.raises(KickError, match=r"no answer within 0\.1 s"):
            await bench.kicker.list_sessions()
        await until(lambda: fake.open == 0)


async def test_stopping_closes_the_connection(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with FakeIpc(dovecot).listening(bench.path) as fake:
        async with bench.running():
            bench.kicker.kick(1, ByName(b"ann"))
            await bench.end()
        await until(lambda: fake.open == 0)


async def test_auto_takes_anvil_where_only_its_socket_is_there(tmp_path: Path) -> None:
    bench = Bench(tmp_path, kick="auto")
    async with FakeAnvil(row(b"ann", HOST)).listening(bench.anvil), bench.running():
        bench.kicker.kick(1, ByName(b"ann"))
        assert await bench.end() == [(1, 1, "")]
    assert bench.log[0].endswith(f"event=kick_channel_changed channel=anvil socket={bench.anvil}\n")


async def test_auto_takes_ipc_where_both_are_there_as_with_dovecot_2_3(tmp_path: Path) -> None:
    bench = Bench(tmp_path, kick="auto")
    async with FakeAnvil(row(b"ann", HOST)).listening(bench.anvil) as fake, bench.with_ipc():
        bench.kicker.kick(1, ByName(b"ann"))
        assert await bench.end() == [(1, 2, "")]
    assert fake.requests == []


async def test_auto_passes_over_an_ipc_socket_that_an_upgrade_left_behind(tmp_path: Path) -> None:
    bench = Bench(tmp_path, kick="auto")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(bench.path))
    async with FakeAnvil(row(b"ann", HOST)).listening(bench.anvil), bench.running():
        bench.kicker.kick(1, ByName(b"ann"))
        assert await bench.end() == [(1, 1, "")]


async def test_without_descriptors_a_kick_ends_with_a_problem_and_nothing_else_does(tmp_path: Path) -> None:
    bench = Bench(tmp_path, kick="auto")
    fake = FakeAnvil(row(b"ann", HOST))
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(bench.path))
    async with fake.listening(bench.anvil), bench.running():
        with without_descriptors():
            bench.kicker.kick(1, ByName(b"ann"))
            ((_, _, problem),) = await bench.end()
            assert "Too many open files" in problem


@pytest.mark.parametrize("what", [HashOnHosts(1, ["127.0.32.1"]), OnHost("127.0.32.1")])
async def test_after_a_kick_through_anvil_sessions_that_arrived_late_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: KickWhat
) -> None:
    monkeypatch.setattr(kicker, "LATE_FIRST", 0.05)
    monkeypatch.setattr(kicker, "LATE_EVERY", 0.05)
    bench = Bench(tmp_path, kick="anvil")
    async with FakeAnvil().listening(bench.anvil) as fake, bench.running():
        bench.kicker.kick(1, what)
        await bench.end()
        await until(lambda: bench.late)
        fake.rows.append(row(b"ann", HOST))
        await until(lambda: bench.late[-1] == [ProxiedSession(b"ann", "127.0.32.1", 1)])


async def test_sessions_are_listed_after_a_kick_only_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kicker, "LATE_FIRST", 0.02)
    monkeypatch.setattr(kicker, "LATE_EVERY", 0.02)
    monkeypatch.setattr(kicker, "LATE_UNTIL", 0.2)
    bench = Bench(tmp_path, kick="anvil")
    async with FakeAnvil().listening(bench.anvil) as fake, bench.running():
        for number in range(2):
            bench.kicker.kick(number, HashOnHosts(1, ["127.0.32.1"]))
            await until(lambda: len(bench.late) >= 2)
            await anyio.sleep(0.3)
            listed = len(fake.requests)
            await anyio.sleep(0.2)
            assert len(fake.requests) == listed
            bench.late.clear()


# ---- counting


async def test_sessions_that_are_counted_are_not_ended_and_counted_again_the_next_time(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    async with bench.with_ipc() as fake:
        for number in (1, 2):
            bench.kicker.count(number, ByName(b"ann"))
            assert (await bench.end(number))[-1] == (number, 2, "")
        bench.kicker.count(3, HashOnHosts(1, []))
        assert (await bench.end(3))[-1] == (3, 0, "")
        bench.kicker.kick(4, ByName(b"ann"))
        assert (await bench.end(4))[-1] == (4, 2, "")
    assert fake.requests == [b"LIST-FULL"] * 3 + [b"KICK\tann"]


async def test_sessions_that_cannot_be_counted_are_told_with_the_reason(tmp_path: Path) -> None:
    bench = Bench(tmp_path, timeout=0.05)
    async with bench.running():
        bench.kicker.count(1, ByName(b"ann"))
        (one,) = await bench.end()
        assert one[:2] == (1, 0)
        assert one[2]
    none = Bench(tmp_path, kick="none")
    async with none.running():
        none.kicker.count(1, ByName(b"ann"))
        assert await none.end() == [(1, 0, "no kick channel")]
    silent = Bench(tmp_path, timeout=0.05)
    async with silent.with_ipc(lambda request: None):
        silent.kicker.count(1, ByName(b"ann"))
        ((_, sessions, problem),) = await silent.end()
        assert sessions == 0
        assert "no answer within" in problem


async def test_the_core_is_told_once_what_is_proxied_when_it_asks(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.with_ipc():
        bench.kicker.tell_sessions()
        await until(lambda: bench.listed)
    assert [len(sessions) for sessions in bench.listed] == [3]
    assert bench.late == []


async def test_sessions_that_cannot_be_listed_are_none_for_the_core_and_it_is_logged(tmp_path: Path) -> None:
    bench = Bench(tmp_path, timeout=0.2)
    async with bench.with_ipc(lambda request: b"-refused\n" if request == b"LIST-FULL" else b"+1\n"):
        bench.kicker.tell_sessions()
        await until(lambda: bench.listed)
    assert bench.listed == [[]]
    assert any("event=sessions_not_listed" in line for line in bench.log)
