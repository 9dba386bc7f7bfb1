"""Migration from Dovecot 2.3's own director and back, and from 2.3 to 2.4: every user keeps the host."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import msgspec
import pytest

from director.demo.clients import Imap, login_imap
from director.demo.cluster import Cluster
from director.demo.dovecot import Backend, Dovecot, Proxy
from director.demo.ports import USUAL
from director.demo.process import ServeProcess
from director.net import keeperlink
from tests.e2e.conftest import dovecot, new_folder
from tests.e2e.processes import until
from tests.needs import needs_root

PROXY, BACKENDS = "127.0.91.11", [f"127.0.92.{number}" for number in range(1, 5)]
GOLD = "127.0.92.9"
USERS = [f"User{number}@example.{'com' if number % 2 else 'org'}" for number in range(400)]
BEFORE = """
base_dir = {run}
state_dir = {run}
instance_name = {name}
listen = {address}
log_path = {log}
protocols = imap
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain
stats_writer_socket_path =
lmtp_proxy = yes
director_servers = {address}
director_mail_servers = {servers}
director_user_expire = 20 mins
director_username_hash = %Ln
director_max_parallel_moves = 50
passdb {{
  driver = static
  args = proxy=y nopassword=y
}}
service director {{
  unix_listener login/director {{
    mode = 0666
  }}
  fifo_listener login/proxy-notify {{
    mode = 0666
  }}
  unix_listener director-userdb {{
    mode = 0600
  }}
  inet_listener {{
    address = {address}
    port = 9090
  }}
  inet_listener net-doveadm {{
    address = {address}
    port = 9091
  }}
}}
service ipc {{
  unix_listener ipc {{
    user = dovecot
  }}
}}
service imap-login {{
  executable = imap-login director
  inet_listener imap {{
    port = 143
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
protocol lmtp {{
  auth_socket_path = director-userdb
}}
protocol doveadm {{
  auth_socket_path = director-userdb
}}
"""


class Old(Dovecot):
    """The proxy as it was. `extra` are the settings with which it asks this project's director."""

    def settings(self) -> str:
        servers = f"{BACKENDS[0]}-{BACKENDS[-1]} {GOLD}@gold"
        return BEFORE.format(**self._facts()._asdict(), servers=servers)

    @property
    def listening(self) -> list[int]:
        return [143]


def hosts(proxy: Dovecot, users: Sequence[str]) -> dict[str, str]:
    """Return the host of each user, asked as LMTP does."""
    found: dict[str, str] = {}
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(proxy.run / "director-userdb"))
        stream = client.makefile("rwb")
        stream.write(b"VERSION\t1\t0\n")
        for number, user in enumerate(users):
            stream.write(f"PASS\t{number}\t{user}\tservice=lmtp\n".encode())
        stream.flush()
        while len(found) < len(users):
            command, _, rest = stream.readline().decode().rstrip("\n").partition("\t")
            if command == "PASS":
                number, *fields = rest.split("\t")
                found[users[int(number)]] = next(x[5:] for x in fields if x.startswith("host="))
            else:
                assert command in ("VERSION", "SPID"), (command, rest)
        stream.close()
    return found


def imports(director: ServeProcess, proxy: Old, *options: str) -> dict[str, str]:
    """Return the parts of the output of `director config import` for the proxy's configuration."""
    printed = subprocess.run(
        ["doveconf", "-n", "-c", proxy.config], capture_output=True, text=True, check=True
    ).stdout
    file = director.folder / "doveconf.txt"
    file.write_text(printed)
    result = director.command("config", "import", str(file), "--json", *options)
    assert (result.returncode, result.stderr) == (0, "")
    document: dict[str, str] = msgspec.json.decode(result.stdout)
    return document


@pytest.fixture(scope="module")
def backends() -> Iterator[list[Backend]]:
    needs_root("Dovecot's own director, on the usual ports")
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder())
        programs = dovecot("2.3")
        yield [
            stack.enter_context(
                Backend(folder / f"b{n}", f"b{n}", address, programs=programs, protocols=("imap",))
            )
            for n, address in enumerate(BACKENDS, 1)
        ]


def test_every_user_keeps_the_host_when_dovecots_director_is_replaced_and_when_it_comes_back(
    backends: list[Backend],
) -> None:
    with new_folder() as folder:
        proxy = Old(folder / "p", "p", PROXY)
        director = ServeProcess(folder / "d", f"{PROXY}:{USUAL.ring}", proxy.run)
        director.folder.mkdir()
        names = {address: backend.name for address, backend in zip(BACKENDS, backends, strict=True)}
        with proxy:
            before = hosts(proxy, USERS)
            taken = imports(director, proxy)
        assert set(before.values()) == set(BACKENDS)

        toml = taken["toml"].replace("sqlite:////var/lib/director/", "sqlite:///")
        director.config.write_text(f'{toml}\n[listen.api]\npath = "{director.api_path}"\n')
        proxy.extra = taken["dovecot"]
        check = director.command("serve", "--check")
        assert (check.returncode, check.stderr) == (0, "")
        assert tomllib.loads(toml)["users"]["username_hash"] == "%Ln"

        director.start()
        try:
            director.wait_ready()
            with proxy:
                assert hosts(proxy, USERS) == before
                logins = {user: login_imap(PROXY, 143, user) for user in USERS[:8]}
                assert logins == {user: names[before[user]] for user in USERS[:8]}
                stock = subprocess.run(
                    ["doveadm", "director", "status", "-a", f"{PROXY}:9091"], capture_output=True, text=True
                )
                assert stock.stdout.split()[-6:-3] == [GOLD, "gold", "100"], stock
        finally:
            director.stop()

        keeper = keeperlink.status(str(proxy.run / "director-keeper")).process
        os.kill(keeper, signal.SIGTERM)  # Dovecot's own director listens at the userdb socket, too
        until(lambda: not (proxy.run / "director-userdb").exists())
        proxy.extra = ""
        # this project has a folder at the path of a socket of Dovecot's own director
        shutil.rmtree(proxy.run / "login/director")
        with proxy:
            assert until(lambda: hosts(proxy, USERS)) == before
            assert {user: login_imap(PROXY, 143, user) for user in USERS[:8]} == logins


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two directors, each with a proxy of Dovecot 2.3."""
    needs_root("Dovecot 2.4 in its own root")
    dovecot("2.3")
    with new_folder(dovecot("2.4")) as folder:
        made = Cluster(
            folder / "c", directors=2, backends=2, first_proxy="127.0.93.11", first_backend="127.0.93.21"
        )
        with made:
            yield made


def test_a_proxy_is_upgraded_to_2_4_while_the_ring_stays(cluster: Cluster) -> None:
    users = [f"user{number}" for number in range(8)]
    (first, second), old = cluster.proxy_addresses, cluster.proxies[1]
    before = {user: login_imap(second, 143, user) for user in users}

    old.stop()
    cluster.directors[1].stop()
    shutil.rmtree(old.run)  # /run of a machine that is installed anew
    cluster.proxies[1] = Proxy(old.folder, old.name, old.address, programs=dovecot("2.4"))
    cluster.proxies[1].write()
    cluster.directors[1].start()
    cluster.directors[1].wait_ready()
    cluster.proxies[1].start()

    assert {user: login_imap(first, 143, user) for user in users} == before
    assert {user: login_imap(second, 143, user) for user in users} == before
    with Imap(first, 143) as at_old, Imap(second, 143) as at_new:
        for session in (at_old, at_new):
            session.login(users[0], "any")
            assert session.served_by() == before[users[0]]
        target = next(b for b in cluster.backends if b.name != before[users[0]])
        moved = cluster.directors[0].command("move", users[0], target.address)
        assert moved.stdout.endswith(", 2 sessions ended\n"), moved
        for session in (at_old, at_new):
            with pytest.raises(OSError, match=r"closed|reset"):
                session.served_by()
    assert {login_imap(where, 143, users[0]) for where in (first, second)} == {target.name}
