"""`director_proxy_maybe`: proxy and backend are one Dovecot, on two servers, each with its director."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from director.core.placement.hashing import UserHash
from director.demo.clients import Imap, Refused, login_imap
from director.demo.dovecot import Programs, Proxy
from director.demo.ports import USUAL, Ports, addresses, free_ports
from director.demo.process import ServeProcess
from director.demo.settings import Rule
from tests.e2e.conftest import new_folder
from tests.e2e.mailclients import deliver_lmtp, login_pop3
from tests.e2e.processes import SECRET, until

ADDRESSES = addresses("127.0.80.1", 2)
PASSWORD = "secret"
EXPIRE = 900


class Server(NamedTuple):
    dovecot: Proxy
    director: ServeProcess

    @property
    def name(self) -> str:
        return self.dovecot.name

    def imap(self, user: str) -> str:
        """Log in, and return the name of the server that serves the session."""
        return login_imap(self.dovecot.address, self.dovecot.ports.imap, user, PASSWORD)

    def proxied(self, user: str) -> bool:
        """Whether this server has proxied a session of the user."""
        return f"proxy({user}," in self.dovecot.log()


def rule(programs: Programs, address: str, ports: Ports) -> Rule:
    """Return the passdb of a server: the fields for a proxied user, and the server's own address."""
    old = programs.release == "2.3"
    fields = {"director_proxy_maybe": "y", "pass": "%w" if old else "%{password}", "lip": address}
    if not old:  # the director ends sessions by this field; 2.3 has none for local sessions
        fields["userdb_user_dirkey"] = f"%{{user | lower | md5 | hexlify | substr(0, 8) | unhex}}@{address}"
    if ports != USUAL:
        for_2_3 = f"{{if;%s;eq;doveadm;{ports.doveadm};%a}}"
        for_2_4 = f"{{protocol | if('=', 'doveadm', '{ports.doveadm}', local_port)}}"
        fields["port"] = f"%{for_2_3 if old else for_2_4}"
    return Rule(password=PASSWORD, proxy=False, fields=fields)


@pytest.fixture(scope="module")
def servers(programs: Programs) -> Iterator[list[Server]]:
    ports = free_ports(ADDRESSES, ADDRESSES)
    with new_folder(programs) as folder, ExitStack() as stack:
        secret = folder / "ring.secret"
        secret.touch(0o600)
        secret.write_text(SECRET)
        servers = []
        for number, address in enumerate(ADDRESSES, 1):
            passdb = [rule(programs, address, ports)]
            dovecot = Proxy(
                folder / f"s{number}", f"s{number}", address, ports, passdb=passdb, programs=programs
            )
            director = ServeProcess(folder / f"d{number}", f"{address}:{ports.ring}", dovecot.run)
            dovecot.write()
            director.write(
                state="memory:",
                servers=[f"{member}:{ports.ring}" for member in ADDRESSES],
                secret=secret,
                backends=["-".join(ADDRESSES)],
                settings={"users": f'expire = "{EXPIRE} s"'},
            )
            servers.append(Server(dovecot, director))
            director.start()
            stack.callback(director.stop)
        for server in servers:
            server.director.wait_ready()
            stack.enter_context(server.dovecot)
        yield servers


def assigned_to_first(servers: list[Server], prefix: str) -> tuple[str, Server, Server]:
    """Return a user, the server to which the user is assigned, and the other server."""
    for user in (f"{prefix}{number}" for number in range(50)):
        if servers[0].director.get(f"/v1/users/{user}")["hashed"] == ADDRESSES[0]:
            return user, servers[0], servers[1]
    raise AssertionError("the hash selects the first server for no user")


def test_a_user_is_logged_in_on_the_assigned_server_and_proxied_from_the_other(servers: list[Server]) -> None:
    user, assigned, other = assigned_to_first(servers, "ida")
    assert assigned.imap(user) == assigned.name
    until(lambda: assigned.dovecot.users("imap").count(user) == 1)
    assert not assigned.proxied(user)
    assert other.imap(user) == assigned.name
    until(lambda: other.proxied(user))  # Dovecot logs it when the session has ended
    until(lambda: assigned.dovecot.users("imap").count(user) == 2)
    assert not assigned.proxied(user)


def test_every_user_is_on_one_server_for_connections_to_either(servers: list[Server]) -> None:
    users = [f"everywhere{number}" for number in range(12)]
    seen = {user: {server.imap(user) for server in servers} for user in users}
    assert [user for user, names in seen.items() if len(names) != 1] == []
    assert len({name for names in seen.values() for name in names}) == 2


def test_pop3_logs_in_on_the_assigned_server_and_is_proxied_from_the_other(servers: list[Server]) -> None:
    user, assigned, other = assigned_to_first(servers, "paul")
    for server in (assigned, other):
        login_pop3(server.dovecot.address, server.dovecot.ports.pop3, user, PASSWORD)
    until(lambda: other.proxied(user))
    until(lambda: assigned.dovecot.users("pop3").count(user) == 2)
    assert not assigned.proxied(user)


def test_a_wrong_password_is_refused_in_dovecots_words(servers: list[Server]) -> None:
    user, assigned, other = assigned_to_first(servers, "willi")
    for server in (assigned, other):
        with pytest.raises(Refused, match=r"AUTHENTICATIONFAILED"):
            login_imap(server.dovecot.address, server.dovecot.ports.imap, user, "wrong")


def test_mail_to_either_server_is_delivered_on_the_assigned_server(servers: list[Server]) -> None:
    user, assigned, other = assigned_to_first(servers, "lena")
    for server in (assigned, other):
        reply = deliver_lmtp(server.dovecot.address, server.dovecot.ports.lmtp, user, f"by {server.name}")
        assert reply.startswith("250")
    with Imap(assigned.dovecot.address, assigned.dovecot.ports.imap) as session:
        session.login(user, PASSWORD)
        session.command("EXAMINE INBOX")
        mail = b"\n".join(session.command("FETCH 1:* BODY[HEADER.FIELDS (SUBJECT)]"))
    assert f"by {assigned.name}".encode() in mail
    assert f"by {other.name}".encode() in mail


def test_doveadm_works_on_the_mail_of_either_server(servers: list[Server]) -> None:
    user, assigned, other = assigned_to_first(servers, "dora")
    for server in (assigned, other):
        listing = server.dovecot.doveadm("mailbox", "list", "-u", user)
        assert (listing.returncode, listing.stderr) == (0, "")
        assert f"served by {assigned.name}" in listing.stdout


def test_auth_does_not_keep_the_requests_of_users_who_were_proxied(servers: list[Server]) -> None:
    """auth kept such requests for a local service, and logged each when the login process ended."""
    user, _assigned, other = assigned_to_first(servers, "paula")
    other.imap(user)
    ended = other.dovecot.processes("imap-login")
    assert ended
    for process in ended:
        os.kill(process, signal.SIGTERM)
    until(lambda: not set(ended) & set(other.dovecot.processes("imap-login")), within=20)
    before = other.dovecot.log().count(f"proxy({user},")
    other.imap(user)
    until(lambda: other.dovecot.log().count(f"proxy({user},") > before)
    assert "pending requests" not in other.dovecot.log()


@pytest.mark.parametrize("programs", ["2.4"], indirect=True)
def test_a_local_session_has_the_key_by_which_directors_end_sessions(servers: list[Server]) -> None:
    user, assigned, other = assigned_to_first(servers, "kurt")
    hash32 = UserHash().hash(user.encode())
    with Imap(assigned.dovecot.address, assigned.dovecot.ports.imap) as session:
        session.login(user, PASSWORD)
        assigned.dovecot.doveadm("kick", "-f", "user_dirkey", f"{hash32}@{other.dovecot.address}")
        assert session.served_by() == assigned.name
        assigned.dovecot.doveadm("kick", "-f", "user_dirkey", f"{hash32}@{assigned.dovecot.address}")
        with pytest.raises(ConnectionError):
            session.command("NOOP")


def test_local_sessions_keep_assignments_if_a_cron_job_reports_them(servers: list[Server]) -> None:
    """Only proxied sessions are reported by login processes. This is the cron line of docs/dovecot.md."""
    user, assigned, _other = assigned_to_first(servers, "karla")

    def expires() -> int:
        found: int = assigned.director.get(f"/v1/users/{user}")["expires"]
        return found

    with Imap(assigned.dovecot.address, assigned.dovecot.ports.imap) as session:
        session.login(user, PASSWORD)
        at_first = expires()
        until(lambda: time.time() + EXPIRE > at_first + 1)  # whole seconds are kept
        listed = assigned.dovecot.doveadm("-f", "tab", "who", "-1").stdout.splitlines()
        names = sorted({line.split("\t")[0] for line in listed[1:]})
        assert user in names
        with (assigned.dovecot.run / "login/director/proxy-notify").open("w") as fifo:
            fifo.write("".join(f"{name}\n" for name in names))
        until(lambda: expires() > at_first)


@pytest.mark.parametrize("programs", ["2.4"], indirect=True)
def test_a_move_ends_local_sessions_too(servers: list[Server]) -> None:
    user, assigned, other = assigned_to_first(servers, "moritz")
    with (
        Imap(assigned.dovecot.address, assigned.dovecot.ports.imap) as local,
        Imap(other.dovecot.address, other.dovecot.ports.imap) as proxied,
    ):
        for session in (local, proxied):
            session.login(user, PASSWORD)
            assert session.served_by() == assigned.name
        moved = assigned.director.command("move", user, other.dovecot.address)
        assert moved.returncode == 0, moved.stderr
        for session in (local, proxied):
            with pytest.raises(ConnectionError):
                session.command("NOOP")
    assert assigned.imap(user) == other.imap(user) == other.name


@pytest.mark.parametrize("programs", ["2.4"], indirect=True)
def test_a_kick_by_name_ends_local_sessions_too(servers: list[Server]) -> None:
    user, assigned, other = assigned_to_first(servers, "merle")
    with (
        Imap(assigned.dovecot.address, assigned.dovecot.ports.imap) as local,
        Imap(other.dovecot.address, other.dovecot.ports.imap) as proxied,
    ):
        for session in (local, proxied):
            session.login(user, PASSWORD)
        kicked = other.director.command("kick", user)
        # A proxied session has a second session on the assigned server, which may end with it before it is
        # kicked.
        assert kicked.returncode == 0
        assert kicked.stdout in (f"{user}: {count} sessions ended\n" for count in (2, 3))
        for session in (local, proxied):
            with pytest.raises(ConnectionError):
                session.command("NOOP")
