"""Kicks through the ipc socket of a real Dovecot 2.3 and the anvil of 2.4, and the sessions they list."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import pytest

from director.core.placement.hashing import UserHash
from director.core.protocol.events import Event, KicksEnded
from director.core.protocol.kicktypes import ByField, ByName, HashOnHosts, KickWhat, OnHost, ProxiedSession
from director.demo.clients import Imap, login_imap
from director.demo.cluster import Cluster
from director.demo.dovecot import Backend, Programs, Proxy
from director.demo.ports import Ports, free_ports
from director.demo.settings import Rule
from director.service.configuration.config import DovecotConfig
from director.service.kicks.kicker import Kicker
from director.service.log import Log
from tests.e2e.conftest import Front, dovecot, new_folder
from tests.e2e.mailclients import Pop3
from tests.e2e.processes import until as wait_until
from tests.e2e.sessions import answers
from tests.waiting import until

pytestmark = pytest.mark.anyio
MOVING_PROXY, MOVED_TO, ONE_EACH = "127.0.22.21", "127.0.23.21", "127.0.22.31"
PROXY, FIRST, SECOND, SILENT = "127.0.22.11", "127.0.23.1", "127.0.23.2", "127.0.23.9"
GUEST = "cat"
USERS = ("ann", "bob", GUEST)
HASHES = {user: UserHash().hash(user.encode()) for user in USERS}
SLOW_HASH = 7
# IMAP goes to the first host and POP3 to the second, so that a user has sessions on both, as in a move.
HOST = {
    "2.3": f"%{{if;%s;eq;imap;{FIRST};{SECOND}}}",
    "2.4": f"%{{protocol | if('eq', 'imap', '{FIRST}', '{SECOND}')}}",
}
CHANNEL = {"2.3": "ipc", "2.4": "anvil"}
Session = tuple[str, str]
"""User and protocol."""


class KickChannel:
    """A kicker and the results of its last kick."""

    def __init__(self, proxy: Proxy, timeout: float, sockets: Path) -> None:
        self.path = sockets / CHANNEL[proxy.programs.release]
        config = DovecotConfig(
            kick="auto", ipc_socket=str(sockets / "ipc"), anvil_socket=str(sockets / "anvil")
        )
        self.ended: list[tuple[int, str]] = []
        self.kicker = Kicker(config, Log(write=lambda _: None), self._handle, timeout=timeout)

    def _handle(self, event: Event) -> None:
        if isinstance(event, KicksEnded):
            self.ended += [(end.sessions, end.problem) for end in event.ends]

    async def kick(self, what: KickWhat) -> tuple[int, str]:
        """Return the number of ended sessions, and the problem."""
        self.ended.clear()
        self.kicker.kick(1, what)
        await until(lambda: self.ended, within=20)
        return self.ended[0]

    async def sessions(self, count: int) -> list[ProxiedSession]:
        """Return the listing, as soon as it has `count` sessions."""
        with anyio.fail_after(20):
            while len(listed := await self.kicker.list_sessions()) != count:  # noqa: ASYNC110 - others end them
                await anyio.sleep(0.01)
        return listed


@asynccontextmanager
async def kick_channel(
    proxy: Proxy, timeout: float = 10.0, sockets: Path | None = None
) -> AsyncIterator[KickChannel]:
    """Run a kicker of a proxy. `sockets`: the folder of the kick channel's sockets; None: that of the
    proxy."""
    channel = KickChannel(proxy, timeout, sockets or proxy.run)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(channel.kicker.run)
        yield channel
        tasks.cancel_scope.cancel()


@pytest.fixture(scope="module")
def kicked(programs: Programs) -> Iterator[Front]:
    """A proxy whose passdb names the users' hosts, and adds the fields that a director would add."""
    there = HOST[programs.release]
    ports = free_ports([PROXY, FIRST, SECOND, SILENT], [])
    passdb = [
        Rule(
            user,
            host=there,
            fields={"user_dirkey": f"{hash32}@{there}"} | ({"user_guest": "yes"} if user == GUEST else {}),
        )
        for user, hash32 in HASHES.items()
    ]
    passdb.append(Rule("here*", proxy=False))
    passdb.append(Rule("slow*", host=SILENT, fields={"user_dirkey": f"{SLOW_HASH}@{SILENT}"}))
    any_name = "auth_username_chars =\n"
    with new_folder(programs) as folder, ExitStack() as stack:
        backends = [
            stack.enter_context(Backend(folder / f"b{n}", f"b{n}", address, ports, programs=programs))
            for n, address in enumerate((FIRST, SECOND), 1)
        ]
        proxy = Proxy(
            folder / "p1",
            "p1",
            PROXY,
            ports,
            passdb=passdb,
            director=False,
            programs=programs,
            extra=any_name,
        )
        yield Front(stack.enter_context(proxy), backends, ports)


class Clients:
    """A session of every user over IMAP, on the first host, and over POP3, on the second."""

    def __init__(self, address: str, ports: Ports, users: tuple[str, ...] = USERS) -> None:
        self.address, self.ports, self.users = address, ports, users
        self.connections: dict[Session, Imap | Pop3] = {}

    def __enter__(self) -> Clients:
        for user in self.users:
            imap, pop3 = Imap(self.address, self.ports.imap), Pop3(self.address, self.ports.pop3)
            self.connections |= {(user, "imap"): imap, (user, "pop3"): pop3}
            imap.login(user, "any")
            pop3.login(user, "any")
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.connections.values():
            connection.close()

    def ended(self) -> set[Session]:
        """Return the sessions whose connection is closed; all others have answered."""
        return {session for session, connection in self.connections.items() if not answers(connection)}


IMAP = {(user, "imap") for user in USERS}
POP3 = {(user, "pop3") for user in USERS}
ALL = IMAP | POP3


@pytest.mark.parametrize(
    ("what", "ended"),
    [
        (HashOnHosts(HASHES["ann"], [FIRST]), {("ann", "imap")}),
        (HashOnHosts(HASHES["ann"], [SECOND, FIRST]), {("ann", "imap"), ("ann", "pop3")}),
        (HashOnHosts(HASHES["ann"], [SILENT]), set()),
        (ByName(b"bob"), {("bob", "imap"), ("bob", "pop3")}),
        (ByName(b"Bob"), set()),
        (ByField("user_guest", b"yes"), {(GUEST, "imap"), (GUEST, "pop3")}),
        (ByField("user_unheard_of", b"yes"), set()),
        (OnHost(SECOND), POP3),
    ],
)
async def test_a_kick_ends_exactly_the_sessions_it_names(
    kicked: Front, what: KickWhat, ended: set[Session]
) -> None:
    async with kick_channel(kicked.proxy) as channel:
        await channel.sessions(0)
        with Clients(kicked.address, kicked.ports) as clients:
            await channel.sessions(len(ALL))
            assert await channel.kick(what) == (len(ended), "")
            assert clients.ended() == ended
            assert len(await channel.sessions(len(ALL) - len(ended))) == len(ALL) - len(ended)


async def test_sessions_are_listed_with_their_hosts_and_hashes(kicked: Front) -> None:
    async with kick_channel(kicked.proxy) as channel:
        await channel.sessions(0)
        with Clients(kicked.address, kicked.ports):
            listed = await channel.sessions(len(ALL))
    expected = [
        ProxiedSession(user.encode(), host, HASHES[user]) for user in USERS for host in (FIRST, SECOND)
    ]
    assert sorted(listed, key=lambda s: (s.name, s.host)) == expected


async def test_a_session_that_is_not_proxied_is_neither_listed_nor_ended(kicked: Front) -> None:
    """anvil would end this session too if it were asked to end the user's sessions."""
    async with kick_channel(kicked.proxy) as channel:
        await channel.sessions(0)
        with Imap(kicked.address, kicked.ports.imap) as here:
            here.login("here", "any")
            assert here.served_by() == kicked.proxy.name
            assert await channel.kick(ByName(b"here")) == (0, "")
            assert await channel.kicker.list_sessions() == []
            assert answers(here)


async def test_many_kicks_at_once_are_all_carried_out(kicked: Front) -> None:
    async with kick_channel(kicked.proxy) as channel:
        await channel.sessions(0)
        with Clients(kicked.address, kicked.ports) as clients:
            await channel.sessions(len(ALL))
            for number in range(200):
                channel.kicker.kick(number, ByName(b"absent%d" % number))
            for user in USERS:
                channel.kicker.kick(1000, ByName(user.encode()))
            await until(lambda: len(channel.ended) == 203, within=20)
            assert sorted(channel.ended)[-4:] == [(0, ""), *[(2, "")] * 3]
            assert clients.ended() == ALL


@contextmanager
def silent_backend(ports: Ports) -> Iterator[socket.socket]:
    """Give the listener of a backend that accepts nothing by itself."""
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        silent.bind((SILENT, ports.imap))
        silent.listen()
        yield silent


@contextmanager
def logging_in(front: Front, user: str) -> Iterator[Imap]:
    """Give a client whose proxy has connected to a backend that sends nothing."""
    with silent_backend(front.ports) as silent, Imap(front.address, front.ports.imap) as session:
        session.send(f'a LOGIN "{user}" any')
        silent.settimeout(20)
        connection, _ = silent.accept()
        with connection:
            yield session


@pytest.mark.parametrize(
    "what",
    [HashOnHosts(SLOW_HASH, [SILENT]), ByName(b"slow\tpoke"), OnHost(SILENT)],
)
@pytest.mark.parametrize("programs", ["2.3"], indirect=True)
async def test_a_session_whose_backend_has_not_answered_yet_is_listed_and_ended(
    kicked: Front, what: KickWhat
) -> None:
    # a login process answers ipc only after its first session
    login_imap(kicked.address, kicked.ports.imap, "ann")
    async with kick_channel(kicked.proxy) as channel:
        await channel.sessions(0)
        with logging_in(kicked, "slow\tpoke") as session:
            assert await channel.sessions(1) == [ProxiedSession(b"slow\tpoke", SILENT, SLOW_HASH)]
            assert await channel.kick(what) == (1, "")
            with pytest.raises(ConnectionError, match="closed"):
                session.read()


async def test_a_suspended_login_process_makes_a_kick_time_out_but_all_others_end_their_sessions(
    kicked: Front,
) -> None:
    async with kick_channel(kicked.proxy, timeout=1.0) as channel:
        await channel.sessions(0)
        with Clients(kicked.address, kicked.ports, ("ann",)) as clients:
            await channel.sessions(2)
            suspended = kicked.proxy.processes("pop3-login")
            for process in suspended:
                os.kill(process, signal.SIGSTOP)
            try:
                late = await channel.kick(ByName(b"ann"))
                imap_answers = answers(clients.connections["ann", "imap"])
            finally:
                for process in suspended:
                    os.kill(process, signal.SIGCONT)
            assert late == (0, f"{channel.path}: no answer within 1 s")
            assert not imap_answers
            _, problem = await channel.kick(ByName(b"ann"))
            assert problem == ""
            assert clients.ended() == {("ann", "imap"), ("ann", "pop3")}


async def test_a_kicker_works_after_a_restart_of_dovecot(kicked: Front) -> None:
    async with kick_channel(kicked.proxy) as channel:
        assert (await channel.kick(ByName(b"ann")))[1] == ""
        kicked.proxy.stop()
        # the first kick may still use the old connection, and find that it is lost
        problems = [(await channel.kick(ByName(b"ann")))[1] for _ in range(2)]
        assert problems[1].startswith(f"{channel.path}: cannot connect")
        kicked.proxy.start()
        with Clients(kicked.address, kicked.ports) as clients:
            assert await channel.kick(ByName(b"ann")) == (2, "")
            assert clients.ended() == {("ann", "imap"), ("ann", "pop3")}


async def test_a_kick_finds_sessions_by_the_fields_that_a_director_adds_to_replies(cluster: Cluster) -> None:
    proxy = cluster.proxies[0]
    async with kick_channel(proxy) as channel:
        with Clients(proxy.address, cluster.ports, ("kim", "lou")) as clients:
            (host,) = [user["host"] for user in cluster.directors[0].ask("map") if user["name"] == "kim"]
            hash32 = UserHash().hash(b"kim")
            listed = [s for s in await channel.kicker.list_sessions() if s.name == b"kim"]
            assert listed == [ProxiedSession(b"kim", host, hash32)] * 2
            assert await channel.kick(HashOnHosts(hash32, [host])) == (2, "")
            assert clients.ended() == {("kim", "imap"), ("kim", "pop3")}


def test_the_removal_of_a_host_ends_its_sessions_and_no_others(cluster: Cluster) -> None:
    director, removed = cluster.directors[0], cluster.backends[3]
    users = [f"gone{n}" for n in range(20)]
    with ExitStack() as stack:
        sessions = {}
        for n, user in enumerate(users):
            proxy = cluster.proxy_addresses[n % len(cluster.proxy_addresses)]
            session = sessions[user] = stack.enter_context(Imap(proxy, cluster.ports.imap))
            session.login(user, "any")
        there = {user for user, session in sessions.items() if session.served_by() == removed.name}
        assert 0 < len(there) < len(users)
        try:
            assert director.command("remove", removed.address).returncode == 0

            def ended() -> set[str]:
                return {user for user, session in sessions.items() if not answers(session)}

            wait_until(lambda: ended() >= there, within=20, what="the sessions on it have ended")
            assert ended() == there
        finally:
            assert director.command("add", removed.address).returncode == 0


class SlowBackend:
    """A backend for one session that sends nothing until `speak` is set, and then accepts all commands."""

    def __init__(self, listener: socket.socket) -> None:
        self.connected, self.speak = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
        self._thread.start()

    def _serve(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        self.connected.set()
        with connection, suppress(OSError):
            self.speak.wait()
            connection.sendall(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN ID] here.\r\n")
            for line in connection.makefile("rb"):
                if len(words := line.split(None, 1)) == 2:
                    connection.sendall(b"%s OK done\r\n" % words[0])

    def has_ended(self) -> bool:
        self._thread.join(20)
        return not self._thread.is_alive()


@pytest.fixture
def moving(programs: Programs) -> Iterator[Cluster]:
    """A director with a proxy and one backend."""
    ports = free_ports([MOVING_PROXY, MOVED_TO, SILENT], [MOVING_PROXY])
    with new_folder(programs) as folder:
        cluster = Cluster(
            folder / "c",
            directors=1,
            backends=1,
            ports=ports,
            first_proxy=MOVING_PROXY,
            first_backend=MOVED_TO,
            programs=programs,
        )
        with cluster:
            yield cluster


@pytest.fixture
def slow_backend(moving: Cluster) -> Iterator[SlowBackend]:
    """A second backend, to which the user `slow` is assigned."""
    with silent_backend(moving.ports) as listener:
        backend = SlowBackend(listener)
        for command in (["add", SILENT], ["move", "--new", "slow", SILENT]):
            assert moving.directors[0].command(*command).returncode == 0
        yield backend


def test_a_login_in_flight_to_a_slow_backend_is_ended_when_its_user_is_moved(
    moving: Cluster, slow_backend: SlowBackend
) -> None:
    with Imap(MOVING_PROXY, moving.ports.imap) as early:
        early.send('a LOGIN "slow" any')
        assert slow_backend.connected.wait(20)
        assert moving.directors[0].command("move", "slow", MOVED_TO).returncode == 0
        assert login_imap(MOVING_PROXY, moving.ports.imap, "slow") == "b1"
        slow_backend.speak.set()
        with pytest.raises(ConnectionError):  # noqa: PT012 - on 2.3 it is closed before its login ends
            while True:
                early.read()
    assert slow_backend.has_ended()


@pytest.fixture(scope="module")
def one_each() -> Iterator[Front]:
    """A proxy of 2.4 as packages configure it, with a login process for each connection."""
    programs = dovecot("2.4")
    ports = free_ports([ONE_EACH, MOVED_TO], [])
    with new_folder(programs) as folder, ExitStack() as stack:
        backend = stack.enter_context(Backend(folder / "b1", "b1", MOVED_TO, ports, programs=programs))
        proxy = Proxy(
            folder / "p1",
            "p1",
            ONE_EACH,
            ports,
            passdb=[
                Rule(user, host=MOVED_TO, fields={"user_dirkey": f"{HASHES[user]}@{MOVED_TO}"})
                for user in USERS
            ],
            director=False,
            programs=programs,
            extra="service imap-login {\n  restart_request_count = 1\n  process_limit = 20\n}\n",
        )
        yield Front(stack.enter_context(proxy), [backend], ports)


async def test_a_kick_reaches_login_processes_that_serve_one_connection_each(one_each: Front) -> None:
    async with kick_channel(one_each.proxy) as channel:
        with Clients(one_each.address, one_each.ports, ("ann", "bob")) as clients:
            await channel.sessions(4)
            assert await channel.kick(HashOnHosts(HASHES["ann"], [MOVED_TO])) == (2, "")
            assert clients.ended() == {("ann", "imap"), ("ann", "pop3")}


async def test_a_kick_without_access_to_login_processes_reports_open_sessions_and_the_setting_that_helps(
    one_each: Front,
) -> None:
    with new_folder() as folder:
        # no sockets of login processes are in this folder, as for a director that is not root
        (folder / "anvil").symlink_to(one_each.proxy.run / "anvil")
        async with kick_channel(one_each.proxy, sockets=folder) as channel:
            await channel.sessions(0)
            with Clients(one_each.address, one_each.ports, ("cat",)) as clients:
                await channel.sessions(2)
                sessions, problem = await channel.kick(HashOnHosts(HASHES["cat"], [MOVED_TO]))
                assert clients.ended() == {("cat", "pop3")}
    assert sessions == 0
    assert "but some continue: 1 of imap-login; set restart_request_count = unlimited" in problem
