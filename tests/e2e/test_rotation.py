"""Secrets, tokens, passwords and certificates changed while directors run, under logins."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority, Pems
from tests.e2e.conftest import new_folder
from tests.e2e.processes import ROOT, SECRET, DirectorProcess, Directors, Load, until
from tests.servers import RedisServer, free_port

USERS = [f"user{number}" for number in range(20_000)]
"""Enough users that most logins are of unassigned users."""
FIRST = "127.0.56.11"


@pytest.fixture
def folder() -> Iterator[Path]:
    with new_folder() as folder:
        yield folder


def reload(director: DirectorProcess) -> None:
    done = director.command("reload")
    assert done.returncode == 0, done.stdout + done.stderr


def wait_for_logins(load: Load, more: int = 200) -> None:
    seen = len(load.logins)
    until(lambda: len(load.logins) > seen + more or load.failures, what="logins go on")


def closed(ring: Directors) -> list[str]:
    """Return the log lines about closed links, except those while the ring formed."""
    lines = [line for director in ring.all for line in director.all_logged("ring_link_closed")]
    return [line for line in lines if "is nearer" not in line]


def documented_steps() -> list[list[str]]:
    """The shell commands of docs/operating.md that change the ring's secret on the first machine, by step."""
    page = (ROOT / "docs/operating.md").read_text()
    block = re.split(r"On the first machine, for\s+example:", page)[1].split("(`cat")[0]
    first, *lines = [line.strip() for line in block.strip().splitlines()]
    steps = [line.split("; director reload")[0] for line in lines if "; director reload" in line]
    assert len(steps) == 3
    return [[first, steps[0]], [steps[1]], [steps[2], lines[-1]]]


def test_the_rings_secret_is_changed_in_three_steps_and_no_login_fails(folder: Path) -> None:
    with RedisServer() as redis, Directors(folder, first=FIRST, state=f"unix://{redis.socket}") as ring:
        ring.wait_whole()
        former = redis.command("GET", "dd:doc:cluster")
        first = ring[0].folder / "secret"
        first.write_text(f"{SECRET}\n")
        (ring[0].folder / "ring.secret").symlink_to(first)
        with Load(ring.logins, USERS) as load:
            for number, commands in enumerate(documented_steps(), 1):
                before = closed(ring)
                for command in commands:
                    subprocess.run(command, shell=True, check=True, cwd=ring[0].folder)
                for director in ring.all:
                    (director.folder / "secret").write_text(first.read_text())
                    reload(director)
                    wait_for_logins(load)
                assert number == 3 or closed(ring) == before, "links stay"
            ring.wait_whole()
            wait_for_logins(load)
        (new,) = first.read_text().split()
        assert new != SECRET
        assert load.failures == []
        assert load.on_two_hosts() == {}
        made_anew = [line for line in closed(ring)[len(before) :] if "is nearer" not in line]
        assert all("ring.secret_file has changed" in line for line in made_anew), made_anew
        for director in ring.all:
            assert len(director.wait_logged("configuration_reloaded", "ring.secret_file", times=3)) == 3
            assert director.all_logged("store_unreachable") == []
            assert SECRET not in director.complete_log()
            assert new not in director.complete_log()
        assert redis.command("GET", "dd:doc:cluster") != former
        ring[1].stop()
        ring[1].start()
        ring.wait_whole()


@pytest.mark.parametrize("content", [None, "", "short\n"], ids=["missing", "empty", "too short"])
def test_a_secret_file_that_holds_no_secret_keeps_the_former_one_and_the_reload_says_so(
    folder: Path, content: str | None
) -> None:
    with Directors(folder, first=FIRST, count=2, state="memory:") as ring:
        ring.wait_whole()
        file = ring[0].folder / "secret"
        file.unlink() if content is None else file.write_text(content)
        done = ring[0].command("reload")
        assert done.returncode != 0
        assert "ring.secret_file" in done.stdout + done.stderr
        assert ring[0].wait_logged("reload_failed", "ring.secret_file")
        assert closed(ring) == []
        ring[1].kill()
        ring[1].start()
        ring.wait_whole()


def test_a_new_api_token_is_accepted_from_the_reload_on(folder: Path) -> None:
    port = free_port()
    settings = {"http": f'listen = "127.0.0.1:{port}"\ntoken_file = "token"'}
    director = DirectorProcess(folder / "d1", "127.0.56.21", free_port(), [], settings=settings)
    token = director.folder / "token"
    token.touch(0o600)
    token.write_text("first-token\n")
    try:
        director.start().wait_ready()
        assert (ask(port, "first-token"), ask(port, "next-token")) == (200, 401)
        token.write_text("next-token\n")
        assert (ask(port, "first-token"), ask(port, "next-token")) == (200, 401)
        reload(director)
        assert (ask(port, "first-token"), ask(port, "next-token")) == (401, 200)
        token.write_text("")
        assert director.command("reload").returncode != 0
        assert (ask(port, "first-token"), ask(port, "next-token")) == (401, 200)
        assert "next-token" not in director.complete_log()
    finally:
        director.close()


def ask(port: int, token: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("PATCH", "/v1/hosts/127.0.3.1", '{"weight": 90}', headers)
        return connection.getresponse().status
    finally:
        connection.close()


def with_tls(pems: Pems) -> dict[str, Any]:
    return {"settings": {"ring": f'tls = {{cert = "{pems.cert}", key = "{pems.key}", ca = "{pems.ca}"}}'}}


def test_the_authority_of_the_ring_is_changed_with_reloads_and_no_login_fails(
    folder: Path, authority: Authority, other_authority: Authority
) -> None:
    files_of: list[Pems] = []
    for number in (1, 2, 3):
        pems = authority.pems(f"127.0.56.3{number}")
        files_of.append(Pems(*(folder / f"{number}.{part}" for part in ("crt", "key", "ca"))))
        for file, source in zip(files_of[-1], pems, strict=True):
            file.touch(0o600)
            file.write_bytes(source.read_bytes())
    with Directors(
        folder, first="127.0.56.31", state="memory:", each=[with_tls(pems) for pems in files_of]
    ) as ring:
        ring.wait_whole()
        with Load(ring.logins, USERS) as load:
            for files, director in zip(files_of, ring.all, strict=True):
                files.ca.write_bytes(authority.ca.read_bytes() + other_authority.ca.read_bytes())
                reload(director)
            for number, (files, director) in enumerate(zip(files_of, ring.all, strict=True), 1):
                pems = other_authority.pems(f"127.0.56.3{number}")
                files.cert.write_bytes(pems.cert.read_bytes())
                files.key.write_bytes(pems.key.read_bytes())
                reload(director)
            for files, director in zip(files_of, ring.all, strict=True):
                files.ca.write_bytes(other_authority.ca.read_bytes())
                reload(director)
                assert len(director.wait_logged("configuration_reloaded", "ring.tls", times=3)) == 3
            wait_for_logins(load)
        assert load.failures == []
        assert closed(ring) == []
        ring[1].kill()
        ring[1].start()
        ring.wait_whole()
        files_of[0].cert.write_text("no certificate")
        assert ring[0].command("reload").returncode != 0
        assert shown_by(ring[0], files_of[1]) == ssl.PEM_cert_to_DER_cert(
            other_authority.pems("127.0.56.31").cert.read_text()
        )


def test_a_reload_refuses_a_certificate_that_the_others_would_refuse_and_keeps_the_former(
    folder: Path, authority: Authority, other_authority: Authority
) -> None:
    first, second = ("127.0.56.41", "127.0.56.42")
    files_of = Pems(*(folder / f"own.{part}" for part in ("crt", "key", "ca")))

    def install(pems: Pems) -> None:
        for file, source in zip(files_of, pems, strict=True):
            file.touch(0o600)
            file.write_bytes(source.read_bytes())

    def alarms() -> set[str]:
        return {alarm["kind"] for alarm in ring[0].get("/v1/status")["alarms"]} - {"certificate"}

    install(authority.pems(first))
    each = [with_tls(files_of), with_tls(authority.pems(second))]
    with Directors(folder, first=first, count=2, state="memory:", each=each) as ring:
        ring.wait_whole()
        shown = shown_by(ring[0], authority.pems(second), second)
        for wrong, problem in (
            (authority.pems("127.0.56.49"), "is not for its address"),
            (other_authority.pems(first)._replace(ca=authority.ca), "ring.tls.ca has not signed it"),
        ):
            install(wrong)
            for options in (("--exec",), ("--exec", "--dry-run"), ()):
                done = ring[0].command("reload", *options)
                assert (done.returncode, problem in done.stdout) == (78, True), done.stdout
            assert shown_by(ring[0], authority.pems(second), second) == shown
            until(lambda: alarms() == {"reload", "unusable"}, what="both alarms")
        ring[1].kill()
        ring[1].start()
        ring.wait_whole()
        install(authority.pems(first, days=400))
        reload(ring[0])
        until(lambda: alarms() == set(), what="no alarm")
        assert shown_by(ring[0], authority.pems(second), second) != shown


def shown_by(director: DirectorProcess, pems: Pems, source: str = "127.0.56.32") -> bytes | None:
    """Return the certificate that a director shows on its ring port to the director at `source`."""
    address, _, port = director.member.rpartition(":")
    context = ssl.create_default_context(cafile=str(pems.ca))
    context.load_cert_chain(pems.cert, pems.key)
    with socket.create_connection((address, int(port)), timeout=10, source_address=(source, 0)) as sock:
        with context.wrap_socket(sock, server_hostname=address) as secured:
            return secured.getpeercert(binary_form=True)


def test_a_redis_password_is_changed_with_a_reload_and_no_login_fails(folder: Path) -> None:
    with RedisServer() as redis:
        redis.command("ACL", "SETUSER", "director", "on", "allkeys", "allcommands", ">first one")
        password = folder / "redis.password"
        password.touch(0o600)
        password.write_text("first one\n")
        state = f"unix://{redis.socket}?username=director&password_file={password}"
        with Directors(folder, first="127.0.56.41", count=2, state=state) as ring:
            ring.wait_whole()
            with Load(ring.logins, USERS) as load:
                redis.command("ACL", "SETUSER", "director", ">next one")
                password.write_text("next one\n")
                for director in ring.all:
                    reload(director)
                    assert director.wait_logged("configuration_reloaded", "state (password_file)")
                redis.command("ACL", "SETUSER", "director", "<first one")
                wait_for_logins(load)
                assert [director.all_logged("store_unreachable") for director in ring.all] == [[], []]
                # without a reload the server refuses the former password
                redis.command("ACL", "SETUSER", "director", "resetpass", ">last one")
                password.write_text("last one\n")
                redis.command("CLIENT", "KILL", "USER", "director")
                wait_for_logins(load)
                for director in ring.all:
                    until(lambda d=director: d.get("/v1/status")["store"]["up"], what="the store is back")
            assert load.failures == []
            for director in ring.all:
                assert director.all_logged("store_unreachable", "WRONGPASS") == []
                assert "next one" not in director.complete_log()
