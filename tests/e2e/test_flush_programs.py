"""`users.flush_socket`: the stock script service of either Dovecot; programs that fail, hang or take long."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from director.core.placement.hashing import UserHash
from director.demo.dovecot import Backend, Programs
from director.demo.ports import free_ports
from director.net.flushprogram import run_flush
from director.wire.flushprogram import FlushRequest, FlushResult
from state.resolver import Resolver
from tests.e2e.conftest import new_folder
from tests.e2e.processes import Client, DirectorProcess, Directors, auth_line, host_in, until

ADDRESS = "127.0.74.1"
SCRIPT = """\
#!/bin/sh
echo "$@"
case "$2" in
  1) exit 3 ;;
  2) exec sleep 3 ;;
esac
"""
SERVICE = """
service flush {{
  executable = script {script}
  unix_listener flush {{
    mode = 0600
  }}
}}
"""
HELD, HANGS, FAILS, WELL = "held", "hangs", "fails", "well"
SAID = "{hash} 10.0.0.1 10.0.0.2 up 100"


@pytest.fixture(scope="module")
def script_service(programs: Programs) -> Iterator[Path]:
    """Give a socket behind which the stock script service runs a program."""
    with new_folder(programs) as folder:
        script = folder / "flush.sh"
        script.write_text(SCRIPT)
        script.chmod(0o755)
        extra = SERVICE.format(script=programs.inside(script))
        ports = free_ports([ADDRESS], [])
        with Backend(folder / "s1", "s1", ADDRESS, ports, programs=programs, extra=extra) as server:
            yield server.run / "flush"


@pytest.mark.parametrize(
    ("number", "result"),
    [
        (7, FlushResult(True, ["FLUSH " + SAID.format(hash=7)], "")),
        (1, FlushResult(False, ["FLUSH " + SAID.format(hash=1)], "the program failed")),
        (2, FlushResult(False, [], "no result within 1 s")),
    ],
)
def test_the_stock_script_service_runs_the_program_and_reports_how_it_ended(
    script_service: Path, number: int, result: FlushResult
) -> None:
    request = FlushRequest(number, "10.0.0.1", "10.0.0.2", True, 100, "")
    assert anyio.run(run_flush, f"unix:{script_service}", request, 1.0, Resolver().addresses) == result


class Flushing:
    """A flush program behind a socket: for some users it fails, or waits for their `release`. Use it as a
    context manager."""

    def __init__(self, path: Path) -> None:
        self.path, self.requests = path, list[str]()
        self.release = {user: threading.Event() for user in (HELD, HANGS)}
        self._names = {UserHash().hash(name.encode()): name for name in (HELD, HANGS, FAILS)}
        self._listener = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Flushing:
        self._listener.bind(str(self.path))
        self._listener.listen(10)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for event in self.release.values():
            event.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream, suppress(OSError):
            user = self._names.get(int(stream.read().split(b"\n")[3]), "")
            self.requests.append(user)
            if user in self.release:
                self.release[user].wait(120)
            connection.sendall(b"out of order\n-\n" if user == FAILS else b"+\n")


@pytest.fixture(scope="module")
def flushing() -> Iterator[Flushing]:
    with new_folder() as folder, Flushing(folder / "flush") as flushing:
        yield flushing


@pytest.fixture(scope="module")
def ring(flushing: Flushing, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directors]:
    users = {"users": f'flush_socket = "unix:{flushing.path}"\nkick_delay = "1 s"'}
    folder = tmp_path_factory.mktemp("d")
    with Directors(folder, first="127.0.74.11", state="memory:", settings=users) as directors:
        directors.wait_whole()
        yield directors


def elsewhere(director: DirectorProcess, user: str) -> str:
    """Log the user in, and return a host to which the user is not assigned."""
    with Client(director.login) as client:
        host = client.ask([user])[user]
    return "127.0.3.1" if host != "127.0.3.1" else "127.0.3.2"


def counted(director: DirectorProcess, result: str) -> float:
    _, text = director.request("GET", "/metrics")
    start = f'director_flush_programs_total{{result="{result}"}} '
    return sum(float(line[len(start) :]) for line in text.decode().splitlines() if line.startswith(start))


def test_a_login_waits_on_every_director_until_the_program_of_one_has_ended(
    ring: Directors, flushing: Flushing
) -> None:
    host = elsewhere(ring[0], HELD)
    mover = threading.Thread(target=ring[0].command, args=("move", "--new", HELD, host))
    mover.start()
    until(lambda: HELD in flushing.requests, what="the program is asked")
    with Client(ring[2].login) as client:
        client.socket.sendall(auth_line(1, HELD))
        client.socket.settimeout(2.5)  # longer than the kick delay
        with pytest.raises(TimeoutError):
            client.socket.recv(1, socket.MSG_PEEK)
        client.socket.settimeout(20)
        flushing.release[HELD].set()
        assert host_in(client.stream.readline()) == host
    mover.join()
    assert flushing.requests.count(HELD) == 1
    assert counted(ring[0], "done") == 1


def test_a_flush_program_that_hangs_or_fails_is_reported_and_delays_no_other_user(
    ring: Directors, flushing: Flushing
) -> None:
    first = ring[1]
    hosts = {user: elsewhere(first, user) for user in (HANGS, FAILS, WELL)}
    hanging = threading.Thread(target=first.command, args=("move", "--new", HANGS, hosts[HANGS]))
    hanging.start()
    until(lambda: HANGS in flushing.requests, what="the program hangs")
    failed = first.command("move", "--new", FAILS, hosts[FAILS])
    well = first.command("move", "--new", WELL, hosts[WELL])
    with Client(ring[2].login) as client:
        assert client.ask([FAILS, WELL]) == {user: hosts[user] for user in (FAILS, WELL)}
    assert (failed.returncode, well.returncode) == (0, 0)
    assert "the flush program failed for 1 user" in failed.stderr
    assert well.stderr == ""
    assert (counted(first, "failed"), counted(first, "done")) == (1, 1)
    (line,) = first.wait_logged("flush_program_failed")
    assert 'reason="the program failed"' in line
    assert 'output="out of order"' in line
    assert first.get("/v1/ring")["moves_in_progress"] == 1
    flushing.release[HANGS].set()
    hanging.join()
