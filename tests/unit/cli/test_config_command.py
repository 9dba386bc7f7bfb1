"""`director config check` and `show`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import alone

VALID = '[backends]\nmail_servers = ["127.0.1.1"]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "director.toml"


def test_a_good_file_is_exit_code_0(file: Path) -> None:
    file.write_text(VALID)
    result = alone("config", "check", "-c", str(file))
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{file}: good\n", "")


def test_every_problem_is_a_line_and_the_exit_code_is_78(file: Path) -> None:
    file.write_text(VALID + '[users]\nexpire = "soon"\n[lisen]\n')
    result = alone("-c", str(file), "config", "check")
    assert (result.exit_code, result.stdout) == (78, "")
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert [line for line in lines if not line.startswith(f"director: {file}: ")] == []


def test_problems_as_json(file: Path) -> None:
    file.write_text(VALID + '[users]\nexpire = "soon"\n')
    result = alone("config", "check", "--json", "-c", str(file))
    found = json.loads(result.stdout)
    assert (result.exit_code, found["file"], len(found["problems"])) == (78, str(file), 1)
    assert set(found) == {"file", "problems", "warnings"}


def test_show_prints_the_defaults_and_hides_secrets(file: Path) -> None:
    secret = file.parent / "token"
    secret.write_text("a-very-secret-token\n")
    secret.chmod(0o600)
    file.write_text(VALID + '[http]\nlisten = "127.0.0.1:9092"\ntoken_file = "token"\n')
    toml = alone("config", "show", "-c", str(file)).stdout
    document = alone("config", "show", "--json", "-c", str(file)).stdout
    assert json.loads(document)["users"]["expire"] == "15 min"
    assert 'expire = "15 min"' in toml
    assert "a-very-secret-token" not in toml + document


def test_show_of_a_wrong_file_prints_the_problems(file: Path) -> None:
    file.write_text(VALID + '[users]\nexpire = "soon"\nmax_parallel_kicks = -1\n')
    result = alone("config", "show", "-c", str(file))
    assert (result.exit_code, len(result.stderr.splitlines())) == (78, 2)


def test_check_as_a_user_that_does_not_exist_fails(tmp_path: Path) -> None:
    file = tmp_path / "director.toml"
    file.write_text('state = "memory:"\n[backends]\nmail_servers = ["127.0.0.1"]\n')
    result = alone("config", "check", "-c", str(file), "--user", "no-such-user")
    assert result.exit_code == 68
    assert "there is no user 'no-such-user' on this machine" in result.stderr
    assert alone("config", "check", "-c", str(file), "--user", "root").exit_code == 0
