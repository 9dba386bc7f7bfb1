"""The sockets of a director that is killed, stopped or replaced: a keeper holds them meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from director.net import keeperlink
from director.net.keeper import identity_of
from director.net.keeperlink import KeeperAnswer
from tests.e2e.processes import ROOT, Auth, Client, DirectorProcess, until
from tests.needs import cannot_run, needs, needs_root
from tests.servers import free_port

ADDRESS = "127.0.81.21"
GREETED = b"VERSION\t1\t2\n"
OTHER_USER = 65534
"""User and group id of the account `nobody`."""


@contextmanager
def one_director(folder: Path, **how: Any) -> Iterator[DirectorProcess]:
    """A director without a ring, in front of an auth service."""
    director = DirectorProcess(folder / "d", ADDRESS, free_port(), [], **how)
    with Auth(director.auth_path), Auth(director.userdb_path):
        try:
            director.start().wait_ready()
            yield director
        finally:
            director.close()


def control(director: DirectorProcess) -> str:
    return str(director.run / "director-keeper")


def keeper(director: DirectorProcess) -> KeeperAnswer:
    return keeperlink.status(control(director), director.folder.stat().st_uid)


def until_alone(director: DirectorProcess) -> KeeperAnswer:
    """Wait until the keeper knows that the director has ended."""
    until(lambda: not keeper(director).busy, what="the keeper has no director")
    return keeper(director)


def waiting(path: Path) -> socket.socket:
    """Return the connection of a login process that waits for its greeting. Raises OSError if it is
    refused."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(15)
    client.connect(str(path))
    client.sendall(b"VERSION\t1\t2\nCPID\t77\n")
    return client


def children(process: int) -> dict[int, str]:
    """Process id -> state, Z for a zombie."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == process:
                found[int(folder.name)] = fields[0]
    return found


@pytest.fixture
def director(folder: Path) -> Iterator[DirectorProcess]:
    with one_director(folder) as director:
        yield director


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_client_that_connects_while_no_director_runs_is_served_when_it_is_back(
    director: DirectorProcess, how: str
) -> None:
    before = keeper(director).process
    if how == "killed":
        director.kill()
    else:
        assert director.stop() == 0
    with waiting(director.login) as login, waiting(director.userdb) as userdb:
        director.fifo.open("wb").close()  # blocks if no process reads
        director.start()
        assert login.recv(100).startswith(GREETED)
        assert userdb.recv(100).startswith(GREETED)
    assert keeper(director).process == before
    with Client(director.login) as client:
        assert client.ask(["alice"])


def test_clients_of_the_other_sockets_are_refused_at_once_while_no_director_runs(
    director: DirectorProcess,
) -> None:
    director.kill()
    until_alone(director)
    for path in (director.admin, director.api_path, director.run / "director-authreply"):
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(str(path))
    address, _, port = director.member.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, int(port)), timeout=5)


def test_a_thousand_clients_that_wait_in_a_kept_socket_are_all_served(director: DirectorProcess) -> None:
    """The backlog is 1024, or net.core.somaxconn if that is less."""
    most = min(1000, int(Path("/proc/sys/net/core/somaxconn").read_text()))
    director.kill()
    with ExitStack() as clients:
        logins = []
        for _ in range(most):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)  # BlockingIOError if the queue is full
            client.connect(str(director.login))
            client.settimeout(15)
            client.sendall(b"VERSION\t1\t2\nCPID\t77\n")
            logins.append(client)
        director.start()
        assert all(client.recv(100).startswith(GREETED) for client in logins)


def test_clients_that_gave_up_waiting_disturb_no_other_client(director: DirectorProcess) -> None:
    director.kill()
    for _ in range(50):
        waiting(director.login).close()
    with waiting(director.login) as client:
        director.start()
        assert client.recv(100).startswith(GREETED)
    assert director.all_logged("internal_error") == []


def test_a_replacement_in_place_keeps_the_keeper_which_leaves_no_zombie_afterwards(
    director: DirectorProcess,
) -> None:
    before = keeper(director).process
    assert director.command("reload", "--exec").returncode == 0
    assert keeper(director).process == before
    os.kill(before, signal.SIGKILL)
    until(lambda: before not in children(director.pid), what="the keeper that ended is collected")
    until(lambda: len(director.logged("keeper_started")) == 2, what="another keeper is started")
    assert "Z" not in children(director.pid).values()
    director.kill()
    with waiting(director.login) as client:
        director.start()
        assert client.recv(100).startswith(GREETED)


def test_the_keeper_follows_listeners_that_are_moved_turned_off_or_get_another_mode(
    director: DirectorProcess,
) -> None:
    moved = director.run / "login/director/other"
    text = director.config.read_text()
    text += f'[listen.login]\npath = "{moved}"\n[listen.notify]\npath = ""\n[listen.userdb]\nmode = "0660"\n'
    director.config.write_text(text)
    assert director.command("reload", "--exec").returncode == 0
    until(lambda: keeper(director).names == ("login", "userdb"))
    director.kill()
    assert not director.login.exists()
    assert not director.fifo.exists()
    assert director.userdb.stat().st_mode & 0o777 == 0o660
    with waiting(moved) as client:
        director.start()
        assert client.recv(100).startswith(GREETED)


def test_a_start_with_other_paths_serves_them_and_removes_the_former_paths(director: DirectorProcess) -> None:
    director.kill()
    moved = director.folder / "elsewhere/userdb"
    with waiting(director.userdb) as former:
        text = director.config.read_text() + f'[listen.userdb]\npath = "{moved}"\nmode = "0666"\n'
        director.config.write_text(text)
        director.start()
        with pytest.raises(ConnectionResetError):  # the client has to connect again, to the new path
            former.recv(100)
        with waiting(moved) as client:
            assert client.recv(100).startswith(GREETED)
    assert not director.userdb.exists()
    assert moved.stat().st_mode & 0o777 == 0o666
    until(lambda: keeper(director).busy)
    assert keeper(director).names == ("login", "userdb", "notify")


def test_a_replacement_in_place_with_another_base_dir_moves_the_keeper_there(
    director: DirectorProcess,
) -> None:
    before, other = keeper(director).process, director.folder / "other"
    other.mkdir()
    director.config.write_text(
        director.config.read_text().replace(f'base_dir = "{director.run}"', f'base_dir = "{other}"')
        + f'[listen.login]\npath = "{director.login}"\n'
    )
    with Auth(other / "auth-login"), Auth(other / "auth-userdb"):
        assert director.command("reload", "--exec").returncode == 0
        until(lambda: before not in children(director.pid))
        director.kill()
        answer = keeperlink.status(str(other / "director-keeper"))
        assert answer.names == ("login", "userdb", "notify")
        assert not director.userdb.exists()
        with waiting(director.login) as client:
            director.start()
            assert client.recv(100).startswith(GREETED)


def test_a_fifo_that_was_replaced_while_the_director_ran_is_held_too(director: DirectorProcess) -> None:
    director.fifo.unlink()
    until(lambda: director.logged("notify_fifo_replaced"))
    until(lambda: fifo_of_keeper(director) == identity(director.fifo), what="the keeper has the new one")
    director.kill()
    os.close(os.open(director.fifo, os.O_WRONLY | os.O_NONBLOCK))  # fails if no process reads


def fifo_of_keeper(director: DirectorProcess) -> tuple[int, int] | None:
    """Return device and inode number of the FIFO that the keeper has open."""
    reply = keeperlink.ask(control(director), "copies")
    assert reply is not None
    answer, connection = reply
    connection.close()
    try:
        found = {held_file.name: os.fstat(held_file.descriptor) for held_file in answer.kept}
    finally:
        keeperlink.keeper.close_all([held_file.descriptor for held_file in answer.kept])
    return (found["notify"].st_dev, found["notify"].st_ino) if "notify" in found else None


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def test_a_keeper_that_is_killed_is_replaced_within_seconds(director: DirectorProcess) -> None:
    first = keeper(director).process
    os.kill(first, signal.SIGKILL)
    until(lambda: len(director.logged("keeper_started")) == 2)
    assert director.get("/v1/status")["sockets_kept_by"] == "keeper"
    director.kill()
    assert until_alone(director).names == ("login", "userdb", "notify")


def test_after_director_and_keeper_were_killed_the_next_director_takes_over_the_paths(
    director: DirectorProcess,
) -> None:
    os.kill(keeper(director).process, signal.SIGKILL)
    director.kill()
    director.start().wait_ready()
    with Client(director.login) as client:
        assert client.ask(["alice"])
    assert keeper(director).busy


def test_files_that_were_removed_while_no_director_ran_are_made_anew(director: DirectorProcess) -> None:
    director.kill()
    director.login.unlink()
    director.fifo.unlink()
    with waiting(director.userdb) as client:
        director.start()
        assert client.recv(100).startswith(GREETED)
    with Client(director.login) as login:
        assert login.ask(["alice"])
    (line,) = director.wait_logged("sockets_taken_over")
    assert "listeners=userdb removed=login,notify" in line


def test_of_two_directors_that_race_for_one_keeper_one_serves_and_the_other_ends_with_78(
    director: DirectorProcess, folder: Path
) -> None:
    second = DirectorProcess(folder / "e", "127.0.81.22", free_port(), [], state="memory:")
    second.config.write_text(second.config.read_text().replace(str(second.run), str(director.run)))
    director.kill()
    try:
        with waiting(director.login) as client:
            director.start()
            second.start()
            assert client.recv(100).startswith(GREETED)
        loser = until(lambda: next((each for each in (director, second) if each.ended()), None))
        assert loser.wait() == 78
        assert "another process listens there" in loser.log
        assert keeper(director).busy
    finally:
        second.close()


def test_a_director_that_cannot_start_leaves_clients_and_files_to_the_keeper(
    director: DirectorProcess,
) -> None:
    director.kill()
    address, _, port = director.member.rpartition(":")
    with socket.socket() as taken, waiting(director.login) as client:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((address, int(port)))
        taken.listen()
        assert director.start().wait() == 78
        until_alone(director)
        assert director.login.exists()
        taken.close()
        director.start()
        assert client.recv(100).startswith(GREETED)


def test_serve_check_leaves_the_sockets_of_a_keeper_alone(director: DirectorProcess) -> None:
    director.kill()
    until_alone(director)
    with waiting(director.login) as client:
        done = director.command("serve", "--check")
        assert (done.returncode, "all sockets can be opened" in done.stdout) == (0, True), done
        assert until_alone(director).names == ("login", "userdb", "notify")
        director.start()
        assert client.recv(100).startswith(GREETED)


def test_without_a_control_socket_the_director_serves_and_logs_the_reason_once(folder: Path) -> None:
    director = DirectorProcess(folder / "d", ADDRESS, free_port(), [])
    for place in (director.run, director.run / "login/director"):
        (place / "director-keeper").mkdir(parents=True)
    with Auth(director.auth_path), Auth(director.userdb_path):
        try:
            director.start().wait_ready()
            with Client(director.login) as client:
                assert client.ask(["alice"])
            assert director.get("/v1/status")["sockets_kept_by"] == ""
            time.sleep(2.5)  # it tries again meanwhile
            (line,) = director.wait_logged("keeper_failed")
            assert "Is a directory" in line
            assert director.stop() == 0
            assert not director.login.exists()
        finally:
            director.close()


def test_a_keeper_that_does_not_answer_delays_no_login(director: DirectorProcess) -> None:
    path = f"{control(director)}.silent"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.bind(path)
        silent.listen()
        os.rename(path, control(director))
        with Client(director.login) as client:
            slowest = 0.0
            while not director.logged("keeper_failed"):
                began = time.monotonic()
                client.ask(["alice"])
                slowest = max(slowest, time.monotonic() - began)
    assert slowest < keeperlink.keeper.ASK_WITHIN / 2


# ---- `director keep`


@contextmanager
def keeping(director: DirectorProcess) -> Iterator[subprocess.Popen[bytes]]:
    """`director keep` as a process, which holds the control socket."""
    command = [sys.executable, "-m", "director", "keep", "-c", str(director.config)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: standalone(director) == process.pid, what="it holds the control socket")
        yield process
    finally:
        process.kill()
        process.wait()


def standalone(director: DirectorProcess) -> int:
    with suppress(keeperlink.KeeperError):
        answer = keeper(director)
        return answer.process if answer.standalone else 0
    return 0


def test_director_keep_holds_the_sockets_before_and_after_a_director(folder: Path) -> None:
    director = DirectorProcess(folder / "d", ADDRESS, free_port(), [])
    with Auth(director.auth_path), Auth(director.userdb_path), keeping(director) as process:
        try:
            for _ in range(2):
                with waiting(director.login) as client:
                    director.start()
                    assert client.recv(100).startswith(GREETED)
                director.wait_ready()
                assert director.all_logged("keeper_started") == []
                director.kill()
            until_alone(director)
            process.terminate()
            assert process.wait(10) == 0
            assert not director.login.exists()
        finally:
            director.close()


def test_a_running_director_moves_to_a_started_director_keep_and_back_when_it_ends(
    director: DirectorProcess,
) -> None:
    first = keeper(director).process
    with keeping(director) as process:
        until(lambda: keeper(director).names == ("login", "userdb", "notify"))
        until(lambda: first not in children(director.pid))
        assert keeper(director).process == process.pid
    until(lambda: len(director.logged("keeper_started")) == 2)
    with Client(director.login) as client:
        assert client.ask(["alice"])


def test_a_second_director_keep_ends_with_69_and_names_the_first(director: DirectorProcess) -> None:
    with keeping(director) as process:
        done = director.command("keep")
        assert done.returncode == 69
        assert f"process {process.pid}" in done.stderr


def test_director_keep_takes_over_what_the_keeper_of_a_dead_director_holds(director: DirectorProcess) -> None:
    director.kill()
    with waiting(director.login) as client, keeping(director):
        assert keeper(director).names == ("login", "userdb", "notify")
        director.start()
        assert client.recv(100).startswith(GREETED)


def test_a_killed_container_recovers_if_director_keep_runs_outside_of_it(folder: Path) -> None:
    needs_root("to make a PID namespace")
    needs("unshare")
    director = DirectorProcess(folder / "d", ADDRESS, free_port(), [], program=("tests.e2e.contained",))
    with Auth(director.auth_path), Auth(director.userdb_path), keeping(director):
        try:
            director.start().wait_ready()
            assert director.get("/v1/status")["sockets_kept_by"] == "keeper"
            director.kill()
            until_alone(director)
            with waiting(director.login) as client:
                director.start()
                assert client.recv(100).startswith(GREETED)
        finally:
            director.close()


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_the_three_sockets_of_a_director_that_is_not_root_outlive_it(folder: Path, how: str) -> None:
    needs_root("to run a director as another user")
    director = DirectorProcess(
        folder / "d",
        ADDRESS,
        free_port(),
        [],
        program=("tests.e2e.unprivileged", str(OTHER_USER)),
        python=_python_for_everybody(),
        environ={"PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}"},
    )
    for path in (director.folder, *director.folder.rglob("*")):
        os.chown(path, OTHER_USER, OTHER_USER)
    with Auth(director.auth_path), Auth(director.userdb_path):
        for path in (director.auth_path, director.userdb_path):
            path.chmod(0o666)
        try:
            director.start().wait_ready()
            _outlive(director, how)
        finally:
            director.close()


def _python_for_everybody() -> str:
    """Return a Python of this version that every user may start; the present one may be in a home folder."""
    parents = Path(os.path.realpath(sys.executable)).parents
    if all(parent.stat().st_mode & stat.S_IXOTH for parent in parents):
        return sys.executable
    found = shutil.which(f"python{sys.version_info[0]}.{sys.version_info[1]}", path="/usr/bin:/usr/local/bin")
    return found or cannot_run(f"other users may not start {sys.executable}")


def _outlive(director: DirectorProcess, how: str) -> None:
    before = keeper(director).process
    assert before in children(director.pid)
    assert [os.stat(f"/proc/{process}").st_uid for process in (director.pid, before)] == [OTHER_USER] * 2
    assert f"keeper, process {before}, holds" in director.command("doctor", "--all").stdout
    paths = (director.login, director.userdb, director.fifo)
    identities = [identity_of(str(path)) for path in paths]
    if how == "killed":
        director.kill()
    else:
        assert director.stop() == 0
    assert set(until_alone(director).names) == {"login", "userdb", "notify"}
    with waiting(director.login) as login, waiting(director.userdb) as userdb:
        with director.fifo.open("wb") as fifo:  # blocks if no process reads
            fifo.write(b"alice\n")
        director.start()
        assert login.recv(100).startswith(GREETED)
        assert userdb.recv(100).startswith(GREETED)
    director.wait_ready()
    assert [identity_of(str(path)) for path in paths] == identities
    assert keeper(director).process == before
    for path, passlines in ((director.login, False), (director.userdb, True)):
        with Client(path, passlines=passlines) as client:
            assert client.ask(["alice"])


def test_process_1_of_a_container_starts_no_keeper_because_it_would_die_with_it(folder: Path) -> None:
    needs_root("to make a PID namespace")
    needs("unshare")
    with one_director(folder, program=("tests.e2e.contained",)) as director:
        (line,) = director.wait_logged("keeper_failed")
        assert "director keep" in line
        (first,) = children(director.pid)
        os.kill(first, signal.SIGTERM)
        director.wait()
        assert not director.login.exists()
        assert not Path(control(director)).exists()
