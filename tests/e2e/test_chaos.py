"""Directors killed, paused and stopped at random under logins, for a short while."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.chaos import AT_ONCE, Fault, Report, unleash, users_on_two_hosts
from tests.logins import Login
from tests.needs import needs

MEMBER = "127.0.27.1:9090"


def report_of(*logins: Login, faults: list[Fault]) -> Report:
    return Report(1, faults, 0, list(logins), 0, 0, 0.0, [], len(logins))


def test_no_login_fails_and_no_user_is_on_two_hosts_while_directors_are_killed_paused_and_stopped(
    folder: Path,
) -> None:
    needs("redis-server", "gcc")
    report = unleash(500, 10, 7, folder, least=4)
    print(report.table())
    assert report.violations == []
    assert len(report.faults) >= 4
    assert report.changes > 0
    assert len(report.logins) > 4000


def test_a_login_that_fails_is_excused_only_by_a_fault_of_its_own_director_at_that_time() -> None:
    kill = Fault("killed", MEMBER, 10.0, 10.1)
    excused = Login("a", MEMBER, 9.9, 10.05, lost=True)
    unread = Login("e", MEMBER, 10.101, 10.11, lost=True)
    elsewhere = Login("b", "127.0.27.2:9090", 9.9, 10.05, lost=True)
    later = Login("c", MEMBER, 11.0, 11.1, lost=True)
    refused = Login("d", MEMBER, 9.9, 10.05)
    report = report_of(excused, unread, elsewhere, later, refused, faults=[kill])
    assert report.in_flight == [excused, unread]
    assert report.failed == [elsewhere, later, refused]


def test_a_pause_excuses_lateness_and_refusal_but_no_lost_login() -> None:
    pause = Fault("paused", MEMBER, 10.0, 14.0)
    late = Login("a", MEMBER, 10.5, 14.1, "127.0.3.1")
    refused = Login("b", MEMBER, 10.5, 14.1)
    lost = Login("c", MEMBER, 10.5, 14.1, lost=True)
    report = report_of(late, refused, lost, faults=[pause])
    assert (report.late, report.put_off, report.failed) == ([late], [refused], [lost])


def test_two_hosts_at_once_are_found() -> None:
    login = Login("a", MEMBER, 1.0, 1.1, "127.0.3.1")
    soon = Login("a", MEMBER, 1.2, 1.3, "127.0.3.2")
    much_later = Login("a", MEMBER, 1.2, 1.2 + AT_ONCE, "127.0.3.2")
    assert len(list(users_on_two_hosts([login, soon]))) == 1
    assert list(users_on_two_hosts([login, much_later])) == []
