"""Each mistake in Dovecot's configuration has its finding. The texts are changed outputs of `doveconf -n`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from director.doctor.configuration import check
from director.doctor.facts import Facts, ProcessUser, Settings
from director.doctor.findings import FAULT, HINT, OK, UNSEEN, WARNING, Finding
from director.doctor.logins import in_use, protocols
from director.dovecot.doveconf import read

DATA = Path(__file__).parents[2] / "data" / "doveconf"
GOOD = {release: (DATA / f"proxy-{release}.txt").read_text() for release in ("2.3", "2.4")}
ROOT = ProcessUser(uid=0, gids=(0,), name="root")
DIRECTOR = ProcessUser(uid=990, gids=(990, 106), name="director")


def facts(text: str, *, who: ProcessUser = DIRECTOR, settings: Settings | None = None) -> Facts:
    return Facts(
        settings=settings or Settings(), director_as=who, running=False, conf=read(text, "text"), here=False
    )


def told(*args: Facts) -> list[Finding]:
    """All findings apart from `ok` and the hint that every configuration gets."""
    return [one for one in check(*args) if one.level not in (OK, HINT)]


@pytest.mark.parametrize("release", ["2.3", "2.4"])
def test_a_correct_machine_has_no_findings(release: str) -> None:
    assert told(facts(GOOD[release])) == []


LMTP_ONLY = """# 2.3.19.1 (9b53102964): /etc/dovecot/dovecot.conf
protocols = lmtp
lmtp_proxy = yes
protocol lmtp {
  auth_socket_path = director-userdb
}
"""


@pytest.mark.parametrize("login", ["", "/run/dovecot/login/director/login", "/run/director/login"])
def test_a_proxy_that_delivers_mail_only_needs_no_login_socket_and_no_notify_fifo(login: str) -> None:
    found = told(facts(LMTP_ONLY, settings=Settings(login=login, notify="")))
    assert [one for one in found if one.check in ("login_socket", "notify")] == []


def test_the_finding_about_an_empty_login_path_names_the_protocols() -> None:
    text = GOOD["2.3"].replace("protocols = imap pop3 submission sieve lmtp", "protocols = imap lmtp")
    (finding,) = [
        one for one in told(facts(text, settings=Settings(login=""))) if one.check == "login_socket"
    ]
    assert finding.level == WARNING
    assert finding.why.startswith("logins of imap")


@pytest.mark.parametrize("release", ["2.3", "2.4"])
def test_the_login_services_in_use_are_known(release: str) -> None:
    conf = read(GOOD[release], "text")
    assert sorted(protocols(conf)) == ["imap", "lmtp", "pop3", "sieve", "submission"]
    assert sorted(service.name for service in in_use(conf)) == [
        "imap-login",
        "managesieve-login",
        "pop3-login",
        "submission-login",
    ]


LIMITED = "  restart_request_count = unlimited\n  inet_listener imap {"
ANVIL_IS_WRONG = "anvil reports sessions as ended that continue"


class Trap(NamedTuple):
    release: str
    right: str
    wrong: str
    level: str
    check: str
    fix: str


TRAPS = [
    Trap(
        "2.3",
        "executable = imap-login director/login",
        "executable = imap-login",
        FAULT,
        "login_socket",
        "executable = imap-login director/login",
    ),
    Trap(
        "2.3",
        "executable = pop3-login director/login",
        "executable = pop3-login director",
        FAULT,
        "login_socket",
        "executable = pop3-login director/login",
    ),
    Trap(
        "2.4",
        "login_socket_path = director/login\n",
        "",
        FAULT,
        "login_socket",
        "login_socket_path = director/login",
    ),
    Trap(
        "2.3",
        "pop3-login director/login\n  service_count = 0",
        "pop3-login director/login\n  service_count = 1",
        WARNING,
        "login_processes",
        "service_count = 0",
    ),
    Trap(
        "2.4",
        LIMITED,
        LIMITED.replace("unlimited", "1"),
        FAULT,
        "login_processes",
        "restart_request_count = unlimited",
    ),
    Trap(
        "2.3",
        "login_proxy_notify_path = director/proxy-notify\n",
        "",
        FAULT,
        "notify",
        "login_proxy_notify_path = director/proxy-notify",
    ),
    Trap(
        "2.4",
        "login_proxy_notify_path = director/proxy-notify\n",
        "",
        FAULT,
        "notify",
        "login_proxy_notify_path = director/proxy-notify",
    ),
    Trap(
        "2.3",
        "protocol lmtp {\n  auth_socket_path = director-userdb\n}",
        "",
        FAULT,
        "lmtp_lookups",
        "auth_socket_path = director-userdb",
    ),
    Trap(
        "2.4",
        "protocol lmtp {\n  auth_socket_path = director-userdb",
        "protocol lmtp {",
        FAULT,
        "lmtp_lookups",
        "auth_socket_path = director-userdb",
    ),
    Trap(
        "2.4",
        "protocol doveadm {\n  auth_socket_path = director-userdb\n}",
        "",
        WARNING,
        "doveadm_lookups",
        "auth_socket_path = director-userdb",
    ),
    Trap(
        "2.3",
        "lmtp_proxy = yes\n",
        "",
        FAULT,
        "lmtp_proxy",
        "lmtp_proxy = yes",
    ),
    Trap(
        "2.3",
        "args = nopassword=y proxy=y\n",
        "args = nopassword=y\n",
        FAULT,
        "passdb",
        "proxy=y",
    ),
    Trap(
        "2.4",
        "    proxy = y\n",
        "",
        FAULT,
        "passdb",
        "proxy = y",
    ),
    Trap(
        "2.3",
        "nopassword=y proxy=y",
        "nopassword=y proxy=y host=10.0.0.1",
        WARNING,
        "passdb",
        "remove host",
    ),
    Trap(
        "2.4",
        "    proxy = y\n",
        "    proxy = y\n    user_dirkey = x\n",
        FAULT,
        "passdb",
        "remove user_dirkey",
    ),
    Trap(
        "2.3",
        "  args = nopassword=y proxy=y\n  driver = static",
        "  args = /etc/sql\n  driver = sql",
        UNSEEN,
        "passdb",
        "--user",
    ),
    Trap(
        "2.3",
        "lmtp_proxy = yes\n",
        "lmtp_proxy = yes\ndirector_servers = 10.0.0.1\n",
        FAULT,
        "built_in_director",
        "director_servers =",
    ),
    Trap(
        "2.3",
        "    mode = 00\n",
        "    mode = 0600\n",
        WARNING,
        "admin_socket",
        "director-admin",
    ),
    Trap(
        "2.3",
        "lmtp_proxy = yes\n",
        'lmtp_proxy = yes\nauth_master_user_separator = "*"\n',
        WARNING,
        "master_users",
        'master_user_separator = "*"',
    ),
    Trap(
        "2.3",
        "lmtp_proxy = yes\n",
        "lmtp_proxy = yes\ndirector_username_hash = %Ln\n",
        WARNING,
        "username_hash",
        'username_hash = "%Ln"',
    ),
    Trap(
        "2.3",
        "lmtp_proxy = yes\n",
        "lmtp_proxy = yes\nbase_dir = /run/other\n",
        FAULT,
        "base_dir",
        'base_dir = "/run/other"',
    ),
    Trap(
        "2.4",
        "  inet_listener imaps {\n",
        "  inet_listener imaps {\n    haproxy = yes\n",
        FAULT,
        "haproxy",
        "haproxy_trusted_networks =",
    ),
    Trap(
        "2.4",
        "login_socket_path = director/login\n",
        "login_socket_path = director/login\nprotocol pop3 {\n  login_socket_path = login\n}\n",
        FAULT,
        "login_socket",
        "protocol pop3 {",
    ),
    Trap(
        "2.3",
        "doveadm_password = # hidden, use -P to show it\n",
        "",
        WARNING,
        "doveadm",
        "doveadm_password = ",
    ),
    Trap(
        "2.4",
        "doveadm_port = 24245\n",
        "doveadm_port = 0\n",
        WARNING,
        "doveadm",
        "doveadm_port = 24245",
    ),
    Trap(
        "2.4",
        "auth_username_format = %{user | lower}",
        "auth_username_format = %{user | username | lower}",
        WARNING,
        "lmtp_names",
        "auth_username_format = %{user | lower}",
    ),
    Trap(
        "2.3",
        "protocol lmtp {\n",
        "protocol lmtp {\n  auth_username_format = %Ln\n",
        WARNING,
        "lmtp_names",
        "auth_username_format = %Lu",
    ),
    Trap(
        "2.3",
        'protocols = " imap lmtp sieve pop3 submission"\n',
        "protocols =\n",
        FAULT,
        "protocols",
        "protocols = ",
    ),
]


@pytest.mark.parametrize(
    ("release", "right", "wrong", "level", "check", "fix"),
    TRAPS,
    ids=[f"{trap.release}-{trap.check}-{number}" for number, trap in enumerate(TRAPS)],
)
def test_a_mistake_in_the_configuration_has_one_finding_with_the_lines_that_fix_it(
    release: str, right: str, wrong: str, level: str, check: str, fix: str
) -> None:
    assert right in GOOD[release]
    (finding,) = told(facts(GOOD[release].replace(right, wrong, 1)))
    assert (finding.level, finding.check) == (level, check)
    assert fix in "\n".join(finding.fix)
    assert finding.found
    assert finding.why


@pytest.mark.parametrize(
    ("release", "right", "more"),
    [
        (
            "2.3",
            "  args = nopassword=y proxy=y\n",
            "  args = proxy=y host=10.1.0.9\n  username_filter = fixed*\n",
        ),
        (
            "2.4",
            "    proxy = y\n  }\n",
            "    proxy = y\n    host = 10.1.0.9\n  }\n  username_filter = fixed*\n",
        ),
    ],
)
def test_a_host_in_the_passdb_for_users_chosen_by_name_is_a_hint_only(
    release: str, right: str, more: str
) -> None:
    assert right in GOOD[release]
    text = GOOD[release].replace(right, more)
    assert told(facts(text)) == []
    assert any("for fixed*" in one.found for one in check(facts(text)) if one.level == HINT)


STATIC = {
    "2.3": "  args = nopassword=y proxy=y\n",
    "2.4": "    nopassword = y\n    proxy = y\n  }\n",
}


@pytest.mark.parametrize(
    ("release", "instead", "named"),
    [
        ("2.3", STATIC["2.3"], ["static"]),
        ("2.4", STATIC["2.4"], ["director-users"]),
        ("2.3", "  default_fields = proxy=y\n  override_fields = nopassword\n", ["static"]),
        (
            "2.4",
            "    proxy = y\n  }\n  query = SELECT NULL AS password, 'y' AS nopassword\n",
            ["director-users"],
        ),
        ("2.3", "  args = password=secret proxy=y\n", []),
        ("2.4", "    proxy = y\n  }\n  password = secret\n", []),
        ("2.4", "    nopassword = no\n    proxy = y\n  }\n", []),
        ("2.3", STATIC["2.3"] + "  skip = unauthenticated\n", []),
        ("2.4", STATIC["2.4"] + "  skip = unauthenticated\n", []),
        ("2.3", "  args = proxy=y password=x\n}\npassdb {\n  master = yes\n" + STATIC["2.3"], []),
    ],
)
def test_a_passdb_that_lets_users_be_assigned_before_their_passwords_are_checked_is_named(
    release: str, instead: str, named: list[str]
) -> None:
    assert STATIC[release] in GOOD[release]
    text = GOOD[release].replace(STATIC[release], instead)
    found = [one for one in check(facts(text)) if one.check == "unauthenticated"]
    assert [one.found.split()[1] for one in found] == named
    assert all(one.level == HINT and "skip = unauthenticated" in one.fix for one in found)
    assert told(facts(text)) == []


def test_one_process_a_login_on_2_4_is_a_warning_only_for_a_director_that_is_root() -> None:
    text = GOOD["2.4"].replace(LIMITED, LIMITED.replace("unlimited", "1"))
    (finding,) = told(facts(text, who=ROOT))
    assert (finding.level, finding.why.startswith(ANVIL_IS_WRONG)) == (WARNING, True)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/run/dovecot/login/login2", "Dovecot removes sockets directly in login/"),
        ("/run/dovecot/director-login", "login processes cannot reach files outside of login/"),
    ],
)
def test_a_login_socket_in_the_wrong_place_is_a_fault(path: str, why: str) -> None:
    (finding,) = told(facts(GOOD["2.3"], settings=Settings(login=path)))
    assert (finding.level, finding.check) == (FAULT, "login_socket")
    assert finding.why.startswith(why)


def test_an_unknown_release_of_dovecot_is_the_only_finding() -> None:
    (finding,) = check(facts(GOOD["2.4"].replace("# 2.4.1-4", "# 2.2.36")))
    assert (finding.level, finding.found) == (FAULT, "Dovecot 2.2.36")


def test_a_configuration_that_cannot_be_read_is_unseen_with_the_reason() -> None:
    unread = Facts(settings=Settings(), director_as=ROOT, running=False, conf_problem="doveconf is gone")
    (finding,) = check(unread)
    assert (finding.level, finding.found) == (UNSEEN, "doveconf is gone")


def test_var_run_and_run_are_the_same_folder() -> None:
    text = GOOD["2.3"].replace("lmtp_proxy = yes\n", "lmtp_proxy = yes\nbase_dir = /var/run/dovecot/\n")
    assert told(facts(text)) == []


@pytest.mark.parametrize("release", ["2.3", "2.4"])
def test_lmtp_and_doveadm_may_use_the_general_setting_of_the_socket(release: str) -> None:
    text = GOOD[release].replace("  auth_socket_path = director-userdb\n", "")
    text = text.replace("lmtp_proxy = yes\n", "lmtp_proxy = yes\nauth_socket_path = director-userdb\n")
    assert "\n  auth_socket_path" not in text
    assert told(facts(text)) == []


def test_each_protocol_may_have_its_own_login_socket_on_2_4() -> None:
    own = "".join(
        f"protocol {name} {{\n  login_socket_path = director/login\n}}\n"
        for name in ("imap", "pop3", "sieve", "submission")
    )
    assert told(facts(GOOD["2.4"].replace("login_socket_path = director/login\n", own))) == []


def test_the_default_protocols_of_2_3_are_checked() -> None:
    text = GOOD["2.3"].replace('protocols = " imap lmtp sieve pop3 submission"\n', "")
    text = text.replace("executable = pop3-login director/login", "executable = pop3-login")
    (finding,) = told(facts(text))
    assert (finding.check, finding.found) == ("login_socket", "pop3-login: executable = pop3-login")


INTERNAL = """service imap-login-internal {{
  chroot = login
  executable = imap-login {0}
  inet_listener imap {{
    port = {1}
  }}
}}
"""


@pytest.mark.parametrize("socket", ["director", "/run/dovecot/login/director/login"])
def test_a_login_service_with_another_name_that_asks_elsewhere_is_a_fault(socket: str) -> None:
    text = GOOD["2.3"] + INTERNAL.format(socket, 1143)
    (finding,) = told(facts(text))
    assert (finding.level, finding.check) == (FAULT, "login_socket")
    assert finding.found == f"imap-login-internal: executable = imap-login {socket}"
    assert finding.fix[:2] == (
        "service imap-login-internal {",
        "  executable = imap-login director/login",
    )


def test_a_login_service_with_another_name_that_asks_auth_is_a_warning() -> None:
    (finding,) = told(facts(GOOD["2.3"] + INTERNAL.format("", 1143)))
    assert (finding.level, finding.check) == (WARNING, "login_socket")


@pytest.mark.parametrize(
    "socket", ["director/login", "-D director/login", "./director/login", "/director/login"]
)
def test_a_login_service_may_name_the_directors_socket_in_any_form_that_works(socket: str) -> None:
    text = GOOD["2.3"].replace("imap-login director/login", f"imap-login {socket}")
    assert f"imap-login {socket}" in text
    assert told(facts(text + INTERNAL.format(socket, 1143))) == []


def test_a_service_that_is_not_a_login_service_is_not_checked() -> None:
    quota = "service quota-status {{\n  executable = {0}\n  inet_listener {{\n    port = 12340\n  }}\n}}\n"
    for command in ("quota-status -p postfix", "script /usr/local/bin/x", "imap-urlauth-login", "lmtp -L"):
        assert told(facts(GOOD["2.3"] + quota.format(command))) == []
    assert told(facts(GOOD["2.4"] + quota.format("quota-status -p postfix"))) == []


def test_a_socket_in_the_command_is_used_on_2_4_too() -> None:
    (finding,) = told(facts(GOOD["2.4"] + INTERNAL.format("login", 1143)))
    assert (finding.level, finding.check) == (FAULT, "login_socket")
    assert finding.found == "imap-login-internal: executable = imap-login login"
    right = GOOD["2.4"] + INTERNAL.format("director/login", 1143)
    assert told(facts(right)) == []


def test_a_login_service_without_a_listener_is_not_checked() -> None:
    assert told(facts(GOOD["2.3"] + INTERNAL.format("director", 0))) == []
    other = INTERNAL.format("director", 1143).replace("chroot", "protocol = pop4\n  chroot")
    assert told(facts(GOOD["2.3"] + other)) == []


def test_a_login_service_with_another_name_needs_one_process_for_many_on_2_4_too() -> None:
    text = GOOD["2.4"] + INTERNAL.format("", 1143)
    assert told(facts(text)) == []
    limited = text.replace("  chroot = login\n", "  chroot = login\n  restart_request_count = 1\n")
    (finding,) = told(facts(limited))
    assert (finding.check, finding.fix[0]) == ("login_processes", "service imap-login-internal {")


@pytest.mark.parametrize("release", ["2.3", "2.4"])
def test_no_line_of_a_fix_has_an_empty_value(release: str) -> None:
    """Dovecot cannot be given the path of a listener that is off or out of its reach."""
    everywhere = (
        Settings(userdb=""),
        Settings(notify="/srv/notify"),
        Settings(notify=""),
        Settings(login=""),
        Settings(admin=""),
        Settings(userdb="", notify="", login="", admin=""),
    )
    for settings in everywhere:
        for finding in check(facts(GOOD[release], settings=settings)):
            assert not [line for line in finding.fix if line.rstrip().endswith("=")], finding


def test_a_finding_says_how_to_turn_the_userdb_listener_on() -> None:
    findings = told(facts(GOOD["2.3"], settings=Settings(userdb="")))
    assert [(one.check, one.level) for one in findings] == [
        ("lmtp_lookups", FAULT),
        ("doveadm_lookups", WARNING),
    ]
    for one in findings:
        assert "listen.userdb is off" in one.found
        assert one.fix[1] == 'path = "director-userdb"'
        assert "  auth_socket_path = director-userdb" in one.fix


def test_a_finding_says_where_to_put_a_fifo_that_login_processes_cannot_reach() -> None:
    (finding,) = told(facts(GOOD["2.4"], settings=Settings(notify="/srv/notify")))
    assert (finding.level, finding.check) == (FAULT, "notify")
    assert finding.fix[1] == 'path = "login/director/proxy-notify"'


@pytest.mark.parametrize("path", ["/run/dovecot/director-userdb", "/var/run/dovecot/director-userdb"])
def test_lmtp_may_name_its_socket_by_an_absolute_path(path: str) -> None:
    text = GOOD["2.3"].replace("auth_socket_path = director-userdb", f"auth_socket_path = {path}")
    assert path in text
    assert told(facts(text)) == []


def test_lmtp_proxy_in_the_block_of_its_protocol_is_on() -> None:
    text = GOOD["2.3"].replace("lmtp_proxy = yes\n", "protocol lmtp {\n  lmtp_proxy = yes\n}\n")
    assert told(facts(text)) == []


def test_the_directors_own_separator_of_2_3_is_compared_too() -> None:
    text = GOOD["2.3"].replace("lmtp_proxy = yes\n", "lmtp_proxy = yes\nmaster_user_separator = *\n")
    assert told(facts(text, settings=Settings(separator="*"))) == []
    (finding,) = told(facts(text))
    assert finding.found.startswith('Dovecot\'s master_user_separator is "*"')
