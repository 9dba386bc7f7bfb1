"""The keeper: what it holds, how long, and for which peers. On a clock of its own, and as a process."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import anyio
import pytest

from director.net import keeper, keeperlink, listen
from director.net.keeper import AFTER_DEATH, AFTER_STOP, Kept
from director.net.keeperlink import KeeperConnection, KeeperError
from tests.folders import let_everybody_in
from tests.needs import needs_root
from tests.waiting import until

MOST_MEMORY = 15_000
"""kB of a keeper process."""
STRANGER = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
try:
    s.send(b'{"ask": "serve"}')
    print(s.recv(1000) or "nothing")
except (BrokenPipeError, ConnectionResetError):
    print("nothing")
"""


class Bench:
    """The sockets of a director in a folder, and a keeper that is asked to take its turns one by one."""

    def __init__(self, folder: Path, stack: ExitStack, *, standalone: bool = False) -> None:
        self.folder, self.now, self._stack = folder, 1000.0, stack
        self.path = str(folder / "director-keeper")
        self.opened: list[listen.Listener | listen.Fifo] = [
            listen.unix_listener("login", str(folder / "login"), mode=0o666),
            listen.unix_listener("userdb", str(folder / "userdb"), mode=0o600),
            listen.open_fifo("notify", str(folder / "notify"), mode=0o666),
        ]
        for one in self.opened:
            stack.callback(one.close)
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control = keeper.control_socket(self.path)
        self.link = KeeperConnection(near, self.path, keeper.identity_of(self.path))
        self.keeper = keeper.Keeper(self.path, control, far, standalone=standalone, clock=lambda: self.now)
        stack.callback(near.close)
        stack.callback(self.keeper.close)
        self.keep()

    def kept(self) -> list[Kept]:
        return [one for one in map(listen.to_keep, self.opened) if one is not None]

    def keep(self) -> None:
        self.link.keep(self.kept())
        self.keeper.turn(0.0)

    def die(self) -> None:
        """The director is killed: its descriptors are closed, its files stay."""
        for one in self.opened:
            one.leave_file()
            one.close()
        self.link.connection.close()
        self.keeper.turn(0.0)

    def ask(self, what: str) -> tuple[keeperlink.KeeperAnswer, socket.socket]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
            asking.connect(self.path)
            keeper.send(asking, {"ask": what})
            turns = 0
            while not select.select([asking], [], [], 0)[0]:
                self.keeper.turn(0.0)
                turns += 1
                assert turns < 20, "it does not answer"
            heard = keeper.receive(asking)
            assert heard is not None
            answer = keeperlink.read_answer(*heard)
            return answer, self._stack.enter_context(asking.dup())

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.keeper.turn(0.0)

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def bench(tmp_path: Path, stack: ExitStack) -> Bench:
    return Bench(tmp_path, stack)


ALL = {"login", "userdb", "notify", "director-keeper"}


def test_a_client_that_comes_while_the_director_is_dead_waits_and_is_accepted_by_the_next_one(
    bench: Bench,
) -> None:
    bench.die()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(bench.folder / "login"))
        client.sendall(b"VERSION\t1\t2\n")
        answer, _ = bench.ask("serve")
        adopted = {one.name: one.descriptor for one in answer.kept}
        with closing(listen.adopt_listener("login", adopted["login"])) as listener:
            accepted, _ = listener.socket.accept()
            with accepted:
                assert accepted.recv(100) == b"VERSION\t1\t2\n"
    keeper.close_all([adopted["userdb"], adopted["notify"]])


def test_lines_that_login_processes_write_while_the_director_is_dead_are_read_by_the_next_one(
    bench: Bench,
) -> None:
    bench.die()
    writer = os.open(bench.folder / "notify", os.O_WRONLY | os.O_NONBLOCK)  # ENXIO if no process reads
    os.write(writer, b"alice\n")
    os.close(writer)
    answer, _ = bench.ask("serve")
    (fifo,) = (one.descriptor for one in answer.kept if one.name == "notify")
    assert os.read(fifo, 100) == b"alice\n"
    keeper.close_all([one.descriptor for one in answer.kept])


@pytest.mark.parametrize(("orderly", "patience"), [(False, AFTER_DEATH), (True, AFTER_STOP)])
def test_everything_is_kept_for_10_min_after_a_kill_and_1_min_after_a_stop_and_then_removed(
    bench: Bench, orderly: bool, patience: float
) -> None:
    if orderly:
        bench.link.stopping()
    bench.die()
    bench.pass_time(patience - 1)
    assert bench.files == ALL
    assert not bench.keeper.ended
    bench.pass_time(2)
    assert bench.keeper.ended
    bench.keeper.run()
    assert bench.files == set()


def test_a_director_that_comes_back_ends_the_countdown_of_the_stop(bench: Bench) -> None:
    bench.link.stopping()
    bench.die()
    answer, connection = bench.ask("serve")
    bench.pass_time(AFTER_DEATH * 2)
    connection.close()
    bench.keeper.turn(0.0)
    bench.pass_time(AFTER_STOP + 1)
    assert not bench.keeper.ended, "it was killed this time"
    keeper.close_all([one.descriptor for one in answer.kept])


def test_one_of_two_directors_gets_the_sockets_and_the_other_is_told_that_they_are_served(
    bench: Bench,
) -> None:
    bench.die()
    first, connection = bench.ask("serve")
    second, _ = bench.ask("serve")
    assert (first.busy, len(first.kept)) == (False, 3)
    assert (second.busy, second.kept, second.names) == (True, [], ("login", "userdb", "notify"))
    connection.close()
    third, _ = bench.ask("serve")
    assert len(third.kept) == 3
    keeper.close_all([one.descriptor for one in (*first.kept, *third.kept)])


def test_a_director_that_dies_while_it_asks_leaves_everything_to_the_next_one(bench: Bench) -> None:
    bench.die()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dying:
        dying.connect(bench.path)
        keeper.send(dying, {"ask": "serve"})
    for _ in range(3):
        bench.keeper.turn(0.0)
    answer, _ = bench.ask("serve")
    assert len(answer.kept) == 3
    keeper.close_all([one.descriptor for one in answer.kept])


def test_a_peer_that_sends_nothing_or_nonsense_is_closed_and_delays_no_other_peer(bench: Bench) -> None:
    bench.die()
    with ExitStack() as peers:
        silent, loud = (
            peers.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) for _ in range(2)
        )
        silent.connect(bench.path)
        loud.connect(bench.path)
        loud.send(b"no JSON")
        answer, _ = bench.ask("status")
        assert answer.names == ("login", "userdb", "notify")
        bench.pass_time(keeper.ASK_WITHIN + 1)
        for peer in (silent, loud):
            peer.settimeout(5)
            assert peer.recv(10) == b""


@pytest.mark.parametrize(
    "message",
    [
        b'{"keep": [{"name": "login"}]}',
        b'{"keep": 7}',
        b"[]",
        b'{"keep": [{"name": "admin", "path": "/a", "owns_file": true, "identity": [1, 2]}]}',
    ],
)
def test_a_message_that_cannot_be_understood_changes_nothing_that_is_held(
    bench: Bench, message: bytes
) -> None:
    socket.send_fds(bench.link.connection, [message], [bench.opened[0].socket.fileno()])  # type: ignore[union-attr]
    bench.keeper.turn(0.0)
    bench.die()
    answer, _ = bench.ask("copies")
    assert answer.names == ("login", "userdb", "notify")
    keeper.close_all([one.descriptor for one in answer.kept])


def test_listeners_of_the_ring_and_of_the_api_are_not_kept(bench: Bench) -> None:
    with closing(listen.unix_listener("api", str(bench.folder / "api"), mode=0o600)) as api:
        kept = listen.to_keep(api)
        assert kept is not None
        bench.link.keep([*bench.kept(), kept])
        bench.keeper.turn(0.0)
    answer, _ = bench.ask("status")
    assert answer.names == ("login", "userdb", "notify")


def test_a_listener_that_is_turned_off_is_closed_and_its_file_removed(bench: Bench) -> None:
    del bench.opened[1]
    bench.keep()
    assert bench.files == ALL - {"userdb"}
    bench.die()
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(FileNotFoundError):
        client.connect(str(bench.folder / "userdb"))


def test_a_file_that_another_process_has_put_in_place_of_ours_is_not_removed(bench: Bench) -> None:
    bench.die()
    (bench.folder / "login").unlink()
    (bench.folder / "login").touch()
    bench.pass_time(AFTER_DEATH + 1)
    bench.keeper.run()
    assert bench.files == {"login"}


def test_a_keeper_whose_files_were_deleted_ends(bench: Bench) -> None:
    bench.die()
    for name in ("login", "userdb"):
        (bench.folder / name).unlink()
    bench.pass_time(1)
    assert not bench.keeper.ended, "login processes reach the FIFO still"
    (bench.folder / "notify").unlink()
    bench.pass_time(1)
    assert bench.keeper.ended


def test_a_control_socket_that_was_deleted_is_made_again(bench: Bench) -> None:
    bench.die()
    (bench.folder / "director-keeper").unlink()
    bench.pass_time(1)
    assert bench.files == ALL - {"director-keeper"}, "the folder may be about to be removed"
    bench.pass_time(keeper.MISSING_FOR + 1)
    answer, _ = bench.ask("status")
    assert len(answer.names) == 3
    assert (bench.folder / "director-keeper").stat().st_mode & 0o777 == 0o600


def test_a_keeper_whose_control_socket_was_replaced_ends_and_leaves_the_files(bench: Bench) -> None:
    bench.die()
    with closing(keeper.control_socket(bench.path)):
        bench.pass_time(1)
        assert bench.keeper.ended
        bench.keeper.run()
        assert bench.files == ALL


def test_a_standalone_keeper_continues_without_sockets_to_hold(tmp_path: Path, stack: ExitStack) -> None:
    bench = Bench(tmp_path, stack, standalone=True)
    bench.die()
    bench.pass_time(AFTER_DEATH + 1)
    assert bench.files == {"director-keeper"}
    assert not bench.keeper.ended
    answer, _ = bench.ask("serve")
    assert (answer.standalone, answer.busy, answer.kept) == (True, False, [])


# ---- as a process


def status_of(process: int) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@pytest.fixture
def started(tmp_path: Path, stack: ExitStack) -> Iterator[tuple[Bench, KeeperConnection, int]]:
    """A keeper as a process, of a director with a log pipe and other sockets."""
    bench = Bench(tmp_path, stack)
    bench.keeper.close()
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)  # as descriptors of a supervisor may be
    stack.callback(keeper.close_all, [reader, writer])
    link, child = keeperlink.start(bench.path, bench.kept())
    try:
        yield bench, link, child
    finally:
        link.connection.close()
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)


def open_in(process: int) -> list[str]:
    """The files and sockets that the descriptors of a process stand for."""
    found = []
    for end in os.listdir(f"/proc/{process}/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{process}/fd/{end}"))
    return found


async def until_it_runs(child: int) -> None:
    comm = Path(f"/proc/{child}/comm")
    await until(lambda: comm.read_text().strip() == keeper.COMMAND_NAME)


@pytest.mark.anyio
async def test_the_process_is_small_and_holds_nothing_but_the_sockets(
    started: tuple[Bench, KeeperConnection, int],
) -> None:
    bench, link, child = started
    await until_it_runs(child)
    await until(lambda: len(keeperlink.status(bench.path).names) == 3)
    status = status_of(child)
    assert int(status["VmRSS"].split()[0]) <= MOST_MEMORY
    # login, userdb, its control socket, the connection to the director; and for a moment that of `status`
    await until(lambda: len([one for one in open_in(child) if one.startswith("socket:")]) == 4)
    others = {one for one in open_in(child) if not one.startswith("socket:")}
    assert others == {"/dev/null", str(bench.folder / "notify")}
    assert status["NSsid"] == str(child), "in a session of its own"
    assert os.readlink(f"/proc/{child}/cwd") == "/"
    assert link.is_open
    assert link.is_current


@pytest.mark.anyio
async def test_a_killed_keeper_is_noticed_and_leaves_no_zombie(
    started: tuple[Bench, KeeperConnection, int],
) -> None:
    _, link, child = started
    await until_it_runs(child)
    assert not keeperlink.has_ended(child)
    os.kill(child, signal.SIGKILL)
    await until(lambda: not link.is_open)
    await until(lambda: keeperlink.has_ended(child))
    assert str(child) not in os.listdir("/proc")


@pytest.mark.anyio
async def test_sigterm_ends_it_and_removes_the_files_only_where_no_director_serves(
    started: tuple[Bench, KeeperConnection, int],
) -> None:
    bench, link, child = started
    await until_it_runs(child)
    await until(lambda: len(keeperlink.status(bench.path).names) == 3)  # it answers: a signal is heard
    os.kill(child, signal.SIGTERM)
    await until(lambda: keeperlink.has_ended(child))
    assert bench.files == ALL - {"director-keeper"}
    link, child = keeperlink.start(bench.path, bench.kept())
    await until_it_runs(child)
    link.connection.close()
    await until(lambda: not keeperlink.status(bench.path).busy)
    os.kill(child, signal.SIGTERM)
    await until(lambda: keeperlink.has_ended(child))
    assert bench.files == set()


@pytest.mark.anyio
async def test_a_process_of_another_user_gets_nothing_whatever_the_mode_of_the_file(
    started: tuple[Bench, KeeperConnection, int],
) -> None:
    needs_root("to ask as another user")
    bench, link, child = started
    await until_it_runs(child)
    link.connection.close()
    await until(lambda: not keeperlink.status(bench.path).busy)
    let_everybody_in(bench.folder)
    os.chmod(bench.path, 0o666)
    asked = await anyio.run_process([sys.executable, "-I", "-c", STRANGER, bench.path], check=False)
    assert asked.stdout == b"nothing\n", asked
    answer, connection = keeperlink.ask(bench.path, "copies") or pytest.fail("it is gone")
    connection.close()
    assert len(answer.kept) == 3
    keeper.close_all([one.descriptor for one in answer.kept])


def test_a_keeper_of_another_user_is_not_trusted(tmp_path: Path) -> None:
    needs_root("to listen as another user")
    path = str(tmp_path / "director-keeper")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(path)
        os.seteuid(65534)
        try:
            sock.listen()
        finally:
            os.seteuid(0)
        with pytest.raises(KeeperError, match="uid 65534"):
            keeperlink.ask(path, "serve")


def test_in_a_folder_that_a_director_may_not_look_into_it_has_no_keeper(tmp_path: Path) -> None:
    """User dovecot and `login/`, where systemd has made the sockets."""
    needs_root("to ask as another user")
    tmp_path.chmod(0o700)
    path = str(tmp_path / "director-keeper")
    os.seteuid(65534)
    try:
        assert keeperlink.ask(path, "serve") is None
    finally:
        os.seteuid(0)


def test_a_keeper_that_a_director_may_not_ask_is_reported(tmp_path: Path) -> None:
    needs_root("to ask as another user")
    let_everybody_in(tmp_path)
    path = str(tmp_path / "director-keeper")
    with closing(keeper.control_socket(path)):
        os.seteuid(65534)
        try:
            with pytest.raises(KeeperError, match="Permission denied"):
                keeperlink.ask(path, "serve")
        finally:
            os.seteuid(0)


def test_no_keeper_is_started_if_no_control_socket_can_be_made_and_the_reason_is_reported(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KeeperError, match="Not a directory"):
        keeperlink.start(str(tmp_path / "file/director-keeper"), bench.kept())


def test_a_stopped_keeper_delays_no_director_for_longer_than_the_deadline(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "ASK_WITHIN", 0.05)
    with pytest.raises(KeeperError, match="timed out"):
        keeperlink.ask(bench.path, "serve")  # it takes no turn


def test_the_program_needs_the_standard_library_only() -> None:
    names = "import sys, runpy; runpy.run_path(sys.argv[1]); print(*sys.modules)"
    run = [sys.executable, "-I", "-S", "-c", names, keeper.__file__]
    loaded = subprocess.run(run, capture_output=True, text=True, check=True, timeout=10).stdout.split()
    assert not [one for one in loaded if one.partition(".")[0] not in {*sys.stdlib_module_names, "__main__"}]


def test_a_keeper_without_a_descriptor_left_waits_a_moment_and_then_answers(bench: Bench) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.connect(bench.path)
        with _no_descriptor_left():
            bench.keeper.turn(0.0)
            begun = time.monotonic()
            bench.keeper.turn()
            assert time.monotonic() - begun >= keeper.PAUSE
        keeper.send(asking, {"ask": "status"})
        bench.pass_time(keeper.PAUSE)
        bench.keeper.turn(0.0)
        heard = keeper.receive(asking)
        assert heard is not None
        assert {one["name"] for one in heard[0]["kept"]} == {"login", "userdb", "notify"}


@contextmanager
def _no_descriptor_left() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as taken:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        taken.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        with suppress(OSError):
            while True:
                taken.callback(os.close, os.dup(0))
        yield
