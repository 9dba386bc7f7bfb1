"""`director reload`."""

from __future__ import annotations

from director.cli.reload import lines
from director.records import ReloadInfo
from tests.unit.cli.conftest import Director


def test_each_changed_setting_has_a_line_that_says_whether_it_applies(director: Director) -> None:
    director.service.node.reloads.last = ReloadInfo(
        state="done", version="0.1.0", applied=["log.level"], needs_exec=["users.expire"]
    )
    done = director("reload", "--reason", "a new file")
    assert done.exit_code == 0
    assert done.output == "log.level: applied\nusers.expire: needs `director reload --exec`\n"
    assert director.service.node.reloads.asked == [(False, False)]
    assert director.service.reasons == ["a new file"]


def test_a_failed_replacement_ends_the_command_with_exit_code_78_and_the_reason(director: Director) -> None:
    director.service.node.reloads.last = ReloadInfo(
        state="failed", exec=True, version="0.1.0", problem="the program ends with 1: SyntaxError"
    )
    done = director("reload", "--exec")
    assert done.exit_code == 78
    assert "director 0.1.0 continues: the program ends with 1: SyntaxError" in done.output


def test_each_problem_of_a_file_has_a_line_of_its_own() -> None:
    info = ReloadInfo(state="failed", version="0.1.0", problem="d.toml: a = 1: no\nd.toml: b = 2: no")
    assert lines(info) == [
        "nothing has changed, director 0.1.0 continues: d.toml: a = 1: no",
        "d.toml: b = 2: no",
    ]


def test_a_replacement_prints_both_versions_and_the_durations() -> None:
    info = ReloadInfo(state="done", exec=True, version="0.2.0", before="0.1.0", seconds=1.5, paused=0.25)
    assert lines(info) == ["director 0.1.0 has been replaced by 0.2.0 in 1.50 s; logins paused for 0.25 s"]


def test_a_reload_that_changes_nothing_says_so() -> None:
    assert lines(ReloadInfo(state="done", version="0.1.0")) == ["nothing has changed"]


def test_effects_of_changed_backends_are_warnings_of_the_command(director: Director) -> None:
    director.service.node.reloads.last = ReloadInfo(
        state="done", version="0.1.0", applied=["backends.mail_servers"], warnings=["the pool gold loses it"]
    )
    done = director("reload")
    assert (done.exit_code, done.stdout) == (0, "backends.mail_servers: applied\n")
    assert done.stderr == "director: warning: the pool gold loses it\n"
