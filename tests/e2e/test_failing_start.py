"""A director that cannot start, under a service manager that holds its sockets: clients wait until it can."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest

from tests.e2e.conftest import new_folder
from tests.e2e.manager import LAUNCHER
from tests.e2e.processes import Auth, Client, DirectorProcess, until
from tests.servers import free_port


class Setting(NamedTuple):
    director: DirectorProcess
    process: subprocess.Popen[bytes]
    messages: list[str]
    """Messages that the manager got from the director."""


@pytest.fixture
def setting() -> Iterator[Setting]:
    """A director without its secret, started by a manager that has opened the login socket and the FIFO."""
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder())
        director = DirectorProcess(folder / "d1", "127.0.56.61", free_port(), [])
        stack.enter_context(Auth(director.auth_path))
        (director.folder / "secret").rename(director.folder / "secret.later")
        director.login.parent.mkdir(parents=True)
        login = stack.enter_context(socket.socket(socket.AF_UNIX))
        login.bind(str(director.login))
        login.listen(10)
        os.mkfifo(director.fifo)
        fifo = os.open(director.fifo, os.O_RDWR | os.O_NONBLOCK)
        stack.callback(os.close, fifo)
        manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        manager.bind(str(folder / "notify"))
        messages: list[str] = []
        Thread(target=hear, args=(manager, messages), daemon=True).start()
        ends = [login.fileno(), fifo]
        with director.log_path.open("ab") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", LAUNCHER, str(len(ends)), *map(str, ends)),
                    *("-m", "tests.e2e.quick_starts", "serve", "-c", str(director.config)),
                ],
                env=os.environ
                | {
                    "LISTEN_FDS": str(len(ends)),
                    "LISTEN_FDNAMES": "login:notify",
                    "NOTIFY_SOCKET": str(folder / "notify"),
                },
                pass_fds=ends,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        stack.callback(process.wait)
        stack.callback(process.kill)
        yield Setting(director, process, messages)


def hear(manager: socket.socket, messages: list[str]) -> None:
    try:
        while True:
            messages.append(manager.recv(4096).decode())
    except OSError:
        return


def tries(setting: Setting) -> int:
    return sum("cannot start, retrying" in message for message in setting.messages)


def test_a_start_that_fails_is_logged_once_and_succeeds_as_soon_as_the_secret_exists(
    setting: Setting,
) -> None:
    director, process, _ = setting
    until(lambda: tries(setting) > 3, what=director.log)
    answers: list[dict[str, str]] = []
    waiting = Thread(target=lambda: answers.append(log_in(director.login)))
    waiting.start()
    os.close(os.open(director.fifo, os.O_WRONLY | os.O_NONBLOCK))  # fails without a reader
    more = tries(setting)
    until(lambda: tries(setting) > more + 3, what=director.log)
    assert process.poll() is None
    until(lambda: "ring.secret_file" in director.log)
    assert director.log.count("ring.secret_file") == 1
    assert any("ring.secret_file" in message for message in setting.messages)
    (director.folder / "secret.later").rename(director.folder / "secret")
    waiting.join()
    assert len(answers) == 1
    director.wait_ready()
    assert any("READY=1" in message for message in setting.messages)


def log_in(path: Path) -> dict[str, str]:
    with Client(path) as client:
        return client.ask(["alice"])


def test_a_start_that_fails_after_taking_its_sockets_gets_them_again(setting: Setting) -> None:
    director, process, _ = setting
    taken = socket.socket()
    taken.bind((director.member.partition(":")[0], int(director.member.rpartition(":")[2])))
    taken.listen()
    (director.folder / "secret.later").rename(director.folder / "secret")
    with taken:
        until(
            lambda: any("another process uses this port" in message for message in setting.messages),
            what=director.log,
        )
        more = tries(setting)
        until(lambda: tries(setting) > more + 3, what=director.log)
        until(lambda: director.logged("cannot_start"))
        assert len(director.logged("cannot_start")) == 1
    assert log_in(director.login)
    assert process.poll() is None


def test_a_director_that_cannot_start_ends_on_sigterm(setting: Setting) -> None:
    until(lambda: tries(setting) > 0, what=setting.director.log)
    setting.process.terminate()
    assert setting.process.wait(15) != 0
