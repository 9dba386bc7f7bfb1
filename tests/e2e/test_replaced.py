"""The program of a running director is replaced in place: no login, command or FIFO line is lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import site
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import (
    Auth,
    Client,
    DirectorProcess,
    Directors,
    Load,
    auth_line,
    connect,
    host_in,
    until,
)
from tests.proxy import Proxy
from tests.servers import RedisServer, free_port

ADDRESS = "127.0.60.51"
PROGRAM = "from director.cli.main import main\nmain()\n"


@contextmanager
def one_director(folder: Path, *, delay: float = 0.0, **how: Any) -> Iterator[DirectorProcess]:
    """A director without a ring, in front of an auth service whose answers take `delay` seconds."""
    port = free_port()
    director = DirectorProcess(folder / "d", ADDRESS, port, how.pop("servers", []), **how)
    with Auth(director.auth_path, delay=delay), Auth(director.userdb_path):
        try:
            director.start()
            yield director
        finally:
            director.close()


def replace(director: DirectorProcess) -> dict[str, Any]:
    """Ask for a replacement in place, and return the answer."""
    director.command("reload", "--exec")
    info: dict[str, Any] = director.get("/v1/reload")
    return info


def replaced(director: DirectorProcess, times: int = 1) -> None:
    until(lambda: len(director.logged("program_replaced")) >= times, what=director.log[-3000:])


def test_requests_in_progress_are_answered_by_the_successor_in_the_same_process(folder: Path) -> None:
    with one_director(folder, delay=1.5) as director:
        director.wait_ready()
        pid = director.pid
        with Client(director.login) as client:
            client.socket.sendall(auth_line(1, "alice") + auth_line(2, "bob"))
            director.send(signal.SIGUSR2)
            answers = {client.stream.readline().split(b"\t")[1] for _ in range(2)}
            replaced(director)
            assert answers == {b"1", b"2"}
            assert client.ask(["carol"])["carol"]
        assert director.pid == pid
        assert director.stop() == 0
        assert not director.admin.exists()


def test_logins_that_wait_for_the_ring_continue_to_wait_and_are_answered(folder: Path) -> None:
    port = free_port()
    servers = [f"127.0.60.{number}:{port}" for number in (51, 52, 53)]
    settings = {"ring": 'isolation_wait = "3 s"'}
    director = DirectorProcess(folder / "d", ADDRESS, port, servers, settings=settings)
    with Auth(director.auth_path), Auth(director.userdb_path):
        try:
            director.start()
            with Client(director.login) as client:
                client.socket.sendall(auth_line(1, "alice"))
                until(lambda: director.logged("started"))
                director.send(signal.SIGUSR2)
                until(lambda: len(director.logged("started")) == 2, what=director.log)
                assert host_in(client.stream.readline())
        finally:
            director.close()


def test_assignments_and_names_survive_a_replacement_without_a_store(folder: Path) -> None:
    users = [f"user{number}" for number in range(300)]
    with one_director(folder, state="memory:") as director:
        with Client(director.login) as client:
            before = client.ask(users)
        info = replace(director)
        assert (info["state"], info["number"]) == ("done", 1)
        assert director.users() == len(users)
        with Client(director.login) as client:
            assert client.ask(users) == before
        listed = director.get("/v1/users")
        assert {row["name"] for row in listed} == set(users)


def test_a_move_a_host_that_is_down_and_a_pin_survive_a_replacement(folder: Path) -> None:
    with one_director(folder, state="memory:", settings={"users": 'kick_delay = "0.1 s"'}) as director:
        director.wait_ready()
        with Client(director.login) as client:
            client.ask(["alice", "bob"])
        assert director.command("down", "127.0.3.4").returncode == 0
        assert director.command("pin", "alice", "127.0.3.2").returncode == 0
        replace(director)
        assert director.get("/v1/reload")["state"] == "done"
        assert [up for host, _, _, up in director.hosts() if host == "127.0.3.4"] == [False]
        with Client(director.login) as client:
            assert client.ask(["alice"]) == {"alice": "127.0.3.2"}
        assert "director pin --new alice 127.0.3.2" in director.command("dump").stdout


def test_metrics_do_not_go_back(folder: Path) -> None:
    with one_director(folder) as director:
        director.wait_ready()
        for _ in range(2):
            with Client(director.login) as client:
                client.ask([f"user{number}" for number in range(10)])
            replace(director)
        page = director.request("GET", "/metrics")[1].decode()
        assert 'director_lookups_total{protocol="login",result="answered"} 20.0' in page


def test_a_bad_configuration_is_reported_and_the_old_program_continues(folder: Path) -> None:
    with one_director(folder) as director:
        director.wait_ready()
        good = director.config.read_text()
        with Client(director.login) as client:
            client.ask(["alice"])
            director.config.write_text(good + "[users]\nexpire = 5\n")
            done = director.command("-S", str(director.api_path), "reload", "--exec")
            assert done.returncode == 78
            assert "continues" in done.stdout
            assert "users.expire" in done.stdout
            assert client.ask(["alice", "bob"])
        assert director.get("/v1/reload")["state"] == "failed"
        assert not director.all_logged("program_replaced")
        director.config.write_text(good)
        assert replace(director)["state"] == "done"


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("import no_such_module\n", "no_such_module"),
        ("import sys\nsys.exit('an older release')\n", "an older release"),
        ("import director.service.lifecycle.handover as h\nh.FORMAT = 0\n" + PROGRAM, "format 1"),
    ],
    ids=["syntax", "module", "unknown", "format"],
)
def test_a_program_that_cannot_take_over_leaves_the_predecessor_running(
    folder: Path, program: str, problem: str
) -> None:
    file = folder / "program.py"
    file.write_text(PROGRAM)
    with one_director(folder, program=("tests.e2e.program_file", str(file))) as director:
        director.wait_ready()
        with Client(director.login) as client:
            file.write_text(program)
            info = replace(director)
            assert info["state"] == "failed"
            assert problem in info["problem"]
            assert client.ask(["alice"])


def test_a_newer_version_takes_over_from_an_older_version(folder: Path) -> None:
    file = folder / "program.py"
    file.write_text(PROGRAM)
    with one_director(folder, program=("tests.e2e.program_file", str(file))) as director:
        director.wait_ready()
        with Client(director.login) as client:
            before = client.ask(["alice"])
            file.write_text('import director.version\ndirector.version.VERSION = "9.9"\n' + PROGRAM)
            done = director.command("reload", "--exec")
            assert "has been replaced by 9.9" in done.stdout
            assert client.ask(["alice"]) == before
        info = director.get("/v1/reload")
        assert (info["version"], info["before"] != "9.9") == ("9.9", True)


def test_after_a_program_that_cannot_be_executed_the_old_program_runs_again(folder: Path) -> None:
    python, file = folder / "python", folder / "program.py"
    python.symlink_to(sys.executable)
    # it reports that it can take over, and then deletes itself
    vanishes = f"import os, sys\nif '--can-take-over' in sys.argv: os.unlink({str(python)!r})\n"
    file.write_text(vanishes + PROGRAM)
    packages = os.pathsep.join(site.getsitepackages())
    with one_director(
        folder,
        program=("tests.e2e.program_file", str(file)),
        python=str(python),
        environ={"PYTHONPATH": packages},
    ) as director:
        director.wait_ready()
        with Client(director.login) as client:
            before = client.ask(["alice"])
            client.socket.sendall(auth_line(1, "bob"))
            info = replace(director)
            assert host_in(client.stream.readline())
            assert client.ask(["alice"]) == before
        assert (info["state"], info["number"]) == ("failed", 0)
        assert "cannot be started: No such file" in info["problem"]
        status = until(lambda: (now := director.get("/v1/status"))["store"]["up"] and now)
        assert status["users"] == 2
        assert director.stop() == 0


def test_logins_work_after_several_signals_in_a_row_and_during_the_start(folder: Path) -> None:
    with one_director(folder) as director:
        with Client(director.login):
            for _ in range(3):
                director.send(signal.SIGUSR2)
        director.wait_ready()
        for _ in range(3):
            director.send(signal.SIGUSR2)
        replaced(director)
        director.wait_ready()
        with Client(director.login) as client:
            assert client.ask(["alice"])
        assert director.stop() == 0


def test_a_stop_during_a_replacement_stops_the_director(folder: Path) -> None:
    with one_director(folder) as director:
        director.wait_ready()
        director.send(signal.SIGUSR2)
        until(lambda: director.logged("replacement_begun"))
        director.send(signal.SIGTERM)
        assert director.wait() == 0
        assert not director.admin.exists()


def test_sighup_reads_the_file_again_and_applies_live_settings(folder: Path) -> None:
    with one_director(folder) as director:
        director.wait_ready()
        text = director.config.read_text()
        text = text.replace("127.0.3.1-127.0.3.4", "127.0.3.1-127.0.3.5")
        director.config.write_text(text + '[log]\nlevel = "debug"\nformat = "json"\n')
        director.send(signal.SIGHUP)
        until(lambda: director.logged("configuration_reloaded"))
        assert "applied=backends.mail_servers,log.level needs_exec=log.format" in director.log
        until(lambda: len(director.hosts()) == 5)
        again = director.command("reload")
        assert again.stdout == "log.format: needs `director reload --exec`\n"


def test_a_dry_run_reports_whether_the_program_could_be_replaced_and_changes_nothing(folder: Path) -> None:
    with one_director(folder) as director:
        director.wait_ready()
        assert director.command("reload", "--exec", "--dry-run").stdout == "the program could be replaced\n"
        director.config.write_text(director.config.read_text() + '[log]\nlevel = "debug"\n')
        assert director.command("reload", "--dry-run").stdout == "log.level: would apply immediately\n"
        assert not director.all_logged("configuration_reloaded")
        assert not director.all_logged("program_replaced")


def test_half_a_line_in_the_fifo_is_not_lost(folder: Path) -> None:
    with one_director(folder, settings={"users": 'expire = "1 h"'}) as director:
        director.wait_ready()
        with Client(director.login) as client:
            client.ask(["alice"])
        with director.fifo.open("wb", buffering=0) as fifo:
            fifo.write(b"al")
            replace(director)
            fifo.write(b"ice\n")
        assert director.get("/v1/users/alice")["current"]
        assert director.stop() == 0


def test_descriptors_do_not_grow_and_the_notify_fifo_is_always_read(folder: Path) -> None:
    with one_director(folder) as director:
        director.wait_ready()
        replace(director)

        def count() -> int:
            return len(os.listdir(f"/proc/{director.pid}/fd"))

        before = count()
        for _ in range(2):
            assert replace(director)["state"] == "done"
        until(lambda: count() <= before, what="more descriptors are open than after the first replacement")
        os.close(os.open(director.fifo, os.O_WRONLY | os.O_NONBLOCK))


def test_no_login_fails_while_the_directors_of_a_ring_are_replaced_one_by_one(folder: Path) -> None:
    users = [f"user{number}" for number in range(400)]
    with Directors(folder, first="127.0.61.11") as directors:
        directors.wait_whole()
        with Load(directors.logins, users) as load:
            for director in directors.all:
                assert replace(director)["state"] == "done"
                director.wait_whole(3)
        assert not load.failures
        hosts: dict[str, set[str]] = {}
        for login in load.logins:
            hosts.setdefault(login.user, set()).add(login.host)
        assert [user for user, found in hosts.items() if len(found) > 1] == []


def test_an_operators_connection_is_accepted_again_afterwards(folder: Path) -> None:
    with one_director(folder) as director:
        director.wait_ready()
        director.send(signal.SIGUSR2)
        with connect(director.admin) as admin:
            admin.sendall(b"VERSION\tdirector-doveadm\t1\t0\nHOST-LIST\n")
            replaced(director)
        with connect(director.admin) as admin, admin.makefile("rb") as replies:
            admin.sendall(b"VERSION\tdirector-doveadm\t1\t0\nHOST-LIST\n")
            replies.readline()
            assert replies.readline().startswith(b"127.0.3.1\t")


def test_the_result_of_a_flush_is_available_after_a_replacement(
    folder: Path,
) -> None:
    with one_director(folder, state="memory:") as director:
        director.wait_ready()
        with Client(director.login) as client:
            client.ask([f"user{number}" for number in range(30)])
        assert director.command("update", "127.0.3.1", "0").returncode == 0
        status, answer = director.request("POST", "/v1/flushes?wait=false", {"host": "127.0.3.1"})
        assert status == 202, answer
        id = json.loads(answer)["id"]
        before = until(lambda: (move := director.get(f"/v1/moves/{id}"))["ended"] and move)
        assert before["result"]["moved"] > 0
        assert replace(director)["state"] == "done"
        assert director.get(f"/v1/moves/{id}") == before


def test_a_flush_in_progress_ends_after_a_replacement_and_its_operator_gets_the_result(folder: Path) -> None:
    users = [f"user{number}" for number in range(300)]
    with one_director(folder, state="memory:", settings={"users": 'kick_delay = "0.3 s"'}) as director:
        director.wait_ready()
        with Client(director.login) as client:
            client.ask(users)
        assert director.command("update", "127.0.3.1", "0").returncode == 0
        body = {"host": "127.0.3.1", "max_parallel": 10}
        status, answer = director.request("POST", "/v1/flushes?wait=false", body)
        assert status == 202, answer
        id = json.loads(answer)["id"]
        until(lambda: director.get(f"/v1/moves/{id}")["moved"] > 0)
        assert replace(director)["state"] == "done"
        ended = until(lambda: (move := director.get(f"/v1/moves/{id}"))["ended"] and move)
        assert ended["result"]["moved"] > 20
        until(lambda: director.get("/v1/hosts/127.0.3.1")["users"] == 0)


def test_a_replacement_waits_until_the_store_is_read_so_that_no_stored_user_is_assigned_again(
    folder: Path,
) -> None:
    users = [f"user{number}" for number in range(3000)]
    with RedisServer() as redis, Proxy(redis.socket) as proxy:
        state = f"redis://127.0.0.1:{proxy.port}"
        with one_director(folder, state=state) as director:
            director.wait_ready()
            with Client(director.login) as client:
                before = client.ask(users)
            assert director.command("update", "127.0.3.1", "0").returncode == 0
            director.stop()
            (folder / "d/snapshot.db").unlink()
            director.start()
            until(lambda: len(director.logged("started")) == 2)
            proxy.delay = 0.4  # the first of about 40 replies
            director.send(signal.SIGUSR2)
            time.sleep(2.0)  # the time of a replacement that waits for nothing
            with Client(director.login) as client:
                assert client.ask(users) == before
                proxy.delay = 0.0
                replaced(director)
                assert client.ask(users) == before


def test_a_long_list_that_an_operator_reads_slowly_is_complete(folder: Path) -> None:
    users = [f"a user with a rather long name {number}" for number in range(20_000)]
    with one_director(folder) as director:
        director.wait_ready()
        with Client(director.login) as client:
            client.ask(users)
        with connect(director.admin) as admin, admin.makefile("rb") as replies:
            admin.sendall(b"VERSION\tdirector-doveadm\t1\t0\nUSER-LIST\n")
            replies.readline()
            director.send(signal.SIGUSR2)
            until(lambda: director.logged("replacement_begun"))
            time.sleep(0.5)  # no sign shows that a command is waiting
            rows = []
            while (line := replies.readline()) not in (b"", b"\n"):
                rows.append(line)
            assert len(rows) == len(users)
        replaced(director)


def test_a_replacement_moves_listeners_turns_them_on_or_off_and_changes_their_modes(
    folder: Path,
) -> None:
    with one_director(folder) as director:
        director.wait_ready()
        moved, on = folder / "d/run/login/director/other", folder / "d/run/map"
        text = director.config.read_text()
        text += f'[listen.login]\npath = "{moved}"\n[listen.admin]\npath = ""\n'
        text += f'[listen.userdb]\nmode = "0660"\n[listen.socketmap]\npath = "{on}"\n'
        director.config.write_text(text)
        assert replace(director)["state"] == "done"
        with connect(moved) as client:
            client.sendall(b"VERSION\t1\t2\nCPID\t1\n")
            assert client.recv(100)
        assert on.is_socket()
        assert (director.userdb.stat().st_mode & 0o777) == 0o660
        assert not director.login.exists()
        assert not director.admin.exists()


def test_a_listener_that_cannot_be_opened_at_its_new_path_stays_at_the_former_path(
    folder: Path,
) -> None:
    with one_director(folder) as director:
        director.wait_ready()
        taken = folder / "d/run/taken"
        taken.write_text("a file that is no socket")
        director.config.write_text(director.config.read_text() + f'[listen.login]\npath = "{taken}"\n')
        assert replace(director)["state"] == "done"
        assert director.wait_logged("listener_failed", "taken")
        with Client(director.login) as client:
            assert client.ask(["alice"])


def test_if_there_is_no_room_for_the_handover_the_old_program_continues(folder: Path) -> None:
    users = [f"user{number}" for number in range(5000)]
    with one_director(folder, state="memory:") as director:
        director.wait_ready()
        with Client(director.login) as client:
            before = client.ask(users)
            size, most = resource.RLIMIT_FSIZE, resource.RLIM_INFINITY
            resource.prlimit(director.pid, size, (100_000, most))  # the limit counts for a file in memory too
            assert "no memory for the hand-over document" in replace(director)["problem"]
            assert client.ask(users) == before
            resource.prlimit(director.pid, size, (most, most))
            assert replace(director)["state"] == "done"
            assert client.ask(users) == before
