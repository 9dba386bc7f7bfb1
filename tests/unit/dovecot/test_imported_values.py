"""Values of single settings, as Dovecot 2.3 and 2.2 read or refuse them, and as the import carries them over.

The refused values were tried with doveconf 2.3.19.1.
"""

from __future__ import annotations

import tomllib

import pytest

from director.dovecot import values as dovecots
from tests.unit.dovecot.imports import minimal, noted, taken, values


@pytest.mark.parametrize(
    "written",
    [
        "900",
        "0.5 h",
        "1.5 h",
        "infinite",
        "15 mins x",
        "-5 s",
        "20 mx",
        "30 years",
        "5 usecs",
        "10 milliseconds",
    ],
)
def test_a_duration_that_dovecot_refuses_is_not_used_and_named(written: str) -> None:
    for key in ("director_user_expire", "director_user_kick_delay"):
        result = minimal(f"{key} = {written}\n")
        assert "users" not in values(result)
        assert noted(result.not_carried_over, f"{key} = {written}: Dovecot refuses this value")


@pytest.mark.parametrize("written", ["0", "5 s", "5000 msecs"])
def test_an_expire_that_is_too_low_for_dovecot_is_not_used_and_named(written: str) -> None:
    result = minimal(f"director_user_expire = {written}\n")
    assert "users" not in values(result)
    assert noted(result.not_carried_over, f"director_user_expire = {written}", "at least 10 s")


def test_a_number_alone_is_seconds_in_2_2() -> None:
    result = minimal("director_user_expire = 900\ndirector_user_kick_delay = 0\n", version="2.2.36")
    assert values(result)["users"] == {"expire": "900 s", "kick_delay": "0 s"}
    assert result.not_carried_over == ()


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("0", 0),
        ("00", 0),
        ("0 s", 0),
        ("5 M", 300),
        ("5 se", 5),
        ("15min", 900),
        ("5000 MS", 5),
        ("1 day", 86400),
    ],
)
def test_a_duration_is_read_as_dovecot_reads_it(written: str, seconds: int) -> None:
    assert dovecots.seconds(written) == seconds


def test_a_duration_that_does_not_fit_is_refused() -> None:
    assert dovecots.seconds("4294967295 s") == 4294967295
    with pytest.raises(dovecots.RefusedValue):
        dovecots.seconds("4294967296 s")


@pytest.mark.parametrize("written", ["100x", "1 k", "-1", "0x10", "99999999999"])
def test_a_number_that_dovecot_refuses_does_not_spoil_the_file(written: str) -> None:
    result = minimal(f"director_max_parallel_moves = {written}\n")
    assert "users" not in values(result)
    assert noted(
        result.not_carried_over, f"director_max_parallel_moves = {written}: Dovecot refuses this value"
    )


def test_a_number_that_is_too_large_here_is_cut_and_named() -> None:
    result = minimal("director_max_parallel_kicks = 20000\n")
    assert values(result)["users"] == {"max_parallel_kicks": 10_000}
    assert noted(result.not_carried_over, "director_max_parallel_kicks = 20000", "10000 is the highest value")


@pytest.mark.parametrize("key", ["director_max_parallel_moves", "director_max_parallel_kicks"])
def test_a_number_with_which_dovecot_waits_without_end_is_not_used_and_named(key: str) -> None:
    result = minimal(f"{key} = 0\n")
    assert "users" not in values(result)
    assert noted(result.not_carried_over, f"{key} = 0", "the default is used")


@pytest.mark.parametrize(
    ("version", "setting", "named"),
    [("2.2.36", "", True), ("2.2.36", "director_username_hash = %u\n", False), ("2.3.19", "", False)],
)
def test_a_note_for_a_site_of_2_2_says_that_case_of_letters_mattered(
    version: str, setting: str, named: bool
) -> None:
    assert noted(minimal(setting, version=version).notes, "director_username_hash is not set") == named


@pytest.mark.parametrize(("written", "mode"), [("0666", "0666"), ("01232", "1232"), ("666", "1232")])
def test_a_mode_is_octal_only_with_a_zero_before_it(written: str, mode: str) -> None:
    listener = f"service director {{\n unix_listener director-userdb {{\n  mode = {written}\n }}\n}}\n"
    assert values(minimal(listener))["listen"]["userdb"]["mode"] == mode


@pytest.mark.parametrize("mode", ["0999", "x", "0" + "7" * 5000])
def test_a_mode_that_dovecot_refuses_is_named(mode: str) -> None:
    result = minimal(f"service director {{\n unix_listener director-userdb {{\n  mode = {mode}\n }}\n}}\n")
    assert values(result)["listen"]["userdb"] == {"path": ""}
    assert noted(result.not_carried_over, "director-userdb: mode", mode)


@pytest.mark.parametrize("port", ["70000", "900x"])
def test_a_port_that_dovecot_refuses_is_named(port: str) -> None:
    result = minimal(f"service director {{\n inet_listener net-admin {{\n  port = {port}\n }}\n}}\n")
    assert values(result)["listen"]["admin"] == {"mode": "0600"}
    assert noted(result.not_carried_over, "net-admin: port", port)


def test_a_bracketed_mail_server_loses_its_brackets() -> None:
    result = minimal(mail_servers="[2001:db8::1] [2001:db8::2]@gold [2001:db8::5]-[2001:db8::9] 2001:db8::1")
    assert values(result)["backends"]["mail_servers"] == [
        "2001:db8::1",
        "2001:db8::2@gold",
        "2001:db8::5-2001:db8::9",
    ]
    assert result.not_carried_over == ("director_mail_servers: 2001:db8::1 is listed 2 times",)


def test_a_note_after_an_address_is_a_comment_of_dovecots() -> None:
    result = minimal("director_username_hash = %Ln#x\n", mail_servers="10.2.0.1 10.2.0.2#note")
    assert values(result)["backends"]["mail_servers"] == ["10.2.0.1", "10.2.0.2"]
    assert values(result)["users"]["username_hash"] == "%Ln"


def test_variables_have_their_values() -> None:
    text = (
        "base_dir = /srv/dovecot\n"
        "director_mail_servers = 10.1.0.1\n"
        "director_mail_servers = $director_mail_servers 10.1.0.2\n"
        "director_servers = $director_mail_servers $ENV:MORE\n"
        "director_flush_socket = $base_dir\n"
    )
    result = taken(text, environ={"MORE": "10.1.0.3 10.1.0.4"})
    assert values(result)["backends"]["mail_servers"] == ["10.1.0.1", "10.1.0.2"]
    assert values(result)["ring"]["servers"] == ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"]
    assert values(result)["users"]["flush_socket"] == "/srv/dovecot"
    assert noted(result.notes, "$ENV:MORE: the value comes from the environment")


def test_a_variable_without_a_known_value_is_not_used_and_named() -> None:
    result = taken(
        "director_mail_servers = $ENV:HOSTS 10.1.0.9\ndirector_user_expire = $ENV:EXPIRE\n"
        "director_username_hash = $some_setting\nlisten = $ENV:ADDRESS\n"
        "service director {\n inet_listener net-admin {\n  port = 9091\n }\n}\n"
    )
    assert values(result)["backends"]["mail_servers"] == ["10.1.0.9"]
    assert "users" not in values(result)
    for words in (
        ("director_mail_servers has $ENV:HOSTS", "HOSTS is not set"),
        ("director_user_expire = $ENV:EXPIRE",),
        ("director_username_hash = $some_setting", "the configuration does not set $some_setting"),
        ("listen has $ENV:ADDRESS",),
    ):
        assert noted(result.not_carried_over, *words)


def test_mail_servers_that_are_not_known_leave_a_file_to_be_completed() -> None:
    result = taken("director_mail_servers = </etc/dovecot/hosts\n")
    assert "backends" not in values(result)
    assert noted(
        result.not_carried_over,
        "director_mail_servers = </etc/dovecot/hosts",
        "reads the value from this file",
    )


def test_any_character_of_a_value_leaves_a_readable_file() -> None:
    text = 'director_mail_servers = 10.1.0.1\ndirector_username_hash = %u\x01\x0b"\\\ndirector_x\x0c = \x02\n'
    result = taken(text.replace("director_x\x0c", "director_x"))
    assert tomllib.loads(result.toml)["users"]["username_hash"].startswith("%u\x01\x0b")


@pytest.mark.parametrize(
    ("settings", "version", "separator"),
    [
        ("master_user_separator = *\n", "2.3.19.1", "*"),
        ("master_user_separator = *\nauth_master_user_separator = *\n", "2.3.19.1", "*"),
        ("master_user_separator = *\nauth_master_user_separator = +\n", "2.3.19.1", "*"),
        ("auth_master_user_separator = +\nmaster_user_separator =\n", "2.3.21", "+"),
        ("master_user_separator = %\n", "2.2.36", "%"),
    ],
)
def test_the_directors_own_separator_of_master_users_is_carried_over(
    settings: str, version: str, separator: str
) -> None:
    assert values(minimal(settings, version=version))["users"]["master_user_separator"] == separator


def test_a_separator_that_was_carried_over_is_not_said_to_be_ignored() -> None:
    own = minimal("master_user_separator = *\n", version="2.3.19.1")
    assert not noted((*own.notes, *own.not_carried_over), "separator")
    both = minimal("master_user_separator = *\nauth_master_user_separator = +\n", version="2.3.19.1")
    assert noted(both.not_carried_over, "auth_master_user_separator = +", "master_user_separator = *")


@pytest.mark.parametrize(
    ("version", "hashing", "said"),
    [
        ("2.2.36", "", True),
        ("2.2.36", "director_consistent_hashing = no\n", True),
        ("2.2.36", "director_consistent_hashing = yes\n", False),
        ("2.3.21", "", False),
        ("2.3.21", "director_consistent_hashing = no\n", False),
    ],
)
def test_a_note_for_a_site_of_2_2_without_consistent_hashing_says_that_users_get_other_hosts(
    version: str, hashing: str, said: bool
) -> None:
    result = minimal(hashing, version=version)
    assert noted(result.notes, "places users by another algorithm") == said


def test_the_doveadm_port_of_2_2_is_that_of_the_admin_listener() -> None:
    result = minimal(
        "director_doveadm_port = 9091\ndirector_servers = 10.0.0.1\nservice director {\n"
        " inet_listener {\n  port = 9091\n }\n inet_listener {\n  port = 9090\n }\n}\n",
        version="2.2.36",
    )
    assert values(result)["listen"]["admin"]["tcp"] == "0.0.0.0:9091"
    assert values(result)["ring"]["servers"] == ["10.0.0.1"]
    assert result.not_carried_over == ()


@pytest.mark.parametrize(
    ("servers", "left"),
    [
        ("10.1.0.1-10.1.0.4 10.1.0.2", ["10.1.0.1-10.1.0.4"]),
        ("10.1.0.1-10.1.0.4 10.1.0.2-10.1.0.3@x", ["10.1.0.1-10.1.0.4"]),
        ("2001:db8::1 2001:DB8:0::1 [2001:db8::1]@x", ["2001:db8::1"]),
        ("10.1.0.2 10.1.0.1-10.1.0.4", ["10.1.0.2", "10.1.0.1-10.1.0.4"]),
        ("name 10.1.0.1 name@x", ["name", "10.1.0.1", "name@x"]),
    ],
)
def test_a_host_that_is_listed_before_is_omitted_in_any_spelling(servers: str, left: list[str]) -> None:
    result = minimal(mail_servers=servers)
    assert values(result)["backends"]["mail_servers"] == left
    assert len(result.not_carried_over) == len(servers.split()) - len(left)
