"""The messages to a user who may not use a socket."""

from __future__ import annotations

import codecs
import errno
import os
import pwd
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.folders import let_everybody_in
from tests.unit.cli.conftest import alone

OTHER_UID = 65534


@pytest.fixture
def other_user(tmp_path: Path) -> Iterator[str]:
    """The name of a user who may open no file here, and under which the test runs.

    Without root it is the present user, who may not open a file of mode 0 either.
    """
    let_everybody_in(tmp_path)
    # Modules that are imported when they are needed may not be readable for the other user.
    alone("config", "check", "-c", "/dev/null")
    codecs.lookup("utf-8-sig")
    before = os.geteuid()
    if before == 0:
        os.seteuid(OTHER_UID)
    yield pwd.getpwuid(os.geteuid()).pw_name
    os.seteuid(before)


def listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0)
    listener.listen()
    return listener


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "director.toml"
    sockets = "".join(f'[listen.{name}]\npath = "{name}.sock"\n' for name in ("api", "admin"))
    file.write_text(f'[dovecot]\nbase_dir = "{tmp_path}"\n{sockets}')
    return file


@pytest.mark.parametrize(("name", "setting"), [("api", "listen.api"), ("admin", "listen.admin")])
def test_a_refused_socket_names_the_setting_of_its_own_listener(
    file: Path, name: str, setting: str, request: pytest.FixtureRequest
) -> None:
    path = file.parent / f"{name}.sock"
    with closing(listening(path)):
        owner = f"{path.owner()}:{path.group()}"
        user = request.getfixturevalue("other_user")
        result = alone("-c", str(file), "-S", str(path), "status")
    assert (result.exit_code, result.stdout) == (69, "")
    assert result.stderr == (
        f"director: {path}: permission denied: {user} may not connect (mode 0000, owner {owner}); run this "
        f'as its owner, or set group and mode = "0660" in [{setting}] of {file}, and add {user} to that '
        "group\n"
    )


def test_a_refused_socket_of_another_director_names_no_setting_of_this_one(
    file: Path, request: pytest.FixtureRequest
) -> None:
    path = file.parent / "other.sock"
    with closing(listening(path)):
        request.getfixturevalue("other_user")
        result = alone("-c", str(file), "-S", str(path), "status")
    assert 'mode = "0660" in the configuration of its director' in result.stderr


def test_a_folder_that_may_not_be_entered_is_named(file: Path, request: pytest.FixtureRequest) -> None:
    folder = file.parent / "closed"
    folder.mkdir()
    with closing(listening(folder / "api.sock")):
        folder.chmod(0)
        user = request.getfixturevalue("other_user")
        result = alone("-c", str(file), "-S", str(folder / "api.sock"), "status")
        if os.geteuid() == folder.stat().st_uid:
            folder.chmod(0o700)
    assert f"{user} may not enter {folder} (mode 0000, owner " in result.stderr
    assert "listen.api" not in result.stderr


def test_a_firewall_is_not_taken_for_a_wrong_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object, **__: object) -> None:  # as the kernel does for a firewall rule
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("http.client.socket.create_connection", forbid)
    result = alone("-S", "http://127.0.0.1:9092", "status")
    assert (result.exit_code, result.stdout) == (69, "")
    assert "a firewall of this machine forbids it" in result.stderr
    assert "mode" not in result.stderr


def test_a_configuration_that_may_not_be_read_is_not_reported_as_missing(
    file: Path, request: pytest.FixtureRequest
) -> None:
    file.chmod(0)
    request.getfixturevalue("other_user")
    result = alone("config", "check", "-c", str(file))
    assert result.exit_code == 78
    assert f"{file}: cannot be read by uid {os.geteuid()} (Permission denied); run this as" in result.stderr
    assert "-c FILE" not in result.stderr


def test_the_message_about_an_unreadable_secret_names_the_user(
    file: Path, request: pytest.FixtureRequest
) -> None:
    secret = file.parent / "ring.secret"
    secret.write_text("a" * 32)
    secret.chmod(0)
    # Use memory: the steps of SQLite's schema are in this checkout, which may be in root's home.
    ring = '[backends]\nmail_servers = ["127.0.1.1"]\n[ring]\nsecret_file = "ring.secret"\n'
    file.write_text(f'state = "memory:"\n{ring}')
    request.getfixturevalue("other_user")
    result = alone("config", "check", "-c", str(file))
    assert result.exit_code == 78
    assert (
        f"{secret} cannot be read by uid {os.geteuid()} (Permission denied); chown or chmod it"
        in result.stderr
    )
