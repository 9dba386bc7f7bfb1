"""The configuration file checked as another user: the one that the director's unit names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from director.doctor.facts import Unit
from director.doctor.gatherer import unit_user
from director.service.configuration.accounts import Account, NoSuchAccount, NotAllowed, account, run_as
from director.service.configuration.filecheck import CheckedFile, check_file, check_file_as
from tests.folders import let_everybody_in
from tests.needs import needs_root

SETTINGS = """
state = "memory:"
[backends]
mail_servers = ["127.0.3.1"]
[ring]
servers = ["127.0.3.9", "127.0.3.10"]
listen = "127.0.3.9"
secret_file = "ring.secret"
[http]
token_file = "api.token"
"""
UNPRIVILEGED = Account("nobody", 65534, 65534, (65534,))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration that everybody can read, with secrets that only root can."""
    let_everybody_in(tmp_path)
    file = tmp_path / "director.toml"
    file.write_text(SETTINGS)
    file.chmod(0o644)
    for name in ("ring.secret", "api.token"):
        (tmp_path / name).write_text("0123456789abcdef\n")
        (tmp_path / name).chmod(0o600)
    return file


def test_a_user_that_does_not_exist_is_named() -> None:
    with pytest.raises(NoSuchAccount, match="no user 'no-such-user'") as caught:
        account("no-such-user")
    assert caught.value.exit_code == 68
    with pytest.raises(NoSuchAccount, match="no group 'no-such-group'"):
        account("root:no-such-group")


def test_an_account_has_the_groups_of_its_processes() -> None:
    assert account("root")[:3] == ("root", 0, 0)
    assert account("0:65534") == ("root", 0, 65534, account("root:65534").groups)
    assert 65534 in account("root:65534").groups


def test_secrets_that_only_root_can_read_fail_the_check_as_the_units_user(file: Path) -> None:
    needs_root("to check as another user")
    assert check_file(str(file), os.environ).problems == []
    found = check_file_as(UNPRIVILEGED, str(file), os.environ)
    assert len(found.problems) == 2
    for key in ("ring.secret_file", "http.token_file"):
        (problem,) = [text for text in found.problems if key in text]
        assert "Permission denied" in problem
        assert f"chown {UNPRIVILEGED.name}" in problem


def test_advice_about_an_unreadable_file_is_logged_once(file: Path) -> None:
    needs_root("to check as another user")
    own = check_file_as(UNPRIVILEGED, str(file), os.environ).problems
    file.chmod(0o600)
    own += check_file_as(UNPRIVILEGED, str(file), os.environ).problems
    assert len(own) == 3
    for problem in own:
        assert problem.endswith(
            f"(Permission denied); {UNPRIVILEGED.name} must be able to read it: "
            f"chown {UNPRIVILEGED.name} FILE, or chgrp and chmod g+r"
        )
        assert problem.count("chown") == problem.count(";") == 1


def test_secrets_of_the_units_user_or_group_pass_the_check(file: Path) -> None:
    needs_root("to check as another user")
    os.chown(file.parent / "ring.secret", UNPRIVILEGED.uid, -1)
    os.chown(file.parent / "api.token", -1, UNPRIVILEGED.gid)
    (file.parent / "api.token").chmod(0o640)
    assert check_file_as(UNPRIVILEGED, str(file), os.environ) == CheckedFile([], [])


def test_the_check_leaves_this_process_as_it_was(file: Path) -> None:
    needs_root("to check as another user")
    before = os.getresuid(), os.getresgid(), os.getgroups()
    assert run_as(UNPRIVILEGED, os.getuid, int) == UNPRIVILEGED.uid
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before


def test_only_root_can_check_as_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(NotAllowed, match="only root") as caught:
        run_as(UNPRIVILEGED, os.getuid, int)
    assert caught.value.exit_code == 77


def test_the_doctor_tries_the_user_and_group_of_the_unit(file: Path) -> None:
    needs_root("to check as another user")
    unit = Unit(name="director.service", settings={"User": "nobody", "Group": ""})
    found = unit_user([unit], str(file))
    assert found is not None
    assert "ring.secret_file" in " ".join(found.problems)
    (file.parent / "ring.secret").chmod(0o640)
    (file.parent / "api.token").chmod(0o640)
    unit = Unit(name="director.service", settings={"User": "nobody", "Group": "root"})
    found = unit_user([unit], str(file))
    assert found is not None
    assert found.problems == ()


def test_the_doctor_names_a_user_of_the_unit_that_does_not_exist(file: Path) -> None:
    unit = Unit(name="director.service", settings={"User": "no-such-user", "Group": "dovecot"})
    found = unit_user([unit], str(file))
    assert found is not None
    assert "no user 'no-such-user'" in found.problems[0]
    assert unit_user([], str(file)) is None
    assert unit_user([Unit(name="director.service", settings={})], str(file)) is None
