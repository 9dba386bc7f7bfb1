"""director.toml: what is read from it, what is refused and how it is told. No name server is asked."""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from director.core.tables.hosts import BackendSetting
from director.errors import EX_CONFIG, ConfigError, ConfigErrors
from director.service.configuration.config import (
    AdminListenerConfig,
    BackendsConfig,
    Config,
    DovecotConfig,
    HttpConfig,
    ListenConfig,
    ListenerConfig,
    LogConfig,
    LookupPorts,
    RingConfig,
    SocketmapListenerConfig,
    UsersConfig,
    show,
)
from director.service.configuration.configfile import load, load_for_keeper
from director.service.configuration.servers import Endpoint
from director.types import Address

EXAMPLE = Path(__file__).parents[3] / "deploy" / "director.toml.example"
BACKENDS = '[backends]\nmail_servers = ["10.1.0.1"]\n'
RING = """[ring]
servers = ["10.0.0.1", "10.0.0.2"]
listen = "10.0.0.1:9090"
secret_file = "ring.secret"
"""


class Place:
    """A folder with a director.toml in it. The machine has the address 10.0.0.1 and knows one name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "director.toml"
        self.environ: dict[str, str] = {}
        self.names = {"imap.example.com": ["10.2.0.1", "10.2.0.2"]}
        self.write("ring.secret", "0123456789abcdef\n", mode=0o600)

    def write(self, name: str, content: str, *, mode: int = 0o600) -> None:
        (self.folder / name).write_text(content, "utf-8")
        (self.folder / name).chmod(mode)

    def load(self, text: str) -> Config:
        self.file.write_text(text, "utf-8")
        return load(
            self.file,
            self.environ,
            resolve=self.names.__getitem__,
            local=lambda address: address == "10.0.0.1",
        )

    def problems(self, text: str) -> dict[str, ConfigError]:
        """The problems with `text`, by key."""
        with pytest.raises(ConfigErrors) as caught:
            self.load(text)
        return {problem.key: problem for problem in caught.value.problems}

    def problem(self, text: str) -> ConfigError:
        """The one thing that is wrong with `text`."""
        (problem,) = self.problems(text).values()
        return problem


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_file_with_nothing_but_backends_gives_every_default(place: Place) -> None:
    config = place.load(BACKENDS)
    assert config.ring == RingConfig()
    assert config.users == UsersConfig()
    assert config.http == HttpConfig()
    assert config.log == LogConfig()
    assert config.state == "sqlite:////var/lib/director/state.db"
    assert config.backends.mail_servers == (BackendSetting(Address("10.1.0.1"), "", "", 100),)
    assert config.warnings == ()


def test_the_defaults_are_those_that_are_documented(place: Place) -> None:
    config = place.load(BACKENDS)
    assert (config.users.expire, config.users.kick_delay) == (900.0, 2.0)
    assert (config.ring.ping_interval, config.ring.ping_timeout) == (1.0, 5.0)
    assert (config.ring.isolation_wait, config.ring.lease_ttl, config.ring.max_clock_skew) == (20.0, 3.0, 2.0)
    assert config.dovecot == DovecotConfig(
        base_dir="/run/dovecot",
        auth_socket="/run/dovecot/auth-login",
        userdb_socket="/run/dovecot/auth-userdb",
        kick="auto",
        ipc_socket="/run/dovecot/ipc",
        anvil_socket="/run/dovecot/anvil",
    )
    assert config.listen == ListenConfig(
        login=ListenerConfig(path="/run/dovecot/login/director/login", mode=0o666),
        notify=ListenerConfig(path="/run/dovecot/login/director/proxy-notify", mode=0o666),
        userdb=ListenerConfig(path="/run/dovecot/director-userdb", mode=0o600),
        admin=AdminListenerConfig(path="/run/dovecot/director-admin", mode=0o600),
        authreply=ListenerConfig(path="/run/dovecot/director-authreply", mode=0o600),
        api=ListenerConfig(path="/run/director/api.sock", mode=0o600),
        socketmap=SocketmapListenerConfig(path="", mode=0o600),
    )
    assert (config.lookups.http, config.lookups.nginx, config.lookups.timeout) == (False, False, 10.0)


def test_a_whole_configuration_is_read(place: Place) -> None:
    place.write("token", "s3cret-token\n")
    config = place.load(
        'state = "redis://h:6379/0?prefix=dd:"\n'
        + RING
        + """ping_interval = "500 ms"
[backends]
mail_servers = ["10.1.0.1-10.1.0.2", "imap.example.com@gold"]
weight = 50
[users]
expire = "20 s"
master_user_separator = "*"
[dovecot]
base_dir = "run"
kick = "ipc"
[listen.login]
path = "login/director/l"
mode = "0660"
group = "dovenull"
[listen.admin]
tcp = "10.0.0.1"
[listen.userdb]
path = ""
[http]
listen = "0.0.0.0:9092"
token_file = "token"
[log]
level = "debug"
"""
    )
    assert config.ring.servers == (Endpoint(Address("10.0.0.1"), 9090), Endpoint(Address("10.0.0.2"), 9090))
    assert config.ring.listen == Endpoint(Address("10.0.0.1"), 9090)
    assert config.ring.secret == b"0123456789abcdef"
    assert config.ring.ping_interval == 0.5
    assert [(s.address, s.hostname, s.tag, s.weight) for s in config.backends.mail_servers] == [
        ("10.1.0.1", "", "", 50),
        ("10.1.0.2", "", "", 50),
        ("10.2.0.1", "imap.example.com", "gold", 50),
        ("10.2.0.2", "imap.example.com", "gold", 50),
    ]
    assert config.users.master_user_separator == "*"
    assert config.listen.login == ListenerConfig(
        path=f"{place.folder}/run/login/director/l", mode=0o660, group="dovenull"
    )
    assert config.listen.admin.tcp == Endpoint(Address("10.0.0.1"), 9091)
    assert config.listen.userdb.path == ""
    assert config.dovecot.auth_socket == f"{place.folder}/run/auth-login"
    assert config.http.token == b"s3cret-token"


def test_every_problem_is_told_at_once_with_file_key_value_and_what_is_expected(place: Place) -> None:
    problems = place.problems(
        """[ring]
servers = ["10.0.0.1:0"]
[backends]
mail_servers = []
[users]
expire = "9 s"
kick_delay = 2
[log]
format = "xml"
"""
    )
    assert list(problems) == [
        "ring.servers[0]",
        "backends.mail_servers",
        "users.expire",
        "users.kick_delay",
        "log.format",
    ]
    assert str(problems["users.expire"]) == f"{place.file}: users.expire = '9 s': must be at least 10 s"
    assert 'write "2 s"' in problems["users.kick_delay"].expected


def test_the_collected_problems_are_one_configuration_error_with_a_line_for_each(place: Place) -> None:
    with pytest.raises(ConfigError) as caught:
        place.load('[users]\nexpire = "9 s"\n')
    assert caught.value.exit_code == EX_CONFIG
    assert [line.split(" = ")[0] for line in str(caught.value).splitlines()] == [
        f"{place.file}: backends.mail_servers",
        f"{place.file}: users.expire",
    ]


def test_a_missing_file_is_a_configuration_error(place: Place) -> None:
    with pytest.raises(ConfigErrors, match=r"none\.toml: cannot be read \(No such file or directory\)"):
        load(place.folder / "none.toml", {})


def test_what_is_no_toml_is_refused_with_the_line(place: Place) -> None:
    assert "at line 2" in place.problem("[ring]\nservers = 10.0.0.1\n").expected


def test_what_is_no_text_is_refused(place: Place) -> None:
    place.file.write_bytes(b"state = \xff")
    with pytest.raises(ConfigErrors, match="byte 9"):
        load(place.file, {})


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("[ring]\nserver = []\n", "ring.server", 'did you mean "servers"'),
        ("[rings]\n", "rings", 'did you mean "ring"'),
        ("[listen.logins]\n", "listen.logins", 'did you mean "login"'),
        ('[listen.login]\nmod = "0600"\n', "listen.login.mod", 'did you mean "mode"'),
        ("zzz = 1\n", "zzz", "known: state, snapshot, ring"),
        ("file = 1\n", "file", "unknown key"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    place: Place, text: str, key: str, hint: str
) -> None:
    problem = place.problem(text + BACKENDS)
    assert problem.key == key
    assert hint in problem.expected


def test_the_value_of_an_unknown_key_that_looks_like_a_secret_is_not_told(place: Place) -> None:
    problem = place.problem('[ring]\nsecret = "hunter2"\n' + BACKENDS)
    assert "hunter2" not in str(problem)
    assert 'did you mean "secret_file"' in problem.expected


@pytest.mark.parametrize(
    ("text", "key"),
    [("ring = 5\n", "ring"), ("[listen]\nlogin = 'x'\n", "listen.login"), ("http = []\n", "http")],
)
def test_where_a_section_belongs_nothing_else_is_taken(place: Place, text: str, key: str) -> None:
    problem = place.problem(text + BACKENDS)
    assert problem.key == key
    assert f"write [{key}]" in problem.expected


def test_without_servers_there_is_no_ring_and_nothing_to_listen_on(place: Place) -> None:
    assert place.load("[ring]\nservers = []\n" + BACKENDS).ring.listen is None


def test_the_own_address_is_found_where_listen_is_left_out(place: Place) -> None:
    text = RING.replace('listen = "10.0.0.1:9090"\n', "")
    assert place.load(text + BACKENDS).ring.listen == Endpoint(Address("10.0.0.1"), 9090)


@pytest.mark.parametrize("listen", ["10.0.0.1:9191", "10.0.0.9:9090", "0.0.0.0"])
def test_an_own_address_that_is_not_among_the_servers_is_refused(place: Place, listen: str) -> None:
    problem = place.problem(RING.replace("10.0.0.1:9090", listen) + BACKENDS)
    assert problem.key == "ring.listen"
    assert "is not in ring.servers" in problem.expected


def test_more_directors_than_a_ring_can_have_are_refused(place: Place) -> None:
    servers = ", ".join(f'"10.0.0.{number}"' for number in range(1, 242))
    problem = place.problem(RING.replace('"10.0.0.1", "10.0.0.2"', servers) + BACKENDS)
    assert (problem.key, problem.expected) == ("ring.servers", "a ring has at most 240 directors")


def test_an_own_address_without_any_servers_is_refused(place: Place) -> None:
    problem = place.problem('[ring]\nlisten = "10.0.0.1"\n' + BACKENDS)
    assert "10.0.0.1:9090 is not in ring.servers" in problem.expected


def test_a_bad_server_is_not_followed_by_complaints_about_the_own_address(place: Place) -> None:
    assert list(place.problems(RING.replace('"10.0.0.1"', '"10.0.0.300"') + BACKENDS)) == ["ring.servers[0]"]
    assert list(place.problems(RING.replace('"10.0.0.1"', "5") + BACKENDS)) == ["ring.servers"]


def test_several_directors_need_a_secret_and_are_told_how_to_make_one(place: Place) -> None:
    problem = place.problem(RING.replace('secret_file = "ring.secret"\n', "") + BACKENDS)
    assert problem.key == "ring.secret_file"
    assert "openssl rand -hex 32 > ring.secret; chmod 600 ring.secret" in problem.expected


def test_one_director_alone_needs_no_secret(place: Place) -> None:
    assert place.load('[ring]\nservers = ["10.0.0.1"]\n' + BACKENDS).ring.secret == b""


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("123456789012345\n", "at least 16 bytes"),
        ("x" * 70_000, "too long"),
        ("0123456789abcdef\n12345\n", "each line"),
        ("0123456789abcdef\nfedcba9876543210\n0011223344556677\n", "has 3 lines"),
    ],
)
def test_a_secret_file_that_cannot_be_one_is_refused_without_its_content(
    place: Place, content: str, complaint: str
) -> None:
    place.write("ring.secret", content)
    problem = place.problem(RING + BACKENDS)
    assert problem.key == "ring.secret_file"
    assert complaint in problem.expected
    assert "12345" not in str(problem)


@pytest.mark.parametrize(
    ("content", "secrets"),
    [
        ("0123456789abcdef\n\n fedcba9876543210 \r\n", (b"0123456789abcdef", b"fedcba9876543210")),
        ("0123456789abcdef\n0123456789abcdef\n", (b"0123456789abcdef",)),
        ("\ufeff0123456789abcdef\r\nfedcba9876543210\r\n", (b"0123456789abcdef", b"fedcba9876543210")),
        ("0123456789abc\0d\nf fedcba", (b"0123456789abc\0d\nf fedcba",)),
    ],
    ids=["two lines", "a line twice", "of Windows, with a byte order mark", "no text"],
)
def test_a_secret_file_may_hold_two_secrets_while_the_secret_is_being_changed(
    place: Place, content: str, secrets: tuple[bytes, ...]
) -> None:
    place.write("ring.secret", content)
    assert place.load(RING + BACKENDS).ring.secrets == secrets


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_secret_file_in_utf_16_is_refused(place: Place, encoding: str) -> None:
    place.write("ring.secret", "")
    (place.folder / "ring.secret").write_bytes("0123456789abcdef\r\n".encode(encoding))
    assert "is UTF-16 text" in place.problem(RING + BACKENDS).expected


@pytest.mark.parametrize(("path", "complaint"), [("nowhere", "No such file"), (".", "is not a file")])
def test_a_secret_file_that_cannot_be_read_is_refused(place: Place, path: str, complaint: str) -> None:
    assert complaint in place.problem(RING.replace("ring.secret", path) + BACKENDS).expected


def test_a_token_file_of_two_lines_is_refused_because_no_client_could_send_it(place: Place) -> None:
    place.write("api.token", "0123456789abcdef\nfedcba9876543210\n")
    problem = place.problem('[http]\nlisten = "127.0.0.1:9092"\ntoken_file = "api.token"\n' + BACKENDS)
    assert problem.key == "http.token_file"
    assert "has 2 lines; write the secret alone" in problem.expected
    assert "0123456789abcdef" not in str(problem)


def test_a_configuration_with_a_byte_order_mark_is_read(place: Place) -> None:
    assert place.load("\ufeff" + BACKENDS) == place.load(BACKENDS)


def test_a_secret_everybody_can_read_is_a_warning(place: Place) -> None:
    place.write("ring.secret", "0123456789abcdef\n", mode=0o644)
    (warning,) = place.load(RING + BACKENDS).warnings
    assert "ring.secret_file: every user can read" in warning
    assert "chmod o-r" in warning


def test_a_state_password_everybody_can_read_is_a_warning(place: Place) -> None:
    place.write("redis.password", "hunter2\n", mode=0o644)
    config = place.load('state = "redis://h?password_file=redis.password"\n' + BACKENDS)
    assert "redis.password" in config.warnings[0]


def test_no_secret_shows_in_the_representation_of_a_configuration(place: Place) -> None:
    config = place.load('state = "redis://:hunter2@h"\n' + RING + BACKENDS)
    assert "hunter2" not in repr(config)
    assert "0123456789" not in repr(config)


def test_a_bad_state_url_is_told_without_its_password(place: Place) -> None:
    problem = place.problem('state = "mysql://bob:hunter2@h/x"\n' + BACKENDS)
    assert problem.key == "state"
    assert "sqlite:///" in problem.expected
    assert "hunter2" not in str(problem)


def test_the_environment_is_read_in_values(place: Place) -> None:
    place.environ = {"HOST": "10.1.0.7", "PW": "hunter2", "UNIT": "min"}
    config = place.load(
        'state = "redis://:${PW}@h"\n[users]\nexpire = "2 ${UNIT}"\n'
        '[backends]\nmail_servers = ["${HOST}@gold"]\n'
    )
    assert config.state == "redis://:hunter2@h"
    assert config.backends.mail_servers[0].address == "10.1.0.7"
    assert config.users.expire == 120.0


def test_a_variable_that_is_not_set_is_named(place: Place) -> None:
    problem = place.problem('[backends]\nmail_servers = ["${NOBODY_SET_THIS}"]\n')
    assert "NOBODY_SET_THIS is not set in the environment" in problem.expected


@pytest.mark.parametrize("text", ["${", "${}", "${A-B}", "${A B}"])
def test_a_variable_that_is_not_written_right_is_refused(place: Place, text: str) -> None:
    problem = place.problem(f'[users]\nmaster_user_separator = "{text}"\n' + BACKENDS)
    assert "${NAME}" in problem.expected


def test_the_value_of_a_variable_is_not_shown_in_a_problem(place: Place) -> None:
    place.environ = {"PW": "hunter2"}
    assert "hunter2" not in str(place.problem('state = "what:${PW}"\n' + BACKENDS))


def test_a_hash_format_with_an_unknown_variable_is_refused(place: Place) -> None:
    problem = place.problem('[users]\nusername_hash = "%z"\n' + BACKENDS)
    assert problem.key == "users.username_hash"
    assert "%u" in problem.expected


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[users]\nexpire = "10500 ms"\n', "users.expire"),
        ('[ring]\nping_timeout = "1 s"\n', "ring.ping_timeout"),
        ('[ring]\nlease_ttl = "500 ms"\n', "ring.lease_ttl"),
        ("[users]\nmax_parallel_moves = 0\n", "users.max_parallel_moves"),
        ('[dovecot]\nkick = "none of it"\n', "dovecot.kick"),
        ('[dovecot]\nauth_socket = ""\n', "dovecot.auth_socket"),
        ("[listen.login]\nmode = 0o666\n", "listen.login.mode"),
        ('[listen.admin]\ntcp = "10.0.0.1:x"\n', "listen.admin.tcp"),
        ('[http]\nlisten = "nowhere:1:1:1"\n', "http.listen"),
        ('[lookups]\ntimeout = "31 s"\n', "lookups.timeout"),
        ("[lookups.ports]\nlmtp = 0\n", "lookups.ports.lmtp"),
        ("[lookups.ports]\nhttp = 80\n", "lookups.ports.http"),
    ],
)
def test_a_value_out_of_its_limits_is_refused_under_its_key(place: Place, text: str, key: str) -> None:
    assert place.problem(text + BACKENDS).key == key


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("", ""),
        ("unix:flush-%i", "unix:/srv/dovecot/flush-%i"),
        ("unix:/run/flush", "unix:/run/flush"),
        ("tcp:%{ip}:4155", "tcp:%{ip}:4155"),
        ("tcp:[2001:db8::1]:4155", "tcp:[2001:db8::1]:4155"),
        ("exec:/usr/bin/flush --quiet %h", "exec:/usr/bin/flush --quiet %h"),
    ],
)
def test_a_flush_program_may_be_named_in_three_ways(place: Place, written: str, read: str) -> None:
    text = f'{BACKENDS}[dovecot]\nbase_dir = "/srv/dovecot"\n[users]\nflush_socket = "{written}"\n'
    assert place.load(text).users.flush_socket == read


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("flush", '"unix:PATH", "tcp:HOST:PORT" or "exec:/PATH ARGUMENTS"'),
        ("unix:", '"unix:PATH"'),
        ("tcp:mail", '"tcp:HOST:PORT"'),
        ("tcp:mail:0", '"tcp:HOST:PORT"'),
        ("tcp::4155", '"tcp:HOST:PORT"'),
        ("exec:flush", "absolute path"),
        ("unix:flush-%u", "%u is no variable"),
        ("unix:flush-%{ip", "%{ip is no variable"),
        ("unix:flush%", "% is no variable"),
        ("unix:/" + "x" * 107, "107 bytes"),
    ],
)
def test_another_flush_program_is_refused_with_what_would_be_right(
    place: Place, written: str, right: str
) -> None:
    problem = place.problem(f'{BACKENDS}[users]\nflush_socket = "{written}"\n')
    assert (problem.key, problem.value) == ("users.flush_socket", written)
    assert right in problem.expected


def test_a_weight_out_of_its_limits_is_refused(place: Place) -> None:
    assert "0 to 1000" in place.problem(BACKENDS + "weight = 1001\n").expected


def test_a_backend_given_twice_is_refused_with_both_entries(place: Place) -> None:
    problem = place.problem('[backends]\nmail_servers = ["10.1.0.1-10.1.0.3", "10.1.0.2@x"]\n')
    assert problem.key == "backends.mail_servers[1]"
    assert problem.value == "10.1.0.2@x"
    assert "10.1.0.1-10.1.0.3" in problem.expected


def test_a_login_socket_directly_in_the_login_folder_is_refused(place: Place) -> None:
    problem = place.problem('[listen.login]\npath = "login/director"\n' + BACKENDS)
    assert problem.key == "listen.login.path"
    assert "login/director/director" in problem.expected


def test_a_notify_pipe_of_dovecots_master_may_be_directly_in_the_login_folder(place: Place) -> None:
    config = place.load('[listen.notify]\npath = "login/proxy-notify"\n' + BACKENDS)
    assert config.listen.notify.path == "/run/dovecot/login/proxy-notify"


@pytest.mark.parametrize("other", ["director-admin", "../dovecot/director-admin", "auth-login"])
def test_two_sockets_cannot_have_one_path(place: Place, other: str) -> None:
    text = f'[listen.userdb]\npath = "director-admin"\n[listen.admin]\npath = "{other}"\n'
    problem = place.problem(text + BACKENDS)
    assert problem.key == "listen.admin.path"
    assert "already" in problem.expected


def test_listeners_that_are_off_do_not_get_into_each_others_way(place: Place) -> None:
    config = place.load('[listen.userdb]\npath = ""\n[listen.admin]\npath = ""\n' + BACKENDS)
    assert config.listen.userdb.path == config.listen.admin.path == ""


def test_a_path_longer_than_a_socket_can_have_is_refused(place: Place) -> None:
    problem = place.problem(f'[listen.api]\npath = "/run/{"x" * 120}"\n' + BACKENDS)
    assert problem.key == "listen.api.path"
    assert "107 bytes" in problem.expected


def test_the_api_on_another_address_than_loopback_needs_a_token(place: Place) -> None:
    problem = place.problem('[http]\nlisten = "10.0.0.1:9092"\n' + BACKENDS)
    assert problem.key == "http.token_file"
    assert "10.0.0.1:9092 is not a loopback address" in problem.expected


@pytest.mark.parametrize("listen", ["127.0.0.1", "[::1]:9092"])
def test_the_api_on_loopback_needs_no_token(place: Place, listen: str) -> None:
    config = place.load(f'[http]\nlisten = "{listen}"\n' + BACKENDS)
    assert config.http.listen is not None
    assert config.http.listen.port == 9092


def test_look_ups_of_postfix_over_tcp_are_for_this_machine_alone(place: Place) -> None:
    problem = place.problem('[listen.socketmap]\ntcp = "10.0.0.1"\n' + BACKENDS)
    assert problem.key == "listen.socketmap.tcp"
    assert "loopback address, such as 127.0.0.1:9093" in problem.expected
    config = place.load('[listen.socketmap]\ntcp = "127.0.0.1"\npath = "map"\n' + BACKENDS)
    assert str(config.listen.socketmap.tcp) == "127.0.0.1:9093"
    assert config.listen.socketmap.path == "/run/dovecot/map"


def test_a_missing_key_of_look_ups_keeps_its_default(place: Place) -> None:
    lookups = place.load("[lookups]\nnginx = true\n[lookups.ports]\nimap = 10143\n" + BACKENDS).lookups
    assert (lookups.nginx, lookups.http) == (True, False)
    assert lookups.ports == LookupPorts(imap=10143, pop3=110, smtp=587, lmtp=24)


def test_a_token_that_no_header_can_carry_is_refused(place: Place) -> None:
    place.write("token", "two words\n")
    assert "ASCII" in place.problem('[http]\ntoken_file = "token"\n' + BACKENDS).expected


def test_the_configuration_in_force_is_shown_as_toml_without_secrets(place: Place) -> None:
    place.write("token", "s3cret-token\n")
    text = 'state = "redis://:hunter2@h"\n' + RING + BACKENDS + '[http]\ntoken_file = "token"\n'
    shown = show(place.load(text))
    document = tomllib.loads(shown)
    assert "hunter2" not in shown
    assert "s3cret-token" not in shown
    assert document["users"]["expire"] == "15 min"
    assert document["listen"]["login"]["mode"] == "0666"


def test_what_is_shown_can_be_loaded_and_is_the_same_configuration(place: Place) -> None:
    text = 'state = "memory:"\n[ring]\nservers = ["10.0.0.1"]\n[users]\nexpire = "90 s"\n'
    before = place.load(text + '[backends]\nmail_servers = ["10.1.0.1-10.1.0.3@a"]\n')
    assert place.load(show(before)) == before


def test_the_configuration_in_force_shows_the_paths_of_secrets_and_stores(place: Place) -> None:
    place.write("token", "s3cret-token\n")
    text = 'state = "redis://h?password_file=redis.secret&prefix=d:"\nsnapshot = "sqlite:///s.db"\n'
    place.write("redis.secret", "s3cret-redis\n")
    document = tomllib.loads(show(place.load(text + RING + BACKENDS + '[http]\ntoken_file = "token"\n')))
    folder = place.folder
    assert document["ring"]["secret_file"] == f"{folder}/ring.secret"
    assert document["http"]["token_file"] == f"{folder}/token"
    assert document["snapshot"] == f"sqlite:///{folder}/s.db"
    assert document["state"] == f"redis://h?password_file={folder}/redis.secret&prefix=d:"


def test_a_configuration_that_is_shown_has_the_same_secrets_and_store_when_it_is_loaded_elsewhere(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = place.load('state = "sqlite:///state.db"\n' + RING + BACKENDS)
    after = Place(tmp_path_factory.mktemp("elsewhere")).load(show(before))
    assert (after.ring.secret, after.state) == (before.ring.secret, f"sqlite:///{place.folder}/state.db")


def test_a_name_of_a_mail_server_is_shown_beside_its_addresses(place: Place) -> None:
    shown = show(place.load('[backends]\nmail_servers = ["imap.example.com@gold"]\n'))
    assert '"10.2.0.2@gold",  # imap.example.com' in shown


@pytest.mark.parametrize("state", ["redis://h", "unix:///s", "redis+cluster://a,b", "redis+sentinel://a/m"])
def test_beside_a_shared_store_a_snapshot_is_kept_unless_it_is_switched_off(place: Place, state: str) -> None:
    assert place.load(f'state = "{state}"\n' + BACKENDS).snapshot == "sqlite:////var/lib/director/snapshot.db"
    assert place.load(f'state = "{state}"\nsnapshot = ""\n' + BACKENDS).snapshot == ""
    own = place.load(f'state = "{state}"\nsnapshot = "sqlite:///s.db"\n' + BACKENDS)
    assert own.snapshot == "sqlite:///s.db"
    assert own.warnings == ()
    assert place.load(show(own)).snapshot == f"sqlite:///{place.folder}/s.db"


@pytest.mark.parametrize("state", ["sqlite:///state.db", "memory:"])
def test_a_snapshot_of_a_store_that_is_on_this_machine_is_ignored_and_that_is_told(
    place: Place, state: str
) -> None:
    assert place.load(f'state = "{state}"\n' + BACKENDS).snapshot == ""
    config = place.load(f'state = "{state}"\nsnapshot = "sqlite:///s.db"\n' + BACKENDS)
    assert config.snapshot == ""
    (warning,) = config.warnings
    assert "snapshot = 'sqlite:///s.db' is ignored" in warning


@pytest.mark.parametrize("url", ["redis://h", "memory:", "/var/lib/snapshot.db", "sqlite://s.db"])
def test_a_snapshot_is_a_sqlite_file(place: Place, url: str) -> None:
    problem = place.problem(f'state = "redis://h"\nsnapshot = "{url}"\n' + BACKENDS)
    assert problem.key == "snapshot"
    assert "sqlite:////" in problem.expected


def test_a_password_in_a_misplaced_snapshot_is_not_told(place: Place) -> None:
    text = 'state = "redis://h"\nsnapshot = "redis://:hunter2@h"\n'
    assert "hunter2" not in str(place.problem(text + BACKENDS))
    warnings = place.load(text.replace("redis://h", "memory:", 1) + BACKENDS).warnings
    assert "hunter2" not in "".join(warnings)


def test_the_example_loads_and_states_the_defaults(place: Place) -> None:
    config = place.load(EXAMPLE.read_text("utf-8"))
    assert config == msgspec.structs.replace(place.load(BACKENDS), backends=config.backends)
    assert config.backends.weight == BackendsConfig().weight


def test_the_example_names_every_key_there_is(place: Place) -> None:
    text = EXAMPLE.read_text("utf-8")
    keys = set(keys_of(tomllib.loads(show(place.load(BACKENDS)))))
    assert [key for key in sorted(keys) if f"{key} =" not in text] == []


def keys_of(table: dict[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        yield from keys_of(value) if isinstance(value, dict) else [key]


def test_the_environment_of_the_process_is_not_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRECTOR_TEST_HOST", "10.1.0.1")
    assert os.environ["DIRECTOR_TEST_HOST"] == "10.1.0.1"
    problem = place.problems('[backends]\nmail_servers = ["${DIRECTOR_TEST_HOST}"]\n')[
        "backends.mail_servers"
    ]
    assert "is not set" in problem.expected


def test_which_entries_of_the_ring_are_names_is_kept(place: Place) -> None:
    text = RING.replace('"10.0.0.2"', '"10.0.0.2", "d3.example.com:9191"')
    place.names["d3.example.com"] = ["10.0.0.3"]
    d3 = Endpoint(Address("10.0.0.3"), 9191)
    ring = place.load(text + BACKENDS).ring
    assert ring.servers[2] == d3
    assert ring.names == (("d3.example.com:9191", d3),)


NAMED = (
    RING.replace('"10.0.0.2"', '"10.0.0.2", "d3"') + '[backends]\nmail_servers = ["10.1.0.1", "b2@gold"]\n'
)


class Unresolved(socket.gaierror):
    """The error of the resolver for a name without an address."""

    def __init__(self) -> None:
        super().__init__(socket.EAI_NONAME, "Name or service not known")


def resolver(table: dict[str, list[str]]) -> Callable[[str], list[str]]:
    def resolve(name: str) -> list[str]:
        if name not in table:
            raise Unresolved
        return table[name]

    return resolve


def test_names_without_an_address_do_not_prevent_a_start_and_are_reported(place: Place) -> None:
    place.file.write_text(NAMED)
    config = load(place.file, {}, resolve=resolver({}), local=lambda address: address == "10.0.0.1")
    assert [server.address for server in config.ring.servers] == ["10.0.0.1", "10.0.0.2"]
    assert config.ring.names == (("d3", None),)
    assert [setting.address for setting in config.backends.mail_servers] == ["10.1.0.1"]
    assert config.backends.unresolved == (BackendSetting(Address(""), "b2", "gold", 100),)
    assert [str(one) for one in config.unresolved] == [
        'ring.servers[2] = "d3": d3 cannot be resolved (Name or service not known)',
        'backends.mail_servers[1] = "b2@gold": b2 cannot be resolved (Name or service not known)',
    ]


def test_the_own_name_is_waited_for_and_no_other(place: Place) -> None:
    place.file.write_text(NAMED.replace('"10.0.0.1"', '"d1"'))
    answers = iter([{}, {}, {"d1": ["10.0.0.1"]}])
    asked: list[str] = []

    def resolve(name: str) -> list[str]:
        asked.append(name)
        if asked.count("d1") > 3:
            raise AssertionError("it is known by now")
        table = next(answers) if name == "d1" else {}
        return resolver(table)(name)

    said: list[str] = []
    config = load(
        place.file,
        {},
        resolve=resolve,
        local=lambda address: address == "10.0.0.1",
        own_within=20.0,
        own_awaited=said.append,
    )
    assert config.ring.listen == Endpoint(Address("10.0.0.1"), 9090)
    assert len(said) == 1
    assert "not resolved: d1, d3" in said[0]


def test_an_own_name_that_does_not_come_is_an_error_that_names_all_that_may_be_it(place: Place) -> None:
    place.file.write_text(NAMED.replace('"10.0.0.1"', '"d1"'))
    with pytest.raises(ConfigErrors) as caught:
        load(place.file, {}, resolve=resolver({}), local=lambda address: address == "10.0.0.1")
    (problem,) = caught.value.problems
    assert problem.key == "ring.listen"
    assert "not resolved: d1, d3" in problem.expected


def test_what_can_never_be_a_name_is_an_error(place: Place) -> None:
    text = NAMED.replace('"b2@gold"', '"b 2"').replace('"d3"', '"d_/3"')
    assert list(place.problems(text)) == ["ring.servers[2]", "backends.mail_servers[1]"]


def test_the_api_may_listen_on_all_addresses_with_a_token(place: Place) -> None:
    place.write("token", "0123456789abcdef\n")
    text = RING + BACKENDS + '[http]\nlisten = "0.0.0.0:9092"\n'
    assert place.problem(text).key == "http.token_file"
    http = place.load(text + 'token_file = "token"\n').http
    assert str(http.listen) == "0.0.0.0:9092"


FOREIGN = """
state = "redis://nowhere.invalid"
[ring]
servers = ["192.0.2.1", "192.0.2.2"]
secret_file = "/nonexistent/secret"
[listen.admin]
path = "login/wrong"
tcp = "nowhere.invalid:9091"
[http]
listen = "0.0.0.0:9092"
"""


def test_a_keeper_needs_neither_secrets_nor_the_own_address_of_its_director(tmp_path: Path) -> None:
    file = tmp_path / "director.toml"
    file.write_text(FOREIGN + '[dovecot]\nbase_dir = "/run/d"\n[listen.userdb]\npath = ""\n')
    config = load_for_keeper(file, {})
    assert config.listen.login.path == "/run/d/login/director/login"
    assert config.listen.userdb.path == ""
    with pytest.raises(ConfigErrors):
        load(file, {})


def test_a_keeper_is_told_what_is_wrong_with_its_own_listeners(tmp_path: Path) -> None:
    file = tmp_path / "director.toml"
    file.write_text('[listen.login]\npath = "login/login"\nmode = "9"\n')
    with pytest.raises(ConfigErrors, match=r"listen.login"):
        load_for_keeper(file, {})
