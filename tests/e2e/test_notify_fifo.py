"""The notify FIFO of a running director that was handed over by the service manager, or removed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import DirectorProcess, until
from tests.servers import free_port

ADDRESS = "127.0.74.21"


def refreshes(director: DirectorProcess, user: str, write: Callable[[bytes], object]) -> bool:
    """Whether a line that `write` writes extends the assignment of a user."""
    before = director.get(f"/v1/users/{user}")["expires"]

    def later() -> bool:
        write(f"{user}\n".encode())
        return bool(director.get(f"/v1/users/{user}")["expires"] > before)

    until(later, what=f"a line refreshes {user}")
    return True


@pytest.fixture
def handed_over(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DirectorProcess, Path]]:
    """A director that got its FIFO from the service manager; another path is configured."""
    folder = tmp_path_factory.mktemp("d")
    fifo = folder / "unit/notify"
    program = ("tests.e2e.inherited_fifo", str(fifo))
    director = DirectorProcess(folder / "d1", ADDRESS, free_port(), [], state="memory:", program=program)
    try:
        director.start().wait_ready()
        yield director, fifo
    finally:
        director.close()


def test_a_fifo_handed_over_is_read_and_left_where_it_is(handed_over: tuple[DirectorProcess, Path]) -> None:
    director, fifo = handed_over
    assert director.command("move", "--new", "ulla", "127.0.3.1").returncode == 0
    writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    assert refreshes(director, "ulla", lambda line: os.write(writer, line))
    os.close(writer)
    assert not director.fifo.exists()
    assert director.stop() == 0
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_fifo_handed_over_that_is_removed_is_made_anew(handed_over: tuple[DirectorProcess, Path]) -> None:
    director, fifo = handed_over
    assert director.command("move", "--new", "ulla", "127.0.3.1").returncode == 0
    fifo.unlink()
    until(lambda: director.logged("notify_fifo_replaced"), what="the director misses its FIFO")
    writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    assert refreshes(director, "ulla", lambda line: os.write(writer, line))
    os.close(writer)
