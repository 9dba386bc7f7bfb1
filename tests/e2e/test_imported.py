"""Configurations of Dovecot's own director in uncommon forms, imported and run for real."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec
import pytest

from director.demo.clients import login_imap
from director.demo.dovecot import Backend, Dovecot, Proxy
from director.demo.ports import USUAL
from director.demo.process import ServeProcess
from tests.e2e.conftest import dovecot, new_folder
from tests.e2e.mailclients import deliver_lmtp
from tests.e2e.processes import until
from tests.e2e.test_takeover import Old, hosts, imports
from tests.needs import needs_root

PROXY, BACKENDS = "127.0.94.11", [f"127.0.95.{number}" for number in (1, 2)]
INTERNAL = 1143
NAMES = [f"user{number}" for number in range(100)]
MASTERS = [f"{name}*master" for name in NAMES]
IN_OTHER_WORDS = """
master_user_separator = *
auth_username_chars =
auth_socket_path = {run}/director-userdb
service imap-login-internal {{
  executable = imap-login -D /director
  type = login
  chroot = login
  user = dovenull
  inet_listener internal {{
    port = {internal}
  }}
}}
"""
FOR_2_4 = """# 2.3.19.1 (9b53102964): /etc/dovecot/dovecot.conf
base_dir = {base}
director_servers = {proxy}
director_mail_servers = {backends}
lmtp_proxy = yes
protocols = imap lmtp
service director {{
  inet_listener {{
    address = {proxy}
    port = 9090
  }}
  unix_listener director-userdb {{
    mode = 0600
  }}
  unix_listener login/director {{
    mode = 0666
  }}
}}
service imap-login {{
  executable = imap-login director
}}
auth_socket_path = {socket}
"""


class OldInOtherWords(Old):
    """The proxy as it was, with settings in other forms than the manual's."""

    def settings(self) -> str:
        text = super().settings()
        for protocol in ("lmtp", "doveadm"):
            text = text.replace(f"protocol {protocol} {{\n  auth_socket_path = director-userdb\n}}\n", "")
        more = IN_OTHER_WORDS.format(run=self.run, internal=INTERNAL)
        return text.replace("127.0.92.1-127.0.92.4 127.0.92.9@gold", " ".join(BACKENDS)) + more

    @property
    def listening(self) -> list[int]:
        return [143, INTERNAL]


@contextmanager
def serving(director: ServeProcess, proxy: Dovecot, toml: str) -> Iterator[None]:
    """Run a director with an imported configuration, and the proxy in front of it."""
    text = toml.replace("sqlite:////var/lib/director/", "sqlite:///")
    director.config.write_text(f'{text}\n[listen.api]\npath = "{director.api_path}"\n')
    proxy.write()
    director.start()
    try:
        director.wait_ready()
        with proxy:
            yield
    finally:
        director.stop()


def login_socket_findings(director: ServeProcess, proxy: Dovecot) -> list[str]:
    """Return the doctor's findings about login services and their sockets, for the proxy's present
    configuration."""
    proxy.write()
    printed = subprocess.run(["doveconf", "-n", "-c", proxy.config], capture_output=True, check=True).stdout
    file = director.folder / "printed.txt"
    file.write_bytes(printed)
    findings = msgspec.json.decode(director.command("doctor", "--json", "--doveconf", str(file)).stdout)
    return [
        finding["found"]
        for finding in findings["findings"]
        if finding["check"] == "login_socket" and finding["level"] == "fault"
    ]


def test_master_users_and_login_services_of_other_names_stay_behind_the_director() -> None:
    needs_root("Dovecot's own director, on the usual ports")
    programs = dovecot("2.3")
    with new_folder() as folder, ExitStack() as stack:
        names = {
            address: stack.enter_context(
                Backend(folder / f"b{n}", f"b{n}", address, programs=programs, protocols=("imap",))
            ).name
            for n, address in enumerate(BACKENDS, 1)
        }
        proxy = OldInOtherWords(folder / "p", "p", PROXY)
        director = ServeProcess(folder / "d", f"{PROXY}:{USUAL.ring}", proxy.run)
        director.folder.mkdir()
        with proxy:
            before = hosts(proxy, [*NAMES, *MASTERS])
            served = {port: login_imap(PROXY, port, NAMES[0]) for port in (143, INTERNAL)}
            taken = imports(director, proxy)
        assert [before[name] for name in MASTERS] == [before[name] for name in NAMES]
        assert served == dict.fromkeys((143, INTERNAL), names[before[NAMES[0]]])

        proxy.extra = taken["dovecot"]
        with serving(director, proxy, taken["toml"]):
            assert hosts(proxy, [*NAMES, *MASTERS]) == before
            assert {port: login_imap(PROXY, port, NAMES[0]) for port in (143, INTERNAL)} == served
            assert login_socket_findings(director, proxy) == []
            proxy.extra = ""
            assert login_socket_findings(director, proxy) == [
                "imap-login: executable = imap-login director",
                "imap-login-internal: executable = imap-login -D /director",
            ]


@pytest.mark.parametrize("absolute", [False, True])
def test_lmtp_and_doveadm_of_2_4_ask_the_director_if_all_services_of_2_3_did(absolute: bool) -> None:
    needs_root("Dovecot 2.4 in its own root")
    programs = dovecot("2.4")
    with new_folder(programs) as folder, ExitStack() as stack:
        backends = [
            stack.enter_context(
                Backend(folder / f"b{n}", f"b{n}", address, programs=programs, protocols=("imap", "lmtp"))
            )
            for n, address in enumerate(BACKENDS, 1)
        ]
        proxy = Proxy(folder / "p", "p", PROXY, programs=programs, protocols=("imap", "lmtp"), director=False)
        director = ServeProcess(folder / "d", f"{PROXY}:{USUAL.ring}", proxy.run)
        director.folder.mkdir()
        file = director.folder / "doveconf.txt"
        socket = f"{proxy.run}/director-userdb" if absolute else "director-userdb"
        file.write_text(
            FOR_2_4.format(base=proxy.run, proxy=PROXY, backends=" ".join(BACKENDS), socket=socket)
        )
        result = director.command("config", "import", "--json", "--dovecot", "2.4", str(file))
        taken = msgspec.json.decode(result.stdout)

        proxy.extra = taken["dovecot"]
        with serving(director, proxy, taken["toml"]):
            users = NAMES[:8]
            for user in users:
                deliver_lmtp(PROXY, 24, user, "hello")
            until(lambda: sum(len(backend.users("lmtp")) for backend in backends) >= len(users))
            delivered = {backend.name: set(backend.users("lmtp")) for backend in backends}
            assert set().union(*delivered.values()) == set(users)
            assert all(delivered.values())
            for name, assigned in delivered.items():
                for user in assigned:
                    assert login_imap(PROXY, 143, user) == name
                    command = programs.command(
                        "doveadm", "-c", str(programs.inside(proxy.config)), "mailbox", "list", "-u", user
                    )
                    listed = subprocess.run(command, capture_output=True, text=True)
                    assert f"served by {name}\n" in listed.stdout, listed
