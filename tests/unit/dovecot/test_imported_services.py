"""Which services are told to ask the new director: all that asked the old one, whatever they are called.

Which sockets login processes find was seen with imap-login of Dovecot 2.3.19.1.
"""

from __future__ import annotations

import pytest

from director.dovecot.doveconf import Block, read
from director.dovecot.loginservices import is_open, login_services
from tests.unit.dovecot.imports import minimal, noted, values

LOGIN = "service director {\n unix_listener login/director {\n  mode = 0666\n }\n}\n"
USERDB = "service director {\n unix_listener director-userdb {\n  mode = 0600\n }\n}\n"
INTERNAL = """service imap-login-internal {
  chroot = login
  executable = imap-login director
  inet_listener imap {
    port = 1143
  }
  user = dovenull
}
"""


def told(result: str, service: str) -> str:
    """The command that the snippet gives a service."""
    return read(result, "snippet").root.get("service", service, "executable")


@pytest.mark.parametrize(
    ("command", "chroot", "asks"),
    [
        ("imap-login director", "login", "imap-login director/login"),
        ("imap-login ./director", "login", "imap-login director/login"),
        ("imap-login /director", "login", "imap-login director/login"),
        ("imap-login /run/dovecot/login/director", "", "imap-login director/login"),
        ("imap-login /var/run/dovecot/login/director", "", "imap-login director/login"),
        ("/usr/lib/dovecot/imap-login -D director", "login", "/usr/lib/dovecot/imap-login -D director/login"),
        ("imap-login -R raw director -x", "login", "imap-login -R raw director/login -x"),
        ("imap-login -R director", "login", ""),
        ("imap-login other", "login", ""),
        ("imap-login", "login", ""),
        ("my-login director", "login", "my-login director/login"),
    ],
)
def test_a_service_whose_command_names_the_directors_socket_asks_the_new_one(
    command: str, chroot: str, asks: str
) -> None:
    for name in ("imap-login", "imap-login-internal"):
        text = f"{LOGIN}service {name} {{\n  chroot = {chroot}\n  executable = {command}\n}}\n"
        assert told(minimal(text).dovecot, name) == asks


def test_a_login_service_with_another_name_is_converted_beside_dovecots_own() -> None:
    text = (
        f"protocols = imap\n{LOGIN}service imap-login {{\n executable = imap-login director\n}}\n{INTERNAL}"
    )
    result = minimal(text)
    assert told(result.dovecot, "imap-login") == "imap-login director/login"
    assert told(result.dovecot, "imap-login-internal") == "imap-login director/login"
    newer = minimal(text, dovecot="2.4")
    assert "login_socket_path = director/login\n" in newer.dovecot
    # alone it would be a service without a program
    assert "imap-login-internal" not in newer.dovecot
    assert noted(newer.notes, "imap-login-internal", "restart_request_count = unlimited")


def test_a_login_service_with_another_name_that_did_not_ask_the_director_is_named() -> None:
    result = minimal(f"protocols = imap\n{LOGIN}{INTERNAL.replace(' director', '')}")
    assert told(result.dovecot, "imap-login-internal") == ""
    assert noted(result.notes, "imap-login-internal did not ask the director")


def test_a_login_service_that_is_closed_is_not_named() -> None:
    ports = "".join(f" inet_listener {name} {{\n  port = 0\n }}\n" for name in ("imap", "imaps"))
    closed = f"service imap-login {{\n{ports}}}\n"
    result = minimal(f"protocols = imap\n{LOGIN}{INTERNAL}{closed}")
    assert not noted(result.notes, "did not ask")


@pytest.mark.parametrize(
    ("ports", "open_"),
    [
        ({}, True),
        ({"imap": "0"}, True),
        ({"imap": "0", "imaps": "0"}, False),
        ({"imap": "00", "x": "1"}, True),
    ],
)
def test_a_service_listens_where_nothing_else_is_said(ports: dict[str, str], open_: bool) -> None:
    lines = [f" inet_listener {name} {{\n  port = {port}\n }}\n" for name, port in ports.items()]
    root = read("service imap-login {\n" + "".join(lines) + "}\n", "f").root
    assert is_open(root, "imap-login") == open_


def test_dovecots_own_login_services_are_there_without_being_written() -> None:
    assert [one.name for one in login_services(Block())] == [
        "imap-login",
        "pop3-login",
        "managesieve-login",
        "submission-login",
    ]


PER_PROTOCOL = (
    "protocol lmtp {{\n auth_socket_path = {0}\n}}\nprotocol doveadm {{\n auth_socket_path = {0}\n}}\n"
)


@pytest.mark.parametrize("dovecot", ["2.3", "2.4"])
@pytest.mark.parametrize(
    "written",
    ["director-userdb", "/run/dovecot/director-userdb", "/var/run/dovecot/director-userdb"],
)
@pytest.mark.parametrize("where", ["auth_socket_path = {0}\n", PER_PROTOCOL])
def test_lmtp_and_doveadm_ask_the_director_however_their_socket_was_written(
    where: str, written: str, dovecot: str
) -> None:
    result = minimal(USERDB + where.format(written), dovecot=dovecot)
    root = read(result.dovecot, "snippet").root
    for protocol in ("lmtp", "doveadm"):
        assert root.get("protocol", protocol, "auth_socket_path") == "director-userdb"


def test_lmtp_that_asked_auth_still_asks_auth() -> None:
    result = minimal(f"{USERDB}auth_socket_path = auth-userdb\n")
    assert "auth_socket_path" not in result.dovecot


def test_lmtp_that_asked_a_second_socket_asks_the_remaining_socket() -> None:
    second = "service director {\n unix_listener second-userdb {\n  mode = 0600\n }\n}\n"
    result = minimal(f"{USERDB}{second}auth_socket_path = second-userdb\n")
    root = read(result.dovecot, "snippet").root
    assert root.get("auth_socket_path") == "director-userdb"
    assert root.get("protocol", "lmtp", "auth_socket_path") == "director-userdb"
    assert noted(result.not_carried_over, "second-userdb", "change the clients to it")


def test_lmtp_proxy_in_the_block_of_its_protocol_counts_too() -> None:
    result = minimal("protocol lmtp {\n lmtp_proxy = yes\n}\n", dovecot="2.4")
    assert "lmtp_proxy = yes\n" in result.dovecot


@pytest.mark.parametrize(
    ("listener", "mode"),
    [
        ("unix_listener login/webmail", "0600"),
        ("unix_listener login/director", None),
        ("fifo_listener login/sessions-notify", "0600"),
        ("fifo_listener login/proxy-notify", None),
    ],
)
def test_only_two_listeners_of_dovecots_own_are_off_until_they_get_a_mode(
    listener: str, mode: str | None
) -> None:
    """As doveconf 2.3.19.1 prints them with `-a`."""
    result = minimal(f"service director {{\n {listener} {{\n  user = dovenull\n }}\n}}\n")
    kind = "notify" if "notify" in listener else "login"
    found = values(result)["listen"].get(kind, {}).get("mode")
    assert found == mode


def test_a_login_service_that_asks_a_socket_without_a_mode_asks_the_director() -> None:
    result = minimal(
        "service director {\n unix_listener login/webmail {\n  user = dovenull\n }\n}\n"
        "service imap-login {\n executable = imap-login webmail\n}\n"
    )
    assert "executable = imap-login director/login" in result.dovecot
    assert not noted(result.notes, "imap-login did not ask the director")


@pytest.mark.parametrize(
    ("socket", "settings", "named"),
    [
        ("auth-userdb", "mode = 0777", True),
        ("auth-userdb", "mode = 0600\n  user = vmail", True),
        ("auth-userdb", "group = mail", True),
        ("auth-userdb", "mode = 0666\n  group = dovecot", False),
        ("auth-userdb", "user = vmail", False),
        ("auth-login", "mode = 0666", True),
        ("auth-login", "mode = 0600", False),
        ("auth-login", "mode = 0660\n  group = dovecot", False),
    ],
)
@pytest.mark.parametrize("dovecot", ["2.3", "2.4"])
def test_a_note_names_sockets_whose_clients_may_lose_access(
    socket: str, settings: str, named: bool, dovecot: str
) -> None:
    text = f"service auth {{\n unix_listener {socket} {{\n  {settings}\n }}\n}}\n"
    assert noted(minimal(text, dovecot=dovecot).notes, f"unix_listener {socket}: mode") == named


def test_a_note_names_the_units_to_change_for_a_dovecot_with_other_users() -> None:
    text = (
        "default_internal_user = _dovecot\ndefault_internal_group = _dove\n"
        "default_login_user = unprivileged\n"
    )
    assert noted(minimal(text).notes, "User=_dovecot and Group=_dove", "--user _dovecot:_dove")
    assert noted(minimal(text).notes, "default_login_user = unprivileged", "tmpfiles.conf")
    assert not noted(minimal().notes, "director.service")
    assert not noted(minimal().notes, "tmpfiles.conf")
