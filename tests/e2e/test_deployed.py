"""The files in deploy/ work as they are, on package defaults, for a director of either user."""

from __future__ import annotations

import base64
import imaplib
import os
import poplib
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.certificates import Authority
from tests.e2e.conftest import dovecot, new_folder
from tests.e2e.deployed import DEPLOY, Activated, Installed, smtp_relay
from tests.e2e.mailclients import deliver_lmtp
from tests.e2e.processes import until
from tests.needs import needs, needs_root

PROXY, BACKENDS, RELAY = "127.0.90.11", ("127.0.90.21", "127.0.90.22"), "127.0.90.31"
SOURCE = "127.0.0.1"
"""The source address of connections to other loopback addresses."""
USER = "Emil@example.com"
"""A user whose hash selects another backend without the domain, which Debian 13 removes for LMTP."""
OWN = 64_901
"""A uid that no account has, for the director's own user."""


class Site(NamedTuple):
    proxy: Installed
    backends: list[Installed]
    director: Activated


def anything() -> ssl.SSLContext:
    """Return a TLS context that accepts every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.fixture(
    scope="module",
    params=[("2.3", "dovecot"), ("2.3", "director"), ("2.4", "dovecot"), ("2.4", "director")],
    ids="-".join,
)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A proxy host and two backends. The director runs as user dovecot, or as a user of its own in the group
    dovecot."""
    release, user = request.param
    needs_root("Dovecot as a package starts it")
    programs = dovecot(release)
    pems = Authority(tmp_path_factory.mktemp("tls")).pems(PROXY)
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder(programs))
        relay = stack.enter_context(smtp_relay(RELAY))
        backends = [
            Installed(
                folder / f"b{n}",
                f"b{n}",
                address,
                kind="backend",
                programs=programs,
                pems=pems,
                proxy=SOURCE,
                relay=relay,
            )
            for n, address in enumerate(BACKENDS, 1)
        ]
        for backend in backends:
            stack.enter_context(backend)
        proxy = Installed(folder / "p1", "p1", PROXY, kind="proxy", programs=programs, pems=pems)
        proxy.write()
        account = programs.user("dovecot")
        uid = account.number if user == "dovecot" else OWN
        director = Activated(folder / "d1", PROXY, proxy, uid, account.group)
        director.write_alone(f"{BACKENDS[0]}-{BACKENDS[-1]}")
        director.start()
        stack.callback(director.stop)
        director.wait_ready()
        stack.enter_context(proxy)
        yield Site(proxy, backends, director)


def imap(user: str = USER) -> imaplib.IMAP4:
    session = imaplib.IMAP4(PROXY)
    session.starttls(anything())
    session.login(user, "any")
    return session


def sieve_login() -> str:
    """Log in over ManageSieve with STARTTLS, and return the reply to AUTHENTICATE."""
    response = base64.b64encode(f"\0{USER}\0any".encode()).decode()
    with socket.create_connection((PROXY, 4190), timeout=30) as plain:
        stream = plain.makefile("rwb")

        def until_ok() -> str:
            while not (line := stream.readline().decode()).startswith(("OK", "NO", "BYE")):
                assert line
            return line.split()[0]

        until_ok()
        stream.write(b"STARTTLS\r\n")
        stream.flush()
        assert until_ok() == "OK"
        with anything().wrap_socket(plain) as wrapped:
            stream = wrapped.makefile("rwb")
            until_ok()
            stream.write(f'AUTHENTICATE "PLAIN" "{response}"\r\n'.encode())
            stream.flush()
            return until_ok()


def test_a_user_is_on_one_backend_over_every_protocol(site: Site) -> None:
    session = imap()
    name = next(b.name for b in site.backends if f"served by {b.name}" in str(session.list()))
    session.logout()
    with imaplib.IMAP4_SSL(PROXY, ssl_context=anything()) as secure:
        secure.login(USER, "any")
    mailbox = poplib.POP3(PROXY)
    mailbox.stls(anything())
    mailbox.user(USER)
    mailbox.pass_("any")
    mailbox.quit()
    with smtplib.SMTP(PROXY, 587) as submission:
        submission.starttls(context=anything())
        submission.login(USER, "any")
    assert sieve_login() == "OK"
    assert deliver_lmtp(PROXY, 24, USER, "Greetings").startswith("250 2.0.0")
    listing = site.proxy.doveadm("mailbox", "list", "-u", USER)
    assert (listing.returncode, listing.stderr) == (0, "")
    assert f"served by {name}" in listing.stdout.splitlines()
    for protocol in ("imap", "pop3", "submission", "managesieve", "lmtp"):
        served = until(lambda p=protocol: [b.name for b in site.backends if b.users(p)], what=protocol)
        assert served == [name], protocol


def test_a_client_without_tls_is_told_to_use_tls(site: Site) -> None:
    session = imaplib.IMAP4(PROXY)
    with pytest.raises(imaplib.IMAP4.error, match=r"^b'\[PRIVACYREQUIRED\]"):
        session.login(USER, "any")
    session.logout()


def test_the_backend_learns_the_address_that_the_client_connected_to(site: Site) -> None:
    imap("seen").logout()
    line = until(lambda: [x for b in site.backends for x in b.log().splitlines() if "user=<seen>" in x])
    assert f"lip={PROXY}," in line[0]


def test_a_kick_ends_the_session(site: Site) -> None:
    session = imap("kit")
    assert site.director.command("kick", "kit").stdout == "kit: 1 session ended\n"
    with pytest.raises((imaplib.IMAP4.abort, OSError)):
        session.noop()
    session.shutdown()


def test_the_director_cannot_read_what_is_not_its_own(site: Site) -> None:
    assert site.director.process is not None
    lines = Path(f"/proc/{site.director.process.pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["Uid"].split()[0] != "0"
    assert status["CapEff"].strip() == "0" * 16
    assert os.stat(site.director.folder).st_uid == int(status["Uid"].split()[0])


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    needs("systemd-analyze")
    units = [path for path in (DEPLOY / "systemd").iterdir() if path.suffix in (".service", ".socket")]
    for unit in units:
        text = unit.read_text().replace("/opt/director/bin/director", "/bin/true")
        # a small container may have no `kill`
        (tmp_path / unit.name).write_text(text.replace("/bin/kill", "/bin/true"))
    own_user = tmp_path / "director.service.d/own-user.conf"
    own_user.parent.mkdir()
    own_user.write_text((DEPLOY / "systemd" / own_user.name).read_text())
    result = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / unit.name) for unit in units)],
        capture_output=True,
        text=True,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")
