"""`director reload`."""

from __future__ import annotations

from director.cli.reload import lines
from director.records import ReloadInfo
from tests.unit.cli.conftest import Director


def test_what_counts_and_what_does_not_yet_is_told_line_by_line(director: Director) -> None:
    director.service.node.reloads.last = ReloadInfo(
        state="done", version="0.1.0", applied=["log.level"], needs_exec=["users.expire"]
    )
    done = director("reload", "--reason", "a new file")
    assert done.exit_code == 0
    assert done.output == "log.level: counts now\nusers.expire: needs `director reload --exec`\n"
    assert director.service.node.reloads.asked == [(False, False)]
    assert director.service.reasons == ["a new file"]


def test_a_program_that_was_not_replaced_ends_the_command_with_78_and_the_reason(director: Director) -> None:
    director.service.node.reloads.last = ReloadInfo(
        state="failed", exec=True, version="0.1.0", problem="the program ends with 1: SyntaxError"
    )
    done = director("reload", "--exec")
    assert done.exit_code == 78
    assert "director 0.1.0 serves on: the program ends with 1: SyntaxError" in done.output


def test_each_problem_of_a_file_has_a_line_of_its_own() -> None:
    info = ReloadInfo(state="failed", version="0.1.0", problem="d.toml: a = 1: no\nd.toml: b = 2: no")
    assert lines(info) == [
        "nothing has changed, director 0.1.0 serves on: d.toml: a = 1: no",
        "d.toml: b = 2: no",
    ]


def test_a_replacement_tells_both_versions_and_its_times() -> None:
    info = ReloadInfo(state="done", exec=True, version="0.2.0", before="0.1.0", seconds=1.5, frozen=0.25)
    assert lines(info) == ["director 0.1.0 has been replaced by 0.2.0 in 1.50 s; logins paused for 0.25 s"]


def test_nothing_that_has_changed_is_told_as_well() -> None:
    assert lines(ReloadInfo(state="done", version="0.1.0")) == ["nothing has changed"]


def test_what_changed_backends_lead_to_is_a_warning_of_the_command(director: Director) -> None:
    director.service.node.reloads.last = ReloadInfo(
        state="done", version="0.1.0", applied=["backends.mail_servers"], warnings=["the pool gold loses it"]
    )
    done = director("reload")
    assert (done.exit_code, done.stdout) == (0, "backends.mail_servers: counts now\n")
    assert done.stderr == "director: warning: the pool gold loses it\n"
