"""The import of a 2.3 director's configuration. Recorded results are written again, for review, by
`RECORD_TAKEOVER=1 pytest tests/unit/dovecot/test_takeover.py`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest

from director.core.placement.hashing import UserHash
from director.dovecot.doveconf import read
from director.errors import DoveconfError
from director.service.configuration.config import show
from director.service.configuration.configfile import load
from tests.unit.dovecot.imports import minimal, taken, values

DATA = Path(__file__).parents[2] / "data/doveconf"
DIRECTORS = ("alone", "debian", "everything", "lab", "manual", "old")
RECORD = bool(os.environ.get("RECORD_TAKEOVER"))
NAMES = {
    "dir1": ["192.0.2.1"],
    "dir2": ["192.0.2.2"],
    "dir3.example.com": ["2001:db8::12"],
    "mail.example.com": ["2001:db8:3::1", "2001:db8:3::2"],
    "mail5.example.com": ["2001:db8:5::1"],
}
OWN = {"192.0.2.1", "192.0.2.11", "10.0.0.10", "127.0.0.11", "2001:db8::10"}


@pytest.mark.parametrize("name", DIRECTORS)
@pytest.mark.parametrize("dovecot", ["2.3", "2.4"])
def test_a_real_configuration_is_carried_over_as_it_was_reviewed(name: str, dovecot: str) -> None:
    result = taken((DATA / f"{name}.txt").read_text(), dovecot)
    for suffix, text in ((f"{dovecot}.toml", result.toml), (f"{dovecot}.conf", result.dovecot)):
        path = DATA / f"{name}.{suffix}"
        if RECORD:
            path.write_text(text)
        assert text == path.read_text()


@pytest.mark.parametrize("name", DIRECTORS)
def test_the_imported_file_is_a_valid_configuration(name: str, tmp_path: Path) -> None:
    file, secret = tmp_path / "director.toml", tmp_path / "ring.secret"
    file.write_text(taken((DATA / f"{name}.txt").read_text()).toml)
    secret.write_text("0123456789abcdef0123456789abcdef")
    secret.chmod(0o600)
    config = load(file, {}, resolve=NAMES.__getitem__, local=OWN.__contains__)
    assert config.warnings == ()
    assert config.backends.mail_servers
    assert show(config)


def test_doveconf_with_all_defaults_gives_what_it_gives_without() -> None:
    short, long = (values(taken((DATA / f"{name}.txt").read_text())) for name in ("debian", "debian-all"))
    defaults = {
        "expire": "15 min",
        "kick_delay": "2 s",
        "username_hash": "%Lu",
        "max_parallel_moves": 100,
        "max_parallel_kicks": 100,
    }
    assert long.pop("users") == defaults
    assert long == short


def test_users_are_hashed_as_before() -> None:
    users = values(minimal("director_username_hash = %Ln\nauth_master_user_separator = *\n"))["users"]
    new = UserHash(users["username_hash"], users["master_user_separator"])
    old = UserHash("%Ln", "*")
    names = (b"Alice@example.com", b"alice@example.org", b"alice*master", b"")
    assert [new.hash(name) for name in names] == [old.hash(name) for name in names]


def test_a_director_that_ignored_the_separator_is_named() -> None:
    separator = "auth_master_user_separator = *\n"
    said = [
        any("separator" in note for note in minimal(separator, version=version).notes)
        for version in ("2.3.19.1", "2.3.21")
    ]
    assert said == [True, False]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("30 mins", "30 min"),
        ("900s", "900 s"),
        ("15 m", "15 min"),
        ("2 hours", "2 h"),
        ("1 week", "7 d"),
        ("5000 mi", "5000 min"),
        ("20000 milli", "20 s"),
    ],
)
def test_a_duration_is_written_with_the_units_of_director_toml(theirs: str, ours: str) -> None:
    assert values(minimal(f"director_user_expire = {theirs}\n"))["users"]["expire"] == ours


def test_directors_without_a_port_have_that_of_the_rings_listener() -> None:
    result = minimal(
        "director_servers = 10.0.0.1 10.0.0.2:9000 2001:db8::1 [2001:db8::2] [2001:db8::3]:9000\n"
        "service director {\n inet_listener {\n  port = 9999\n }\n}\n"
    )
    assert values(result)["ring"]["servers"] == [
        "10.0.0.1:9999",
        "10.0.0.2:9000",
        "[2001:db8::1]:9999",
        "[2001:db8::2]:9999",
        "[2001:db8::3]:9000",
    ]


def test_a_backend_that_is_listed_twice_is_carried_over_once_and_named() -> None:
    result = minimal(mail_servers="10.1.0.1 10.1.0.2@x 10.1.0.1")
    assert values(result)["backends"]["mail_servers"] == ["10.1.0.1", "10.1.0.2@x"]
    assert result.not_carried_over == ("director_mail_servers: 10.1.0.1 is listed 2 times",)


def test_the_login_socket_is_never_directly_in_login() -> None:
    result = minimal("service director {\n unix_listener login/director {\n  mode = 0666\n }\n}\n")
    assert values(result)["listen"]["login"] == {"mode": "0666"}
    assert "login/director {\n    mode = 0\n" in result.dovecot


def test_a_listener_that_was_off_or_not_there_is_off() -> None:
    off = {"path": ""}
    listen = values(minimal("service director {\n unix_listener director-userdb {\n  mode = 0\n }\n}\n"))[
        "listen"
    ]
    assert (listen["login"], listen["userdb"], listen["authreply"]) == (off, off, off)
    assert listen["admin"] == {"mode": "0600"}


def test_the_notify_fifo_is_on_even_if_it_was_off_and_a_note_says_so() -> None:
    result = minimal()
    assert "notify" not in values(result)["listen"]
    assert any("login/proxy-notify was off" in note for note in result.notes)


def test_an_admin_port_that_is_open_to_all_networks_stays_open_and_is_named() -> None:
    result = minimal("service director {\n inet_listener director-doveadm {\n  port = 9091\n }\n}\n")
    assert values(result)["listen"]["admin"] == {"mode": "0600", "tcp": "0.0.0.0:9091"}
    assert any("open to every network" in note for note in result.notes)


def test_dovecots_variables_for_its_users_are_resolved() -> None:
    result = minimal(
        "default_internal_user = doves\nservice director {\n unix_listener director-userdb {\n"
        "  mode = 0600\n  user = $default_internal_user\n }\n}\n"
    )
    assert values(result)["listen"]["userdb"]["user"] == "doves"


def test_a_default_that_doveconf_prints_is_not_taken_for_a_setting() -> None:
    short, long = (taken((DATA / f"{name}.txt").read_text()) for name in ("debian", "debian-all"))
    assert (long.not_carried_over, long.notes, long.dovecot) == (
        short.not_carried_over,
        short.notes,
        short.dovecot,
    )


def test_every_setting_of_the_director_is_carried_over_or_named() -> None:
    text = (DATA / "debian-all.txt").read_text()
    # each with another value than its default
    changed = re.sub(r"^(director_\w+) = (\d+)", r"\1 = 1\2", text, flags=re.MULTILINE)
    changed = re.sub(r"^(director_flush_socket) = $", r"\1 = unix:x", changed, flags=re.MULTILINE)
    result = taken(changed)
    carried = {
        "director_servers",
        "director_mail_servers",
        "director_user_expire",
        "director_user_kick_delay",
        "director_username_hash",
        "director_max_parallel_moves",
        "director_max_parallel_kicks",
        "director_flush_socket",
    }
    known = set(re.findall(r"^(director_\w+) = .", changed, flags=re.MULTILINE))
    named = {name for name in known for note in result.not_carried_over if note.startswith(f"{name} =")}
    assert named == known - carried


def test_an_unknown_setting_is_named() -> None:
    assert minimal("director_colour = red\n").not_carried_over == (
        "director_colour = red: this director has no such setting",
    )


def test_options_of_a_login_service_stay() -> None:
    result = minimal(
        "service director {\n unix_listener login/director {\n  mode = 0666\n }\n}\n"
        "service imap-login {\n executable = imap-login -D director\n}\n"
    )
    assert "executable = imap-login -D director/login\n" in result.dovecot


def test_a_login_service_that_did_not_ask_the_director_still_does_not_and_is_named() -> None:
    result = minimal("protocols = imap pop3\n")
    assert "executable" not in result.dovecot
    assert any(note.startswith("imap-login did not ask the director") for note in result.notes)


def test_the_snippet_can_be_read_and_turns_the_old_director_off() -> None:
    before = (DATA / "everything.txt").read_text()
    root = read(before + taken(before).dovecot, "both").root
    assert (root.get("director_servers"), root.get("director_mail_servers")) == ("", "")
    assert root.get("service", "director", "unix_listener", "poolmon-admin", "mode") == "0"
    assert root.get("service", "director", "protocol") == "none"
    assert root.get("service", "submission-login", "executable") == "submission-login director/login"


@pytest.mark.parametrize("name", ["proxy-2.3", "proxy-2.4"])
def test_a_dovecot_without_a_director_is_refused(name: str) -> None:
    with pytest.raises(DoveconfError, match="director_mail_servers is not set"):
        taken((DATA / f"{name}.txt").read_text())


def test_a_password_is_not_carried_over() -> None:
    result = minimal("doveadm_password = geheim\ndirector_flush_socket = exec:/bin/true\n")
    assert "geheim" not in msgspec.json.encode(result).decode()


@pytest.mark.parametrize("setting", ["port = " + "9" * 5000, "port = 143x"])
def test_a_port_that_is_no_number_does_not_stop_the_import(setting: str) -> None:
    result = minimal(f"service director {{\n  inet_listener {{\n    {setting}\n  }}\n}}\n")
    assert values(result)["backends"]["mail_servers"] == ["10.1.0.1"]


@pytest.mark.parametrize("mode", ["0" + "7" * 5000, "0999", "x"])
def test_a_mode_that_is_no_number_does_not_stop_the_import(mode: str) -> None:
    text = f"service director {{\n  unix_listener login/director {{\n    mode = {mode}\n  }}\n}}\n"
    assert values(minimal(text))["backends"]["mail_servers"] == ["10.1.0.1"]
