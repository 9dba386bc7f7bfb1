"""`director config import`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.unit.cli.conftest import alone

DATA = Path(__file__).parents[2] / "data/doveconf"


def test_the_whole_output_is_a_valid_director_toml() -> None:
    result = alone("config", "import", str(DATA / "lab.txt"))
    assert (result.exit_code, result.stderr) == (0, "")
    document = tomllib.loads(result.stdout)
    assert document["ring"]["servers"] == ["127.0.0.11:9090", "127.0.0.12:9090", "127.0.0.13:9090"]


def test_the_marked_lines_are_for_dovecot() -> None:
    printed = alone("config", "import", str(DATA / "lab.txt"), "--dovecot", "2.4").stdout
    marked = [line.removeprefix("#| ") for line in printed.splitlines() if line.startswith("#| ")]
    assert "\n".join(marked) + "\n" == (DATA / "lab.2.4.conf").read_text()


def test_an_import_reads_standard_input() -> None:
    result = alone("config", "import", "-", stdin=(DATA / "manual.txt").read_text())
    assert tomllib.loads(result.stdout)["backends"]["mail_servers"] == ["10.0.1.1", "10.0.1.2"]


def test_an_import_reads_a_file_that_powershell_wrote(tmp_path: Path) -> None:
    expected = json.loads(alone("config", "import", "--json", str(DATA / "manual.txt")).stdout)
    file = tmp_path / "printed"
    file.write_bytes((DATA / "manual.txt").read_text().replace("\n", "\r\n").encode("utf-16"))
    assert json.loads(alone("config", "import", "--json", str(file)).stdout) == expected
    assert alone("doctor", "--json", "--doveconf", str(file)).exit_code != 65


def test_an_import_resolves_names_and_reads_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MAIL_HOSTS", "10.1.0.1 10.1.0.2")
    file = tmp_path / "printed"
    file.write_text("director_mail_servers = $ENV:MAIL_HOSTS\ndirector_servers = localhost\n")
    document = json.loads(alone("config", "import", "--json", str(file)).stdout)
    assert tomllib.loads(document["toml"])["backends"]["mail_servers"] == ["10.1.0.1", "10.1.0.2"]
    assert any("127.0.0.1" in note and "list all of them" in note for note in document["notes"])


def test_an_import_as_json_has_the_parts_as_keys() -> None:
    document = json.loads(alone("config", "import", "--json", str(DATA / "everything.txt")).stdout)
    assert set(document) == {"toml", "dovecot", "not_carried_over", "notes"}
    assert any(
        note.startswith("director_ping_max_timeout = 45 secs") for note in document["not_carried_over"]
    )


def test_an_import_writes_two_files_and_lists_settings_that_were_not_carried_over(tmp_path: Path) -> None:
    result = alone("config", "import", str(DATA / "everything.txt"), "--write", str(tmp_path))
    assert result.exit_code == 0
    assert (tmp_path / "director.toml").read_text() == (DATA / "everything.2.3.toml").read_text()
    assert (tmp_path / "director-dovecot.conf").read_text() == (DATA / "everything.2.3.conf").read_text()
    assert result.stdout.splitlines()[0] == f"{tmp_path / 'director.toml'}: written"
    assert "not carried over: director_output_buffer_size = 20 M: " in result.stdout


@pytest.mark.parametrize("name", ["director.toml", "director-dovecot.conf"])
def test_an_import_does_not_overwrite_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    result = alone("config", "import", str(DATA / "lab.txt"), "--write", str(tmp_path))
    assert result.exit_code == 77
    assert result.stderr.startswith(f"director: {tmp_path / name}: cannot be written: ")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_configuration_without_a_director_is_bad_data() -> None:
    file = DATA / "proxy-2.4.txt"
    result = alone("config", "import", str(file))
    assert (result.exit_code, result.stdout) == (65, "")
    assert result.stderr.startswith(f"director: {file}: director_mail_servers is not set")


def test_a_file_with_includes_is_bad_data_and_the_message_says_which_text_to_give(tmp_path: Path) -> None:
    file = tmp_path / "dovecot.conf"
    file.write_text("protocols = imap\n!include conf.d/*.conf\n")
    result = alone("config", "import", str(file))
    assert (result.exit_code, "doveconf -n" in result.stderr) == (65, True)


def test_the_message_about_a_missing_file_names_the_file(tmp_path: Path) -> None:
    result = alone("config", "import", str(tmp_path / "none"))
    assert (result.exit_code, result.stderr) == (
        65,
        f"director: {tmp_path}/none: No such file or directory\n",
    )


def test_without_doveconf_the_message_says_which_file_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    result = alone("config", "import")
    assert (result.exit_code, "give a FILE with the output of" in result.stderr) == (65, True)
