"""The process that reads the log stops reading: the director must not stop."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Client, DirectorProcess, Directors, until

PIECE = select.PIPE_BUF
DEBUG = {"log": 'level = "debug"'}


class LogPipe:
    """The log of a director as a pipe that is full, as when its reader has stopped long ago."""

    def __init__(self, director: DirectorProcess) -> None:
        os.mkfifo(director.log_path)
        self.descriptor = os.open(director.log_path, os.O_RDWR)
        self.filled = 0
        while select.select([], [self.descriptor], [], 0)[1]:
            self.filled += os.write(self.descriptor, b"." * PIECE)

    def read_until(self, text: str, within: float = 10.0) -> str:
        """Return the log up to `text`, without the bytes that filled the pipe."""
        data, deadline = b"", time.monotonic() + within
        while text.encode() not in data[self.filled :]:
            seconds = deadline - time.monotonic()
            assert seconds > 0, data[-1000:]
            if select.select([self.descriptor], [], [], seconds)[0]:
                data += os.read(self.descriptor, 65536)
        return data[self.filled :].decode()

    def close(self) -> None:
        os.close(self.descriptor)


@pytest.fixture
def directors(tmp_path_factory: pytest.TempPathFactory) -> Directors:
    folder = tmp_path_factory.mktemp("d")
    return Directors(folder, first="127.0.2.51", count=1, settings=DEBUG)


@pytest.fixture
def pipe(directors: Directors) -> Iterator[LogPipe]:
    pipe = LogPipe(directors[0])
    yield pipe
    pipe.close()


def log_in(director: DirectorProcess, first: int) -> None:
    users = [f"user{number}" for number in range(first, first + 50)]
    with Client(director.login, within=5.0) as client:
        assert set(client.ask(users)) == set(users)


def wait_ready(director: DirectorProcess) -> None:
    until(director.ready, what="ready although no process reads the log")


@pytest.mark.shows("A-10")
def test_a_log_that_is_not_read_stops_no_login(directors: Directors, pipe: LogPipe) -> None:
    with directors:
        director = directors[0]
        wait_ready(director)
        log_in(director, 0)
        director.request("POST", "/v1/reload", {})  # logged between the floods
        log_in(director, 50)
        text = pipe.read_until("event=configuration_reloaded")
    assert re.search(" event=started ", text)
    assert re.search(" event=ready ", text)


@pytest.mark.shows("A-12")
def test_the_end_waits_at_most_a_second_for_a_log_that_is_not_read(
    directors: Directors, pipe: LogPipe
) -> None:
    with directors:
        director = directors[0]
        wait_ready(director)
        began = time.monotonic()
        assert director.stop() == 0
        assert time.monotonic() - began < 5.0


@pytest.mark.shows("A-13")
def test_a_replacement_in_place_neither_waits_for_the_log_nor_loses_or_doubles_a_line(
    directors: Directors, pipe: LogPipe
) -> None:
    with directors:
        director = directors[0]
        wait_ready(director)
        for number in (1, 2):
            assert director.command("reload", "--exec").returncode == 0
            log_in(director, 50 * number)
        director.send(signal.SIGHUP)
        text = pipe.read_until("event=configuration_reloaded")
    events = re.findall(
        r"event=(started|ready|replacement_begun|program_replaced|configuration_reloaded) ", text
    )
    assert events == [
        "started",
        "ready",
        *(["replacement_begun", "started", "ready", "program_replaced"] * 2),
        "configuration_reloaded",
    ]
    assert len(set(text.splitlines())) == len(text.splitlines())
    assert all(line.startswith("time=") for line in text.splitlines())


@pytest.mark.shows("A-16")
def test_the_log_of_other_processes_stays_in_blocking_mode(directors: Directors, pipe: LogPipe) -> None:
    with directors:
        wait_ready(directors[0])
        flags = fcntl.fcntl(pipe.descriptor, fcntl.F_GETFL)
        of_director = Path(f"/proc/{directors[0].pid}/fdinfo/2").read_text()
    assert not flags & os.O_NONBLOCK
    found = re.search(r"flags:\s+(\d+)", of_director)
    assert found is not None
    assert not int(found[1], 8) & os.O_NONBLOCK
