"""Drains of one host by several operators, at one director or at several: no drain ends before the host is
empty."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.e2e.processes import Client, DirectorProcess, Directors, until

HOST = "127.0.3.1"
USERS = [f"drained{number}" for number in range(240)]
SLOW = {"users": 'kick_delay = "500 ms"\nmax_parallel_moves = 20'}


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Directors]:
    with Directors(tmp_path, first="127.0.2.74", state="memory:", settings=SLOW) as ring:
        ring.wait_whole()
        with Client(ring[0].login) as client:
            client.ask(USERS)
        until(lambda: all(d.users() == len(USERS) for d in ring.all), what="all directors know all users")
        yield ring


class Drain:
    """A `director drain` in a thread, and the users of the host when it ended."""

    def __init__(self, director: DirectorProcess) -> None:
        self._director = director
        self.done: CompletedProcess[str] | None = None
        self.users_left = -1
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.done = self._director.command("drain", HOST)
        host = next(row for row in self._director.get("/v1/hosts") if row["address"] == HOST)
        self.users_left = host["users"] + host["leaving"]

    def join(self) -> CompletedProcess[str]:
        self._thread.join()
        assert self.done is not None
        return self.done


def on_the_move(director: DirectorProcess) -> int:
    return int(director.get("/v1/ring")["moves_in_progress"])


def moved(done: CompletedProcess[str]) -> int:
    (number,) = re.findall(rf"^drain {HOST}: (\d+) users? moved", done.stdout, flags=re.MULTILINE)
    return int(number)


def test_drains_of_a_host_at_two_directors_end_when_the_host_has_no_users(
    ring: Directors,
) -> None:
    users = next(row["users"] for row in ring[0].get("/v1/hosts") if row["address"] == HOST)
    assert users > 20
    first = Drain(ring[0])
    until(lambda: on_the_move(ring[0]), what="users are on the move")
    second, elsewhere = Drain(ring[0]), Drain(ring[1])
    ends = [drain.join() for drain in (first, second, elsewhere)]
    assert [end.returncode for end in ends] == [0, 0, 0]
    assert [drain.users_left for drain in (first, second, elsewhere)] == [0, 0, 0]
    assert all(end.stdout.endswith(f"drain {HOST}: done, no user left\n") for end in ends)
    assert f"drain {HOST}: already running since " in ends[1].stderr
    assert moved(ends[0]) == moved(ends[1])
    assert moved(ends[0]) + moved(ends[2]) >= users  # a user that both drains began to move is counted twice
    assert [on_the_move(director) for director in ring.all] == [0, 0, 0]


def test_a_drain_that_leaves_a_pinned_user_ends_with_75(ring: Directors) -> None:
    pinned = next(row["name"] for row in ring[0].get(f"/v1/users?host={HOST}"))
    assert ring[1].command("pin", pinned, HOST).returncode == 0
    done = ring[0].command("drain", HOST)
    assert (done.returncode, "1 pinned user left" in done.stderr) == (75, True)
    assert ring[2].command("unpin", pinned).returncode == 0
    assert ring[2].command("drain", HOST).returncode == 0
