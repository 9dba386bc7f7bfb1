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


def test_the_hosts_of_the_file_are_sent_to_the_director(director: Director, file: str) -> None:
    director.service.alter("plan", known=True, changes=[], warnings=[])
    result = director("plan", "-c", file)
    assert (result.exit_code, result.stdout) == (0, "Nothing to do.\n")
    one, gold = (
        ConfiguredHost(address="127.0.1.1", weight=70),
        ConfiguredHost(address="127.0.1.3", tag="gold", weight=70),
    )
    assert director.service.queried == [([one, gold], [])]


def test_a_name_that_cannot_be_resolved_gives_a_warning_and_is_sent_without_an_address(
    director: Director, file: str
) -> None:
    path = Path(file)
    path.write_text(path.read_text().replace('"127.0.1.1"', '"unknown.invalid@gold"'))
    director.service.alter("plan")
    result = director("plan", "-c", file)
    assert (
        'backends.mail_servers[0] = "unknown.invalid@gold": unknown.invalid cannot be resolved'
        in result.stderr
    )
    gold = ConfiguredHost(address="127.0.1.3", tag="gold", weight=70)
    unresolved = ConfiguredHost(address="", hostname="unknown.invalid", tag="gold", weight=70)
    assert director.service.queried == [([gold], [unresolved])]


def test_a_host_whose_name_has_another_address_is_moved(director: Director, file: str) -> None:
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


def test_each_change_is_a_row_and_a_sentence_says_how_to_apply_the_changes(
    director: Director, file: str
) -> None:
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
        "3 changes in the whole cluster when the first director reloads or restarts with this file. "
        "Copy it to all directors, then reload one after the other.",
    ]


def test_a_setting_that_stays_is_listed_with_the_time_of_its_decision(director: Director, file: str) -> None:
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
        "127.0.1.2  tag     a    b     stays: another director's file has it",
        "",
        "Nothing to do.",
    ]


def test_a_plan_says_that_the_applied_configuration_is_not_known(director: Director, file: str) -> None:
    director.service.alter("plan", known=False)
    said = director("plan", "-c", file).stdout
    assert "127.0.0.11:9090 does not know which configuration it last applied" in said


def test_json_is_the_answer_of_the_api(director: Director, file: str) -> None:
    director.service.alter("plan", changes=[])
    answer = json.loads(director("plan", "-c", file, "--json").stdout)
    assert answer == {"me": "127.0.0.11:9090", "known": False, "changes": [], "warnings": []}


def test_a_file_with_mistakes_ends_with_exit_code_78_and_sends_nothing(
    director: Director, tmp_path: Path
) -> None:
    path = tmp_path / "director.toml"
    path.write_text('[backends]\nmail_servers = ["127.0.1.1-"]\n')
    director.service.alter("plan")
    result = director("plan", "-c", str(path))
    assert (result.exit_code, director.service.queried) == (78, [])


def test_effects_of_the_changes_are_warnings_of_the_plan(director: Director, file: str) -> None:
    director.service.alter("plan", known=True, changes=[], warnings=["the pool gold loses it"])
    result = director("plan", "-c", file)
    assert (result.exit_code, result.stderr) == (0, "director: warning: the pool gold loses it\n")
