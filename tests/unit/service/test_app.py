"""The whole program in this process: start, serve, stop, and what happens when a part fails."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from director.core.protocol.effects import Effect
from director.core.protocol.events import Event, HostChange
from director.errors import ListenError
from director.service import internalerrors, managerreports
from director.service.app import App
from director.service.configuration.config import LimitsConfig
from director.service.configuration.configfile import load
from director.service.lifecycle.sockets import Sockets
from director.service.log import REPEATED, REPEATED_EVERY, Log
from director.service.logwriter import LogWriter
from director.service.managerreports import ManagerReports
from director.service.serve import EX_SOFTWARE, run
from director.types import Now
from state.urls import open_store
from tests.waiting import until

GOOD = """
state = "sqlite:///state.db"
[backends]
mail_servers = ["127.0.3.1-127.0.3.3"]
[dovecot]
base_dir = "{folder}"
[listen.api]
path = "api.sock"
"""


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a")
    (folder / "director.toml").write_text(GOOD.format(folder=folder))
    return folder


class Program:
    """An app, and what it logged."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.lines: list[str] = []
        self.seconds = 0.0
        """By the log's monotonic clock."""
        config, log = (
            load(folder / "director.toml", os.environ),
            Log(write=self.lines.append, monotonic=lambda: self.seconds),
        )
        self.app = App(config, log, stack.enter_context(Sockets(config, log, os.environ)))

    def logged(self, event: str) -> list[str]:
        return [line for line in self.lines if f" event={event} " in f"{line.rstrip()} "]


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Program]:
    """It runs; at the end it gets SIGTERM, and must end by itself."""
    with ExitStack() as stack:
        program = Program(folder, stack)
        program.app.prepare()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(program.app.serve)
            await until(lambda: program.logged("ready"))
            yield program
            os.kill(os.getpid(), signal.SIGTERM)
    assert program.logged("stopped")


def test_a_wrong_configuration_is_named_with_all_its_faults_and_opens_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "director.toml").write_text(
        '[users]\nexpire = "1 s"\n[ring]\nservers = ["nowhere.invalid:x"]\n'
    )
    assert run(str(folder / "director.toml")) == 78
    text = capfd.readouterr().err
    assert f"{folder}/director.toml: users.expire = '1 s'" in text
    assert "ring.servers" in text
    assert [path.name for path in folder.iterdir()] == ["director.toml"]


@pytest.mark.shows("A-18")
def test_a_ring_that_leaves_the_machine_without_tls_is_named_at_the_start(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = folder / "secret"
    secret.touch(0o600)
    secret.write_text("a secret of the ring, 32 bytes long")
    config = (folder / "director.toml").read_text()
    ring = '[ring]\nservers = ["192.0.2.1", "192.0.2.2"]\nlisten = "192.0.2.1"\nsecret_file = "secret"\n'
    (folder / "director.toml").write_text(config + ring)
    assert run(str(folder / "director.toml")) == 78  # it is not this machine's address
    text = capfd.readouterr().err
    assert " event=ring_without_tls directors=192.0.2.1:9090,192.0.2.2:9090 " in text
    assert "32 bytes long" not in text


@pytest.mark.anyio
async def test_it_serves_its_sockets_and_leaves_none_behind(folder: Path) -> None:
    paths = ["login/director/login", "login/director/proxy-notify", "director-userdb", "director-admin"]
    async with serving(folder):
        assert all((folder / path).exists() for path in [*paths, "api.sock"])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(folder / "login/director/login"))
    assert [path for path in [*paths, "api.sock"] if (folder / path).exists()] == []


@pytest.mark.anyio
async def test_a_notify_line_reaches_the_core_and_what_is_left_is_written_at_the_stop(folder: Path) -> None:
    async with serving(folder) as program:
        director = program.app.director
        await until(lambda: program.app.persistence.loaded)
        key = director.assigner.user_hash.key(b"alice")
        director.assigner.assign(key, b"")
        user = director.users.get(key)
        assert user is not None
        director.users.put(user._replace(seen=user.seen - 500))
        with (folder / "login/director/proxy-notify").open("wb") as fifo:
            fifo.write(b"alice\n")
        await until(lambda: (found := director.users.get(key)) and found.seen >= user.seen)
    store = open_store(f"sqlite:///{folder}/state.db", base_dir=folder)
    await store.open()
    blobs = [bucket.blob async for batch in store.load_buckets("users") for bucket in batch]
    await store.close()
    assert [blob[:8] for blob in blobs] == [key.to_bytes(8)]


@pytest.mark.anyio
async def test_lines_left_out_of_the_log_are_reported_although_nothing_follows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managerreports, "STATUS_EVERY", 0.01)
    async with serving(folder) as program:
        for _ in range(REPEATED + 7):
            program.app.log.warning("connection_failed")
        program.seconds += REPEATED_EVERY
        await until(lambda: program.logged("repeated_lines_left_out"))
        assert program.logged("repeated_lines_left_out")[0].endswith("of=connection_failed lines=7\n")


@pytest.mark.anyio
async def test_dropped_log_lines_are_counted_in_the_metrics(folder: Path) -> None:
    config = load(folder / "director.toml", os.environ)
    log_writer = LogWriter(2, limit=10)
    log = Log(log_writer.write)
    log.info("before_this_app")
    with Sockets(config, log, os.environ) as sockets:
        operations = App(config, log, sockets, None, log_writer).operations
        assert b"director_log_dropped_total 0.0" in await operations.metrics.page()
        log.info("does_not_fit")
        assert b"director_log_dropped_total 1.0" in await operations.metrics.page()
        assert operations.metrics.counted().numbers["log_dropped"] == 1


@pytest.mark.anyio
async def test_a_bug_in_a_callback_is_logged_with_its_place_and_counted_and_all_else_goes_on(
    folder: Path,
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a bug")

    async with serving(folder) as program:
        loop = asyncio.get_running_loop()
        for _ in range(20):
            loop.call_soon(broken)
        await until(lambda: program.app.internal_errors.count == 20)
        assert len(program.logged("internal_error")) == internalerrors.LOGGED
        assert "ZeroDivisionError: a bug" in program.logged("internal_error")[0]
        assert "in broken" in program.logged("internal_error")[0]


@pytest.mark.anyio
async def test_a_bug_in_a_connections_callback_ends_that_connection_alone(folder: Path) -> None:
    async with serving(folder) as program:
        relay = program.app.relays[0]
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as bystander:
            for sock in (client, bystander):
                sock.setblocking(False)
                await loop.sock_connect(sock, str(folder / "login/director/login"))
                await until(lambda: relay.clients)
            await until(lambda: len(relay.clients) == 2)
            for held in relay.clients:
                held._first = None  # type: ignore[assignment]
            await loop.sock_sendall(client, b"VERSION\t1\t2\n")
            assert await loop.sock_recv(client, 10) == b""
            await until(lambda: len(relay.clients) == 1)
        assert program.app.internal_errors.count == 1
        assert program.app.listeners.connections()["login"] == 1


@pytest.mark.anyio
async def test_a_bug_in_a_handler_of_admin_clients_is_counted_and_ends_no_more_than_the_connection(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(folder) as program:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(program.app.operations.queries, "hosts", lambda: 1 / 0)
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            await loop.sock_connect(client, str(folder / "director-admin"))
            await loop.sock_sendall(client, b"VERSION\tdirector-doveadm\t1\t0\nHOST-LIST\n")
            while await loop.sock_recv(client, 100):
                pass
        await until(lambda: program.logged("internal_error"))
        assert program.app.internal_errors.count == 1
        assert "listener=admin" in program.logged("internal_error")[0]
        assert "ZeroDivisionError" in program.logged("internal_error")[0]


@pytest.mark.anyio
async def test_a_bug_of_the_core_ends_the_program_also_where_a_clients_command_meets_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(event: Event, now: Now, *, same_turn: bool = False) -> list[Effect]:
        if isinstance(event, HostChange):
            raise ZeroDivisionError("a bug")
        return handle(event, now, same_turn=same_turn)

    async def command(program: Program) -> None:
        nonlocal handle
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(program.app.serve)
            await until(lambda: program.logged("ready"))
            handle = program.app.director.handle
            monkeypatch.setattr(program.app.director, "handle", broken)
            async with await anyio.connect_unix(folder / "director-admin") as client:
                await client.send(b"VERSION\tdirector-doveadm\t1\t0\nHOST-SET\t127.0.3.9\t100\n")
                await anyio.sleep_forever()

    handle: Callable[..., list[Effect]]
    with ExitStack() as stack:
        program = Program(folder, stack)
        program.app.prepare()
        with pytest.raises(ExceptionGroup) as raised:
            await command(program)
    assert raised.group_contains(ZeroDivisionError, match="a bug")
    assert program.logged("internal_error") == []


@pytest.mark.anyio
async def test_connections_over_a_limit_are_counted_and_logged_once_a_minute(folder: Path) -> None:
    async with serving(folder) as program:
        for _ in range(3):
            program.app.listeners.connection_refused("admin", "all", "unix")
        program.app.listeners.connection_refused("admin-tcp", "address", "10.0.0.9:1234")
        refused = program.logged("connection_limit_reached")
        assert [("limit=256" in line, "limit=64" in line) for line in refused] == [
            (True, False),
            (False, True),
        ]
        assert "key=limits.connections_per_address" in refused[1]
        page = (await program.app.operations.metrics.page()).decode()
        assert 'director_connections_refused_total{limit="all",listener="admin"} 3.0' in page


@pytest.mark.anyio
async def test_limits_of_connections_follow_a_reload_and_are_a_sixteenth_of_few_descriptors(
    folder: Path,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1600, hard))
    try:
        async with serving(folder) as program:
            limits, config = program.app.listeners._limits, program.app.config
            assert (limits.in_all, limits.per_address) == (100, 64)
            lower = LimitsConfig(connections=5, connections_per_address=2)
            await program.app.apply(msgspec.structs.replace(config, limits=lower), None)
            assert (limits.in_all, limits.per_address) == (5, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.anyio
async def test_trouble_of_the_network_is_no_bug(folder: Path) -> None:
    async with serving(folder) as program:
        context = {"message": "Fatal error on transport", "exception": OSError(113, "No route to host")}
        asyncio.get_running_loop().call_exception_handler(context)
        assert program.app.internal_errors.count == 0
        assert "No route to host" in program.logged("connection_failed")[0]


def test_a_task_that_crashes_ends_the_program_with_a_trace_and_what_was_known_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def broken(reports: ManagerReports) -> None:
        persistence, assigner = reports._persistence, reports._director.assigner
        await until(lambda: persistence.loaded)
        assigner.assign(assigner.user_hash.key(b"alice"), b"")
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ManagerReports, "run", broken)
    assert run(str(folder / "director.toml")) == EX_SOFTWARE
    assert "event=program_crashed" in capfd.readouterr().err

    async def stored() -> int:
        store = open_store(f"sqlite:///{folder}/state.db", base_dir=folder)
        await store.open()
        count = sum([len(batch) async for batch in store.load_buckets("users")])
        await store.close()
        return count

    assert anyio.run(stored) == 1


def test_a_socket_that_is_served_already_ends_it_with_78_before_anything_else(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(folder / "director-admin"))
        taken.listen()
        assert run(str(folder / "director.toml")) == ListenError.exit_code
    assert "admin: cannot listen on" in capfd.readouterr().err
    assert not (folder / "state.db").exists()


def test_a_check_says_that_all_is_well_and_leaves_nothing_open(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(str(folder / "director.toml"), check=True) == 0
    assert "all sockets can be opened" in capfd.readouterr().out
    assert not (folder / "director-admin").exists()


def test_a_store_that_does_not_answer_fails_a_check_but_not_a_start(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = (folder / "director.toml").read_text()
    (folder / "director.toml").write_text(text.replace("sqlite:///state.db", f"unix://{folder}/no-redis"))
    assert run(str(folder / "director.toml"), check=True) == 69
    assert "no-redis" in capfd.readouterr().err
