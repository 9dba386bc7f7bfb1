"""The process of a director, and its user, found on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from director.doctor import gatherer
from director.doctor.facts import Unit
from director.doctor.gatherer import process_of

ANSWERS = """
import socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
print("ready", flush=True)
while True:
    client, _ = listener.accept()
    client.recv(1000)
    client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
    client.close()
"""


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """The API socket of a director, opened by this process as systemd opens it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "api"))
        sock.listen(8)
        yield sock


def test_the_director_behind_a_socket_of_systemd_is_the_process_that_answers(listener: socket.socket) -> None:
    """SO_PEERCRED would name the process that called listen: systemd, which runs as root."""
    number = listener.fileno()
    command = [sys.executable, "-c", ANSWERS, str(number)]
    with subprocess.Popen(command, pass_fds=[number], stdout=subprocess.PIPE) as director:
        assert director.stdout is not None
        director.stdout.readline()
        found = process_of(listener.getsockname())
        director.kill()
    assert found == director.pid


def test_the_process_of_a_director_that_does_not_answer_is_the_listener_unless_it_is_systemd(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gatherer, "CONNECT_TIMEOUT", 0.01)
    assert process_of(listener.getsockname()) == os.getpid()
    before = Path("/proc/self/comm").read_text()
    try:
        Path("/proc/self/comm").write_text("systemd")
        assert process_of(listener.getsockname()) is None
    finally:
        Path("/proc/self/comm").write_text(before)


def test_no_director_is_found_at_a_socket_without_a_listener(tmp_path: Path) -> None:
    assert process_of(str(tmp_path / "api")) is None


def test_a_director_that_does_not_run_is_checked_as_the_user_of_its_service() -> None:
    """Root, as which the doctor runs, may do more than the user of the unit."""
    units = (
        Unit(name="director.service", settings={"User": "nobody", "Group": "nogroup"}),
        Unit(name="director-login.socket", settings={"User": ""}),
    )
    who = gatherer.user_of(units)
    assert who is not None
    assert (who.name, who.is_root) == ("nobody", False)
    as_root = gatherer.user_of((Unit(name="director.service", settings={"User": "", "Group": ""}),))
    assert as_root is not None
    assert as_root.is_root
    assert gatherer.user_of((Unit(name="director.service", settings={"User": "nobody-there"}),)) is None
    assert gatherer.user_of(()) is None
