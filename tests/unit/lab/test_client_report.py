"""The report that the lab's client makes of its events."""

from __future__ import annotations

from pathlib import Path

from deploy.lab.client.events import BROKEN, IDLE, OK, REFUSED, SESSION, Event, Journal, read
from deploy.lab.client.report import report, table


def login(
    began: float, ended: float, *, user: str = "user001", backend: str = "backend1", result: str = OK
) -> Event:
    return Event(began, ended, "imap", user, result, served=began + 0.1, backend=backend)


def long_session(served: float, *, user: str = "user001", backend: str = "backend1") -> Event:
    """Return a long session that was opened."""
    return Event(served - 0.1, served + 0.1, IDLE, user, OK, served=served, backend=backend)


def lost(opened: Event, ended: float) -> Event:
    return Event(opened.served, ended, SESSION, opened.user, BROKEN, opened.served, "", opened.backend)


def test_a_user_with_a_long_session_who_is_served_elsewhere_is_on_two_backends() -> None:
    found = report([long_session(100), login(150, 151, backend="backend2")], 140, 160)
    assert [(overlap.user, overlap.backends) for overlap in found.on_two_backends] == [
        ("user001", ["backend1", "backend2"])
    ]


def test_a_user_who_is_served_elsewhere_after_the_session_has_ended_is_not_on_two_backends() -> None:
    before = long_session(100)
    assert (
        report([before, lost(before, 149), login(150, 151, backend="backend2")], 140, 160).on_two_backends
        == []
    )


def test_two_users_on_two_backends_are_not_one_user_on_two() -> None:
    found = report([long_session(100), login(150, 151, user="user002", backend="backend2")], 140, 160)
    assert found.on_two_backends == []


def test_only_events_that_ended_in_the_requested_time_count() -> None:
    events = [login(100, 101), login(110, 113), login(111, 112, result=REFUSED), login(140, 141)]
    row = report(events, 105, 120).protocols["imap"]
    assert (row.done, row.failed, row.slowest) == (1, 1, 3)


def test_long_sessions_are_open_until_their_end_is_noted() -> None:
    first, second = long_session(100), long_session(101, user="user002")
    found = report([first, second, lost(first, 110)], 105, 120)
    assert (found.sessions, found.reopened) == (1, 1)


def test_a_table_of_long_answers_fits_80_columns() -> None:
    failed = login(1, 2, result=REFUSED)
    failed.text = "NO " + 200 * "x"
    twice = [long_session(1, user=f"user{n:03}") for n in range(20)] + [
        login(2, 3, user=f"user{n:03}", backend="backend2") for n in range(20)
    ]
    text = table(report([failed, *twice], 0, 10))
    assert max(map(len, text.splitlines())) == 80
    assert "users on two backends at once: 20" in text


def test_a_half_written_line_is_read_later(tmp_path: Path) -> None:
    with Journal(tmp_path / "events.jsonl") as journal:
        journal.write(login(1, 2))
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"began":3,')
    assert list(read(tmp_path / "events.jsonl")) == [login(1, 2)]
