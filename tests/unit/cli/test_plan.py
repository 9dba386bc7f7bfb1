"""`director plan`: what it reads, what it asks, what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from director.records import ConfiguredHost, PlannedChange
from tests.unit.cli.conftest import Director

LATE = 1795453314


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "director.toml"
    path.write_text('[backends]\nmail_servers = ["127.0.1.1", "127.0.1.3@gold"]\nweight = 70\n')
    return str(path)


def test_the_hosts_of_the_file_are_asked_about(director: Director, file: str) -> None:
    director.service.alter("plan", known=True, changes=[], warnings=[])
    result = director("plan", "-c", file)
    assert (result.exit_code, result.stdout) == (0, "Nothing to do.\n")
    one, gold = (
        ConfiguredHost(address="127.0.1.1", weight=70),
        ConfiguredHost(address="127.0.1.3", tag="gold", weight=70),
    )
    assert director.service.queried == [([one, gold], [])]


def test_a_name_that_cannot_be_resolved_is_told_and_asked_about_without_an_address(
    director: Director, file: str
) -> None:
    path = Path(file)
    path.write_text(path.read_text().replace('"127.0.1.1"', '"nobody.invalid@gold"'))
    director.service.alter("plan")
    result = director("plan", "-c", file)
    assert (
        'backends.mail_servers[0] = "nobody.invalid@gold": nobody.invalid cannot be resolved' in result.stderr
    )
    gold = ConfiguredHost(address="127.0.1.3", tag="gold", weight=70)
    unresolved = ConfiguredHost(address="", hostname="nobody.invalid", tag="gold", weight=70)
    assert director.service.queried == [([gold], [unresolved])]


def test_a_name_with_another_address_is_moved(director: Director, file: str) -> None:
    director.service.alter(
        "plan",
        known=True,
        changes=[
            PlannedChange(
                address="127.0.1.1", what="address", now="127.0.1.1", file="127.0.1.9", outcome="made"
            ),
        ],
    )
    row = director("plan", "-c", file).stdout.splitlines()[1]
    assert row.split() == ["127.0.1.1", "address", "127.0.1.1", "127.0.1.9", "moved"]


def test_each_change_is_a_row_and_it_is_said_how_it_comes_into_force(director: Director, file: str) -> None:
    director.service.alter(
        "plan",
        known=True,
        changes=[
            PlannedChange(address="127.0.1.1", what="weight", now="100", file="70", outcome="made"),
            PlannedChange(address="127.0.1.2", what="host", now="there", file="", outcome="made"),
            PlannedChange(
                address="127.0.1.3",
                what="host",
                now="",
                file="weight 70, tag gold",
                outcome="made",
                decided=0,
            ),
        ],
    )
    assert director("plan", "-c", file).stdout.splitlines() == [
        "host       what    now    file                 outcome",
        "127.0.1.1  weight  100    70                   changed",
        "127.0.1.2  host    there  -                    removed",
        "127.0.1.3  host    -      weight 70, tag gold  added",
        "",
        "3 changes in the whole cluster as soon as a director reloads or restarts with this file; give it to "
        "all directors, then reload one after the other.",
    ]


def test_what_stays_is_told_with_the_time_it_was_decided(director: Director, file: str) -> None:
    director.service.alter(
        "plan",
        known=True,
        changes=[
            PlannedChange(
                address="127.0.1.1", what="weight", now="5", file="70", outcome="kept", decided=LATE - 8000
            ),
            PlannedChange(address="127.0.1.2", what="tag", now="a", file="b", outcome="stays"),
        ],
    )
    assert director("plan", "-c", file).stdout.splitlines() == [
        "host       what    now  file  outcome",
        "127.0.1.1  weight  5    70    stays: changed at run time, 2026-11-23 14:48:34",
        "127.0.1.2  tag     a    b     stays: another director's file says so",
        "",
        "Nothing to do.",
    ]


def test_it_is_told_where_nothing_is_known_to_be_applied(director: Director, file: str) -> None:
    director.service.alter("plan", known=False)
    said = director("plan", "-c", file).stdout
    assert "What 127.0.0.11:9090 last applied is not known" in said


def test_json_is_the_answer_of_the_api(director: Director, file: str) -> None:
    director.service.alter("plan", changes=[])
    answer = json.loads(director("plan", "-c", file, "--json").stdout)
    assert answer == {"me": "127.0.0.11:9090", "known": False, "changes": [], "warnings": []}


def test_a_file_with_mistakes_is_exit_code_78_and_asks_nobody(director: Director, tmp_path: Path) -> None:
    path = tmp_path / "director.toml"
    path.write_text('[backends]\nmail_servers = ["127.0.1.1-"]\n')
    director.service.alter("plan")
    result = director("plan", "-c", str(path))
    assert (result.exit_code, director.service.queried) == (78, [])


def test_what_the_changes_lead_to_is_a_warning_of_the_plan(director: Director, file: str) -> None:
    director.service.alter("plan", known=True, changes=[], warnings=["the pool gold loses it"])
    result = director("plan", "-c", file)
    assert (result.exit_code, result.stderr) == (0, "director: warning: the pool gold loses it\n")
