"""nginx and Postfix ask the director for a user's host, and get the same host as a login."""

from __future__ import annotations

import smtplib
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from director.demo.clients import Imap, Refused, login_imap
from director.demo.dovecot import Backend, find_program
from director.demo.ports import Ports, addresses, free_ports, is_listening
from tests.e2e.conftest import dovecot, new_folder
from tests.e2e.mailclients import Pop3, backends_of
from tests.e2e.postfix import make_configuration, postfix
from tests.e2e.processes import DirectorProcess, until
from tests.needs import needs
from tests.servers import free_port

HOST = "127.0.84.1"
BACKENDS = addresses("127.0.84.21", 2)
SECRET = "nobody-may-read-this"
MODULE = "/usr/lib/nginx/modules/ngx_mail_module.so"
NGINX = """load_module {module};
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log error;
events {{ worker_connections 64; }}
mail {{
  auth_http {auth_http};
  auth_http_timeout 20s;
  proxy_pass_error_message on;
  server {{ listen {host}:{imap}; protocol imap; }}
  server {{ listen {host}:{pop3}; protocol pop3; }}
}}
"""


class Place(NamedTuple):
    """A director that answers look-ups, and its backends."""

    folder: Path
    director: DirectorProcess
    backends: list[Backend]
    http: str
    socketmap: str
    queue: Path
    """The folder of Postfix, which contains the socket `map`."""

    def served_by(self, user: str) -> str:
        """Return the name of the backend to which a user is assigned."""
        address = self.director.get(f"/v1/users/{user}")["current"]
        return next(backend.name for backend in self.backends if backend.address == address)

    def other(self, name: str) -> Backend:
        return next(backend for backend in self.backends if backend.name != name)

    def move(self, user: str, backend: Backend) -> None:
        self.director.change("POST", "/v1/moves", {"user": user, "host": backend.address, "reason": "a test"})

    def lookups(self, protocol: str) -> dict[str, int]:
        """Return how often each result was given, from the metrics."""
        page = self.director.request("GET", "/metrics")[1].decode()
        start = f'director_lookups_total{{protocol="{protocol}",result="'
        found = (line.removeprefix(start) for line in page.splitlines() if line.startswith(start))
        return {line.partition('"')[0]: int(float(line.rpartition(" ")[2])) for line in found}


@pytest.fixture(scope="module")
def ports() -> Ports:
    needs("dovecot", "doveadm")
    return free_ports([HOST, *BACKENDS], [])


@pytest.fixture(scope="module")
def place(ports: Ports) -> Iterator[Place]:
    http, socketmap = f"{HOST}:{free_port()}", f"{HOST}:{free_port()}"
    with new_folder() as folder, ExitStack() as stack:
        queue = folder / "queue"
        queue.mkdir()
        backends = [
            stack.enter_context(Backend(folder / f"b{n}", f"b{n}", address, ports, programs=dovecot("2.3")))
            for n, address in enumerate(BACKENDS, 1)
        ]
        settings = {
            "lookups": 'nginx = true\ntimeout = "1 s"',
            "lookups.ports": f"imap = {ports.imap}\npop3 = {ports.pop3}\nlmtp = {ports.lmtp}",
            "http": f'listen = "{http}"',
            "listen.socketmap": f'path = "{queue}/map"\nmode = "0666"\ntcp = "{socketmap}"',
            "users": 'kick_delay = "10 ms"',
        }
        director = DirectorProcess(
            folder / "d", HOST, free_port(), [], backends=["-".join(BACKENDS)], settings=settings
        )
        stack.callback(director.close)
        director.start().wait_ready()
        yield Place(folder, director, backends, http, socketmap, queue)


class Nginx(NamedTuple):
    imap: int
    pop3: int
    folder: Path


@contextmanager
def nginx(folder: Path, auth_http: str) -> Iterator[Nginx]:
    """Run nginx as a mail proxy."""
    needs("nginx", MODULE)
    folder.mkdir()
    config = folder / "nginx.conf"
    imap, pop3 = free_port(), free_port()
    values = {"module": MODULE, "folder": folder, "auth_http": auth_http, "host": HOST}
    config.write_text(NGINX.format(**values, imap=imap, pop3=pop3))
    command = [find_program("nginx"), "-p", str(folder), "-c", str(config)]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        until(
            lambda: all(is_listening(HOST, port) for port in (imap, pop3)) or process.poll() is not None,
            within=20,
        )
        assert process.poll() is None, (folder / "output").read_text()
        yield Nginx(imap, pop3, folder)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module", params=["tcp", "unix"])
def proxy(request: pytest.FixtureRequest, place: Place) -> Iterator[Nginx]:
    """nginx that asks over TCP, or over the socket of the API."""
    where = place.http if request.param == "tcp" else f"unix:{place.director.api_path}:"
    with nginx(place.folder / f"nginx-{request.param}", f"{where}/v1/auth_http") as proxy:
        yield proxy


def test_nginx_proxies_every_protocol_to_the_host_that_the_director_names(
    place: Place, proxy: Nginx, ports: Ports
) -> None:
    for user in ("ann", "bob", "carl@example.com"):
        backend = login_imap(HOST, proxy.imap, user, SECRET)
        with Pop3(HOST, proxy.pop3) as session:
            session.login(user, SECRET)
        assert backends_of(place.backends, "pop3", user) == [backend]
        assert place.served_by(user) == backend


def test_nginx_proxies_a_moved_user_to_the_new_host(place: Place, proxy: Nginx) -> None:
    user = f"moved-{proxy.imap}"
    before = login_imap(HOST, proxy.imap, user, SECRET)
    place.move(user, place.other(before))
    assert login_imap(HOST, proxy.imap, user, SECRET) == place.other(before).name


def test_the_backend_decides_about_a_password_in_its_own_words(proxy: Nginx) -> None:
    with Imap(HOST, proxy.imap) as session, pytest.raises(Refused) as refusal:
        session.login("a%name%that%dovecot%forbids", SECRET)
    assert refusal.value.reply == "a NO [AUTHENTICATIONFAILED] Authentication failed."


def test_a_user_without_a_host_gets_a_temporary_failure_and_no_password_is_logged(
    place: Place, proxy: Nginx
) -> None:
    for backend in place.backends:
        place.director.change("PATCH", f"/v1/hosts/{backend.address}", {"up": False, "reason": "a test"})
    try:
        with Imap(HOST, proxy.imap) as session, pytest.raises(Refused) as refusal:
            session.login(f"nowhere-{proxy.imap}", SECRET)
    finally:
        for backend in place.backends:
            place.director.change("PATCH", f"/v1/hosts/{backend.address}", {"up": True, "reason": "a test"})
    assert refusal.value.reply == "a NO [UNAVAILABLE] Temporary failure, try again later"
    assert place.director.wait_logged("lookup_refused", f"protocol=nginx user=nowhere-{proxy.imap}")
    assert place.lookups("nginx")["refused"] >= 1
    assert SECRET not in place.director.complete_log()


# ---- Postfix


def postmap(place: Place, key: str, table: str) -> subprocess.CompletedProcess[str]:
    """Return what Postfix finds for `key` in `table`."""
    needs("postmap")
    folder = place.folder / "postmap"
    if not folder.exists():
        make_configuration(folder, place.queue)
    command = [find_program("postmap"), "-c", str(folder), "-q", key, table]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def test_postfix_finds_the_lmtp_service_of_a_users_host_also_after_a_move(place: Place, ports: Ports) -> None:
    table = f"socketmap:unix:{place.queue}/map:lmtp"
    first = postmap(place, "paula@example.com", table)
    backend = place.served_by("paula@example.com")
    address = next(each.address for each in place.backends if each.name == backend)
    assert (first.returncode, first.stdout) == (0, f"lmtp:inet:[{address}]:{ports.lmtp}\n")
    place.move("paula@example.com", place.other(backend))
    again = postmap(place, "paula@example.com", table)
    assert again.stdout == f"lmtp:inet:[{place.other(backend).address}]:{ports.lmtp}\n"
    assert place.lookups("socketmap")["answered"] >= 2


def test_postfix_may_ask_over_tcp(place: Place) -> None:
    found = postmap(place, "peter", f"socketmap:inet:{place.socketmap}:lmtp")
    assert found.stdout.startswith("lmtp:inet:[127.0.84.")


def test_postfix_gets_temporary_errors_and_for_an_unknown_map_the_list_of_maps(place: Place) -> None:
    waiting = postmap(place, "paul", f"socketmap:unix:{place.queue}/map:lmtp@gold")
    wrong = postmap(place, "paul", f"socketmap:unix:{place.queue}/map:imap")
    assert "temporary error: no hosts; not answered within 1 s" in waiting.stderr
    assert "permanent error: no map imap; the maps are lmtp" in wrong.stderr
    assert waiting.returncode == wrong.returncode == 1


def test_mail_reaches_the_backend_of_its_user_and_no_other_recipient_is_assigned(place: Place) -> None:
    """The set-up of docs/lookups.md: a bare map would assign the recipients of outgoing mail too."""
    tables = place.folder / "mailboxes"
    tables.write_text("petra@example.com petra@example.com\npeer@example.com peer@example.com\n")
    port = free_port()
    maps = f"pipemap:{{texthash:{tables}, socketmap:unix:map:lmtp}}"
    with postfix(place.folder / "postfix", place.queue, HOST, port, maps) as log:
        for recipient in ("petra+lists@example.com", "peer@example.com"):
            with smtplib.SMTP(HOST, port, timeout=60) as client:
                client.sendmail("eve@example.com", recipient, "Subject: hello\r\n\r\nhello\r\n")
        with smtplib.SMTP(HOST, port, timeout=60) as client, pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail("eve@example.com", "eve@example.org", "Subject: hello\r\n\r\nhello\r\n")
        for user in ("petra@example.com", "peer@example.com"):
            backend = next(each for each in place.backends if each.name == place.served_by(user))
            until(lambda: user in backend.users("lmtp"), within=60, what=log.read_text())  # noqa: B023
    users = place.director.get("/v1/users")
    assert {"petra@example.com", "peer@example.com"} <= {user["name"] for user in users}
    assert not {"petra+lists@example.com", "eve@example.com", "eve@example.org", "example.com", "*"} & {
        user["name"] for user in users
    }
