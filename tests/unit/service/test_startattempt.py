"""A start that fails: retried every 10 s, logged once a minute, under a service manager only."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from director.service.lifecycle.startattempt import GIVE_UP_AFTER, RETRY_EVERY, VARIABLE, StartAttempt


class Machine:
    """Processes with a clock of their own. A failing try is a new program of the same process, or of the next
    one, which the manager starts."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.environ: dict[str, str] = {"NOTIFY_SOCKET": str(folder / "notify")}
        self.tries: list[float] = []
        self.logged: list[tuple[float, str]] = []
        self.begun_again = 0

    def run(self, reason: str, *, until: float, took: float = 0.1) -> int:
        """Fail until then. Returns how many processes have ended."""
        ended = 0
        while self.now < until:
            attempt = self.attempt()
            self.tries.append(self.now)
            self.now += took
            if reason and attempt.fails(reason):
                self.logged.append((self.now, reason))
            begun = self.begun_again
            assert attempt.ended(78) == 78
            if self.begun_again == begun:
                ended += 1
                self.environ.pop(VARIABLE, None)
                self.now += 0.5
                if not reason:
                    break
        return ended

    def attempt(self) -> StartAttempt:
        return StartAttempt(self.environ, clock=lambda: self.now, sleep=self.sleep, begin_again=self.again)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def again(self, environ: object) -> None:
        assert environ is self.environ
        self.begun_again += 1


def test_a_failing_start_is_tried_again_every_ten_seconds_and_logged_once_a_minute(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    ended = machine.run("no secret", until=1000 + 10 * 60)
    assert (ended, len(machine.logged)) == (9, 10)
    pauses = [after - before for before, after in pairwise(machine.tries)]
    assert [pause for pause in pauses if pause < RETRY_EVERY - 0.001] == pytest.approx([0.6] * ended)
    assert min(b - a for a, b in pairwise(at for at, _ in machine.logged)) >= GIVE_UP_AFTER


def test_another_reason_is_logged_at_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.run("no secret", until=1015)
    machine.run("no certificate", until=1025)
    assert [reason for _, reason in machine.logged] == ["no secret", "no certificate"]


def test_without_a_service_manager_a_failing_start_ends_at_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    del machine.environ["NOTIFY_SOCKET"]
    attempt = StartAttempt(machine.environ, sleep=machine.sleep, begin_again=machine.again)
    assert (attempt.fails("no secret"), attempt.fails("no secret"), attempt.note) == (True, True, None)
    assert attempt.ended(78) == 78
    assert machine.begun_again == 0


def test_a_director_that_was_stopped_is_not_started_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert StartAttempt(machine.environ, sleep=machine.sleep, begin_again=machine.again).ended(0) == 0
    assert machine.begun_again == 0


def test_a_crash_after_a_while_is_no_failing_start(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    attempt = StartAttempt(machine.environ, clock=lambda: machine.now, begin_again=machine.again)
    machine.now += RETRY_EVERY
    assert attempt.crashes("ValueError: a bug")
    assert attempt.ended(70) == 70
    assert machine.begun_again == 0


def test_the_managers_sockets_are_where_they_were_at_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, other = os.pipe()
    monkeypatch.setattr("director.service.lifecycle.startattempt.FIRST_DESCRIPTOR", given)
    before = os.fstat(given).st_ino
    environ = {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": "1",
    }
    found: list[int] = []
    attempt = StartAttempt(
        environ, sleep=lambda _: None, begin_again=lambda _: found.append(os.fstat(given).st_ino)
    )
    attempt.fails("a listener cannot be opened")
    os.close(given)
    attempt.ended(69)
    assert found == [before]
    assert os.get_inheritable(given)
    for end in (given, other, *attempt._saved.values()):
        os.close(end)


@pytest.mark.parametrize("count", ["", "x", "-1"])
def test_a_number_of_sockets_that_is_none_is_left_to_the_listeners(tmp_path: Path, count: str) -> None:
    environ = {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": count,
    }
    assert StartAttempt(environ)._saved == {}
