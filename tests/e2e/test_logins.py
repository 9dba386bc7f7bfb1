"""Logins as a mail user sees them: the same through a director as through a plain proxy."""

from __future__ import annotations

import os
import signal
import time

import pytest

from director.demo.clients import Imap, Refused, login_imap
from director.demo.cluster import Cluster
from director.demo.dovecot import Proxy
from tests.e2e.conftest import Front
from tests.e2e.mailclients import backends_of, deliver_lmtp, login_pop3

WAIT = 20.0


def end_auth(proxy: Proxy) -> list[int]:
    """Kill all auth processes. Returns their ids, when none is left."""
    processes = proxy.processes("auth")
    for process in processes:
        os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + WAIT
    while set(processes) & set(proxy.processes("auth")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return processes


def login_after_auth_died(session: Imap, user: str) -> None:
    """Log in. Dovecot refuses the first login if its login process has not noticed yet that auth died."""
    try:
        session.login(user, "any")
    except Refused:
        session.login(user, "any")


def test_an_imap_login_lands_on_one_backend_and_stays_there(front: Front) -> None:
    first = login_imap(front.address, front.ports.imap, "ida")
    again = login_imap(front.address, front.ports.imap, "ida")
    assert first == again
    assert backends_of(front.backends, "imap", "ida") == [first]


def test_a_pop3_login_lands_on_the_backend_of_the_imap_login(front: Front) -> None:
    backend = login_imap(front.address, front.ports.imap, "paul")
    login_pop3(front.address, front.ports.pop3, "paul")
    assert backends_of(front.backends, "pop3", "paul") == [backend]


def test_a_wrong_password_is_refused_in_dovecots_words(front: Front) -> None:
    with pytest.raises(Refused) as refusal:
        login_imap(front.address, front.ports.imap, "strict1", "wrong")
    assert refusal.value.reply == "a NO [AUTHENTICATIONFAILED] Authentication failed."


def test_a_right_password_gets_in_after_a_wrong_one_on_the_same_connection(front: Front) -> None:
    with Imap(front.address, front.ports.imap) as session:
        with pytest.raises(Refused):
            session.login("strict2", "wrong")
        session.login("strict2", "secret")
        assert session.served_by() in [backend.name for backend in front.backends]


def test_a_host_given_by_the_passdb_is_not_changed(front: Front) -> None:
    users = [f"fixed{number}" for number in range(10)]
    assert {login_imap(front.address, front.ports.imap, user) for user in users} == {"b3"}


def test_a_user_who_is_not_proxied_is_served_by_the_proxy_itself(front: Front) -> None:
    assert login_imap(front.address, front.ports.imap, "local1") == "p1"


def test_a_mail_is_delivered_by_lmtp_where_its_owner_reads_it_over_imap(front: Front) -> None:
    reply = deliver_lmtp(front.address, front.ports.lmtp, "lena", "Greetings from afar")
    with Imap(front.address, front.ports.imap) as session:
        session.login("lena", "any")
        backend = session.served_by()
        session.command("EXAMINE INBOX")
        mail = b"\n".join(session.command("FETCH 1 BODY[HEADER.FIELDS (SUBJECT)]"))
    assert reply.startswith("250 2.0.0 <lena>")
    assert b"Subject: Greetings from afar" in mail
    assert backends_of(front.backends, "lmtp", "lena") == [backend]


def test_a_doveadm_command_at_the_proxy_reaches_the_users_backend(front: Front) -> None:
    backend = login_imap(front.address, front.ports.imap, "dora")
    listing = front.proxy.doveadm("mailbox", "list", "-u", "dora")
    assert (listing.returncode, listing.stderr) == (0, "")
    assert sorted(listing.stdout.splitlines()) == ["INBOX", f"served by {backend}"]


def test_a_client_that_was_connected_before_auth_died_logs_in_afterwards(front: Front) -> None:
    with Imap(front.address, front.ports.imap) as session:
        assert end_auth(front.proxy)
        login_after_auth_died(session, "greta")
        assert session.served_by() in [backend.name for backend in front.backends]


def test_a_session_that_is_logged_in_does_not_notice_that_auth_died(front: Front) -> None:
    with Imap(front.address, front.ports.imap) as session:
        session.login("hans", "any")
        backend = session.served_by()
        end_auth(front.proxy)
        assert session.served_by() == backend
        with Imap(front.address, front.ports.imap) as another:
            login_after_auth_died(another, "hans")
            assert another.served_by() == backend


def test_a_user_is_on_the_same_backend_through_every_proxy(cluster: Cluster) -> None:
    users = [f"everywhere{number}" for number in range(20)]
    seen = {
        user: {login_imap(address, cluster.ports.imap, user) for address in cluster.proxy_addresses}
        for user in users
    }
    assert [user for user, backends in seen.items() if len(backends) != 1] == []
    assert len({name for backends in seen.values() for name in backends}) > 1


def test_a_user_with_a_host_from_the_passdb_is_not_assigned(cluster: Cluster) -> None:
    login_imap(cluster.proxy_addresses[0], cluster.ports.imap, "fixed-and-forgotten")
    assert cluster.directors[0].ask("status", "fixed-and-forgotten")["current"] is None


def test_logins_continue_after_dovecot_was_stopped_and_started_under_a_running_director(
    cluster: Cluster,
) -> None:
    proxy = cluster.proxies[1]
    before = login_imap(proxy.address, cluster.ports.imap, "rosa")
    proxy.stop()
    proxy.start()
    assert login_imap(proxy.address, cluster.ports.imap, "rosa") == before


def test_a_session_does_not_notice_that_its_director_is_restarted(cluster: Cluster) -> None:
    director, proxy = cluster.directors[2], cluster.proxies[2]
    with Imap(proxy.address, cluster.ports.imap) as session:
        session.login("sven", "any")
        backend = session.served_by()
        director.restart()
        assert session.served_by() == backend
    assert login_imap(proxy.address, cluster.ports.imap, "sven") == backend
