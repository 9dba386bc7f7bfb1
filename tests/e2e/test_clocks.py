"""Clocks of running directors step: real processes, with libfaketime."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from tests.e2e.conftest import new_folder
from tests.e2e.faketime import Clock
from tests.e2e.processes import Auth, Client, DirectorProcess, Directors, until
from tests.servers import free_port

HOUR, DAY = 3600, 86_400
USERS = [f"user{number}" for number in range(100)]


@contextmanager
def ring_of(count: int, first: str, *, ahead: float = 0) -> Iterator[tuple[Directors, list[Clock]]]:
    """Run directors that have a clock each, all set ahead by `ahead`."""
    with new_folder() as folder:
        clocks = [Clock(folder / f"clock{number}") for number in range(count)]
        for clock in clocks:
            clock.set(ahead)
        each = [{"environ": clock.environ} for clock in clocks]
        with Directors(folder, first=first, count=count, each=each) as directors:
            directors.wait_whole()
            yield directors, clocks


def hosts_at(director: DirectorProcess, users: list[str]) -> dict[str, str]:
    with Client(director.login) as client:
        return client.ask(users)


def check_serves(directors: Directors, prefix: str) -> None:
    """Check that all directors are in one ring, all make a host change, and all assign new users the same
    host."""
    directors.wait_whole()
    assert [director.get("/v1/ring")["stopped"] for director in directors.all] == [[]] * len(directors.all)
    address = directors[0].hosts()[0][0]
    directors[0].change("PATCH", f"/v1/hosts/{address}", {"weight": 50})
    new = [f"{prefix}{number}" for number in range(30)]
    assert len({tuple(hosts_at(director, new).values()) for director in directors.all}) == 1


@pytest.mark.parametrize("how", ["stopped", "replaced"])
def test_a_director_that_starts_again_after_both_clocks_were_set_back_is_in_the_ring_and_serves(
    how: str,
) -> None:
    with ring_of(2, "127.0.2.151", ahead=HOUR) as (directors, clocks):
        for clock in clocks:
            clock.set(0)
        until(lambda: all(d.logged("clock_stepped") for d in directors.all), what=directors[0].log)
        if how == "stopped":
            directors[0].stop()
            directors[0].start()
        else:
            directors[0].command("reload", "--exec")
            until(lambda: directors[0].logged("program_replaced"))
        check_serves(directors, "new")


def test_a_director_whose_clock_is_a_day_ahead_for_a_while_is_named_and_rejoins_with_its_users() -> None:
    with ring_of(3, "127.0.2.161") as (directors, clocks):
        before = hosts_at(directors[0], USERS)
        clocks[2].set(DAY)
        others = directors.all[:2]
        until(lambda: all(len(d.get("/v1/ring")["ring"]) == 2 for d in others), what=directors[0].log)
        until(lambda: any(director.logged("ring_link_closed", " that of ") for director in directors.all))
        assert [hosts_at(director, USERS) for director in others] == [before, before]
        clocks[2].set(0)
        directors.wait_whole()
        assert [hosts_at(director, USERS) for director in directors.all] == [before] * 3
        check_serves(directors, "new")
        assert len(directors[2].wait_logged("clock_stepped", times=2)) == 2


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("127.0.2.171", datetime(2038, 1, 19, 3, 14, 7, tzinfo=UTC)),
        ("127.0.2.175", datetime(2106, 2, 7, 6, 28, 15, tzinfo=UTC)),
    ],
)
def test_a_ring_runs_through_the_last_second_of_31_and_of_32_bits(first: str, last: datetime) -> None:
    with ring_of(2, first, ahead=last.timestamp() - time.time() - HOUR) as (directors, clocks):
        before = hosts_at(directors[0], USERS)
        soon = last.timestamp() - time.time() - 2
        for clock in clocks:
            clock.set(soon)
        assert [hosts_at(director, USERS) for director in directors.all] == [before, before]
        until(lambda: time.time() + soon > last.timestamp() + 2)
        assert [hosts_at(director, USERS) for director in directors.all] == [before, before]
        check_serves(directors, "new")
        assert [director.all_logged("program_crashed") for director in directors.all] == [[], []]


@pytest.mark.parametrize(
    ("says", "starts"),
    [(datetime(2106, 2, 7, 6, 28, 16, tzinfo=UTC), False), (datetime(1999, 1, 1, tzinfo=UTC), True)],
)
def test_a_director_reports_at_its_start_a_clock_that_records_cannot_hold(
    says: datetime, starts: bool
) -> None:
    with new_folder() as folder:
        clock = Clock(folder / "clock")
        clock.set(says.timestamp() - time.time())
        director = DirectorProcess(folder / "d", "127.0.2.181", free_port(), [], environ=clock.environ)
        with Auth(director.auth_path), Auth(director.userdb_path):
            try:
                director.start()
                if starts:
                    director.wait_ready()
                    assert len(director.wait_logged("clock_wrong", "says 1999-01-01")) == 1
                else:
                    assert director.wait() == 78
                    (line,) = director.logged("cannot_start", "the clock of this machine says 2106-02-07")
                    assert "set it (NTP)" in line
            finally:
                director.close()
