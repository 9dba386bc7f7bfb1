"""The socket that a configuration file names, read without the configuration code of the director."""

from __future__ import annotations

from pathlib import Path

import pytest

from director.cli.target import DEFAULT_SOCKET, api_socket
from director.errors import ConfigError
from director.service.configuration.configfile import load

VALID = '[backends]\nmail_servers = ["127.0.1.1"]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "director.toml"


@pytest.mark.parametrize(
    "text",
    [
        VALID,
        VALID + '[listen.api]\npath = "/tmp/elsewhere.sock"\n',
        VALID + '[listen.api]\npath = "api.sock"\n',
        VALID + '[dovecot]\nbase_dir = "/var/run/dovecot"\n[listen.api]\npath = "director/api.sock"\n',
        VALID + '[dovecot]\nbase_dir = "run"\n[listen.api]\npath = "../api.sock"\n',
        VALID + '[listen.api]\npath = "${RUN}/api.sock"\n',
    ],
)
def test_the_command_line_connects_where_the_director_listens(file: Path, text: str) -> None:
    file.write_text(text)
    environ = {"RUN": "/tmp/run"}
    assert api_socket(str(file), environ) == load(file, environ).listen.api.path


def test_without_a_file_the_default_socket_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("director.cli.target.DEFAULT_CONFIG", str(tmp_path / "none.toml"))
    assert api_socket(None, {}) == DEFAULT_SOCKET == load_default(tmp_path)


def load_default(folder: Path) -> str:
    file = folder / "valid.toml"
    file.write_text(VALID)
    return load(file, {}).listen.api.path


def test_a_file_with_other_mistakes_still_gives_the_socket(file: Path) -> None:
    file.write_text('[users]\nexpire = "soon"\n[listen.api]\npath = "/tmp/api.sock"\n')
    assert api_socket(str(file), {}) == "/tmp/api.sock"


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("[listen.api]\npath = 5\n", "listen.api.path", "must be a string"),
        ("listen = 5\n", "listen", "must be a table"),
        ("[listen]\napi = 5\n", "listen.api", "must be a table"),
        ('[listen.api]\npath = ""\n', "listen.api.path", "is off"),
        ("[listen", "", "not TOML"),
    ],
)
def test_a_file_without_a_usable_socket_is_a_configuration_error(
    file: Path, text: str, key: str, expected: str
) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        api_socket(str(file), {})
    assert caught.value.key == key
    assert expected in caught.value.expected


def test_a_file_that_is_not_utf8_is_a_configuration_error(file: Path) -> None:
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not TOML"):
        api_socket(str(file), {})


def test_a_named_file_must_exist(file: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; name the file with -c, or the socket with -S"):
        api_socket(str(file), {})
