"""deploy/dovecot/2.4/director.lua on real Dovecot of both releases: a proxy without a director of its own."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest

from director.core.placement.hashing import UserHash
from director.demo.clients import Imap, Refused, login_imap
from director.demo.dovecot import Backend, Programs, Proxy
from director.demo.ports import USUAL, Ports, addresses, free_ports
from tests.e2e.conftest import dovecot, new_folder
from tests.e2e.mailclients import backends_of, deliver_lmtp, login_pop3
from tests.e2e.processes import DirectorProcess, until
from tests.needs import needs
from tests.servers import free_port

MODULE = "/usr/lib/dovecot/modules/auth/libauthdb_lua.so"
LUA = Path(__file__).parents[2] / "deploy/dovecot/2.4/director.lua"
PROXY, DIRECTOR, SERVER = addresses("127.0.83.1", 3)
*BACKENDS, NEIGHBOUR = addresses("127.0.83.21", 3)
HASH_OF_KARL = UserHash().hash(b"karl")
TOKEN = "a-token-of-the-api"
PASSDB24 = """
# the director's answers must not be cached
auth_cache_size = 10 M
passdb static {{
  driver = static
  result_success = continue
  password = secret
  fields {{
    {fields}
  }}
}}
passdb director {{
  driver = lua
  skip = unauthenticated
  lua_file = {lua}
  lua_settings {{
    url = {url}
    token_file = {token}
    timeout = 5
  }}
}}
"""
PASSDB23 = """
passdb {{
  driver = static
  result_success = continue
  args = password=secret {fields}
}}
passdb {{
  driver = lua
  skip = unauthenticated
  args = file={lua}
}}
"""
NO_SETTINGS = "{ url = nil, token_file = nil, timeout = nil }"


class Gate:
    """A relay to the director that requires the token, as a director does of clients on other machines."""

    def __init__(self, address: str, port: int, director: tuple[str, int], token: str) -> None:
        self.token, self.refused = token, 0
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.headers.get("Authorization") != f"Bearer {gate.token}":
                    gate.refused += 1
                    self.answer(401, b'{"detail":"its token is not the one in http.token_file"}')
                    return
                connection = http.client.HTTPConnection(*director, timeout=10)
                try:
                    connection.request("GET", self.path, headers={"Authorization": f"Bearer {TOKEN}"})
                    answer = connection.getresponse()
                    self.answer(answer.status, answer.read())
                except OSError:
                    self.close_connection = True
                finally:
                    connection.close()

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((address, port), Handler)
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Place(NamedTuple):
    proxy: Proxy
    director: DirectorProcess
    backends: list[Backend]
    ports: Ports
    gate: Gate
    token_file: Path

    def login(self, user: str, password: str = "secret") -> str:
        return login_imap(self.proxy.address, self.ports.imap, user, password)

    def host_of(self, user: str) -> str:
        """Return the name of the backend to which a user is assigned."""
        address = self.director.get(f"/v1/users/{user}")["current"]
        return next(backend.name for backend in self.backends if backend.address == address)


@contextmanager
def serving(release: str, proxy: str, hosts: list[str], fields: dict[str, str]) -> Iterator[Place]:
    """Run a proxy and its director.

    Args:
        release: the release of Dovecot.
        proxy: the address of the proxy.
        hosts: the director's hosts. All of them are started as backends, except the proxy itself.
        fields: the fields that the proxy's first passdb returns."""
    programs = dovecot(release)
    if programs.root is None:
        needs(MODULE)
    ports = free_ports([proxy, *hosts], [])
    gate_port, api_port = free_port(), free_port()
    if ports != USUAL:
        old = f"%{{if;%s;eq;doveadm;{ports.doveadm};%a}}"
        new = f"%{{protocol | if('=', 'doveadm', '{ports.doveadm}', local_port)}}"
        fields["port"] = old if release == "2.3" else new
    with new_folder(programs) as folder, ExitStack() as stack:
        backends = [
            stack.enter_context(Backend(folder / f"b{n}", f"b{n}", host, ports, programs=programs))
            for n, host in enumerate(hosts, 1)
            if host != proxy
        ]
        for name in ("token", "api.token"):
            (folder / name).write_text(TOKEN + "\n")
        gate = Gate(DIRECTOR, gate_port, (DIRECTOR, api_port), TOKEN)
        stack.callback(gate.close)
        url, token = f"http://{DIRECTOR}:{gate_port}/", programs.inside(folder / "token")
        script = LUA.read_text()
        if release == "2.3":
            lua_settings = f'{{ url = "{url}", token_file = "{token}", timeout = 5 }}'
            assert NO_SETTINGS in script
            script = script.replace(NO_SETTINGS, lua_settings)
        (folder / "director.lua").write_text(script)
        settings = {
            "lookups": 'http = true\ntimeout = "1 s"',
            "http": f'listen = "{DIRECTOR}:{api_port}"\ntoken_file = "{folder}/api.token"',
            "users": 'kick_delay = "10 ms"',
        }
        director = DirectorProcess(folder / "d", DIRECTOR, free_port(), [], backends=hosts, settings=settings)
        stack.callback(director.close)
        director.start().wait_ready()
        extra = (PASSDB23 if release == "2.3" else PASSDB24).format(
            lua=programs.inside(folder / "director.lua"),
            token=token,
            url=url,
            fields="\n    ".join(
                f"{name}={value}" if release == "2.3" else f"{name} = {value}"
                for name, value in fields.items()
            ),
        )
        dovecot_proxy = Proxy(
            folder / "p", "p", proxy, ports, passdb=(), director=False, programs=programs, extra=extra
        )
        yield Place(stack.enter_context(dovecot_proxy), director, backends, ports, gate, folder / "token")


@pytest.fixture(scope="module")
def place(programs: Programs) -> Iterator[Place]:
    with serving(programs.release, PROXY, BACKENDS, {}) as place:
        yield place


@pytest.fixture(scope="module")
def one_server(programs: Programs) -> Iterator[Place]:
    """A proxy that is one of the two backends itself."""
    with serving(programs.release, SERVER, [SERVER, NEIGHBOUR], {"director_proxy_maybe": "y"}) as place:
        yield place


def test_imap_and_pop3_go_to_the_host_that_the_director_names(place: Place) -> None:
    for user in ("ida", "ivo", "ilse@example.com"):
        backend = place.login(user)
        assert place.host_of(user) == backend
        login_pop3(PROXY, place.ports.pop3, user, "secret")
        assert backends_of(place.backends, "pop3", user) == [backend]


def test_mail_and_doveadm_commands_go_to_the_same_host(place: Place) -> None:
    reply = deliver_lmtp(PROXY, place.ports.lmtp, "lena", "hello")
    listing = place.proxy.doveadm("mailbox", "list", "-u", "lena")
    backend = place.host_of("lena")
    assert reply.startswith("250")
    assert backends_of(place.backends, "lmtp", "lena") == [backend]
    assert f"served by {backend}" in listing.stdout


def test_a_login_with_a_wrong_password_does_not_reach_the_director(place: Place) -> None:
    with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
        place.login("mallory", "wrong")
    assert place.director.get("/v1/users/mallory")["current"] is None


def test_a_moved_user_is_sent_to_the_new_host(place: Place) -> None:
    before = place.login("maria")
    other = next(backend for backend in place.backends if backend.name != before)
    place.director.change("POST", "/v1/moves", {"user": "maria", "host": other.address, "reason": "a test"})
    assert place.login("maria") == other.name


def test_without_an_answer_a_login_fails_temporarily_and_no_password_is_blamed(place: Place) -> None:
    for backend in place.backends:
        place.director.change("PATCH", f"/v1/hosts/{backend.address}", {"up": False, "reason": "a test"})
    try:
        with pytest.raises(Refused, match=r"\[UNAVAILABLE\]"):
            place.login("nowhere")
    finally:
        for backend in place.backends:
            place.director.change("PATCH", f"/v1/hosts/{backend.address}", {"up": True, "reason": "a test"})
    assert place.director.wait_logged("lookup_refused", "protocol=http user=nowhere")
    until(lambda: "director: 503 no hosts; not answered within 1 s" in place.proxy.log())
    assert TOKEN not in place.proxy.log()


def test_while_the_director_is_unreachable_logins_fail_in_time_and_work_afterwards(place: Place) -> None:
    before = place.login("anna")
    place.director.kill()
    try:
        with pytest.raises(Refused, match=r"\[UNAVAILABLE\]"):
            place.login("anna")
    finally:
        place.director.start().wait_ready()
    assert place.login("anna") == before


def test_a_token_that_was_changed_is_read_again_and_no_login_fails(place: Place) -> None:
    before = place.login("tina")
    place.gate.token = "the-next-token"
    place.token_file.write_text("the-next-token\n")
    assert place.login("tina") == before
    assert place.gate.refused > 0
    place.login("tessa")
    until(lambda: "proxy(tessa," in place.proxy.log())  # logged after everything about tina
    assert "the-next-token" not in place.proxy.log()


def test_a_session_can_be_ended_by_the_key_that_the_director_gave_it(place: Place) -> None:
    with Imap(PROXY, place.ports.imap) as session:
        session.login("karl", "secret")
        address = next(each.address for each in place.backends if each.name == session.served_by())
        other = next(each.address for each in place.backends if each.address != address)
        kick = ("proxy", "kick") if place.proxy.programs.release == "2.3" else ("kick",)
        for wrong in (f"{HASH_OF_KARL}@{other}", f"1@{address}"):
            place.proxy.doveadm(*kick, "-f", "user_dirkey", wrong)
        session.command("NOOP")
        place.proxy.doveadm(*kick, "-f", "user_dirkey", f"{HASH_OF_KARL}@{address}")
        with pytest.raises(ConnectionError):
            session.command("NOOP")


def test_users_whose_backend_is_the_same_server_are_logged_in_there_and_others_are_proxied(
    one_server: Place,
) -> None:
    def proxied() -> list[str]:
        return re.findall(r"proxy\((user\d+),", one_server.proxy.log())

    users = [f"user{number}" for number in range(12)]
    address, ports = one_server.proxy.address, one_server.ports
    seen = {user: one_server.login(user) for user in users}
    assert set(seen.values()) == {"p", "b2"}
    for user in users:
        current = one_server.director.get(f"/v1/users/{user}")["current"]
        assert seen[user] == ("p" if current == address else "b2")
        until(lambda user=user: user in proxied() + one_server.proxy.users("imap"), what=user)
        assert (user in proxied()) is (seen[user] == "b2")
    for user in users[:4]:
        assert deliver_lmtp(address, ports.lmtp, user, "hello").startswith("250")
        assert f"served by {seen[user]}" in one_server.proxy.doveadm("mailbox", "list", "-u", user).stdout
