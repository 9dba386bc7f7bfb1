"""Real Dovecot of both releases, while the director in front of it is replaced in place, or crashes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from director.demo.clients import Imap, failures, login_imap, login_many
from director.demo.cluster import Cluster
from director.demo.dovecot import Programs
from director.demo.ports import Ports, addresses, free_ports
from tests.e2e.conftest import new_folder
from tests.e2e.dead_director import Visitor
from tests.e2e.mailclients import deliver_lmtp, on_two_backends
from tests.e2e.manager import Managed
from tests.e2e.processes import until
from tests.e2e.restarts_in_place import run

PROXY, BACKEND = "127.0.62.31", "127.0.62.41"
BUSY_PROXY, BUSY_BACKEND = "127.0.62.51", "127.0.62.61"


class Set(NamedTuple):
    """A director under a service manager, behind a proxy."""

    director: Managed
    cluster: Cluster
    ports: Ports


@pytest.fixture(scope="module")
def managed(programs: Programs) -> Iterator[Set]:
    ports = free_ports([PROXY, *addresses(BACKEND, 2)], [PROXY])
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder(programs))
        cluster = Cluster(
            folder / "c",
            directors=1,
            backends=2,
            ports=ports,
            first_proxy=PROXY,
            first_backend=BACKEND,
            programs=programs,
        )
        written = cluster.directors[0]
        director = Managed(written.folder, written.member, written.run)
        cluster.directors[0] = director
        cluster.proxies[0].write()
        director.open(cluster.proxies[0].run)
        stack.callback(director.close)
        stack.enter_context(cluster)
        stack.callback(director.let_end)
        yield Set(director, cluster, ports)


def crash(director: Managed) -> None:
    """Kill the director. Returns when login processes can have noticed, long before the next program is
    ready."""
    times = len(director.pids)
    director.kill()
    until(lambda: len(director.pids) == times + 1)


def test_a_short_run_of_logins_over_three_replacements_loses_no_login(programs: Programs) -> None:
    report = run(programs, BUSY_PROXY, BUSY_BACKEND, seconds=8, restarts=3, rate=40)
    assert report.failed() == [], report.text()
    assert len(report.paused) == 3
    assert sum(report.under_way) > 0, "no request was in progress: the test shows nothing"


def test_after_a_crash_sessions_stay_and_logins_wait_for_the_restart(managed: Set) -> None:
    director, ports = managed.director, managed.ports
    with Imap(PROXY, ports.imap) as session:
        session.login("stays", "any")
        before = login_imap(PROXY, ports.imap, "alice")
        until(lambda: "loaded" in director.log)
        crash(director)
        logins = login_many(["alice", "bob", "carol", "dave"] * 3, [PROXY], ports.imap)
        assert failures(logins) == []
        assert on_two_backends(logins) == {}
        assert {login.backend for login in logins if login.user == "alice"} == {before}
        session.command("NOOP")
    until(director.ready)


def test_a_single_client_that_connects_while_the_director_is_dead_is_greeted_after_the_restart(
    managed: Set,
) -> None:
    """The service manager holds the sockets, and no keeper is started."""
    director, ports = managed.director, managed.ports
    until(director.ready)
    assert director.ask("status")["sockets_kept_by"] == "systemd"
    assert not (managed.cluster.proxies[0].run / "director-keeper").exists()
    login_imap(PROXY, ports.imap, "alice")
    crash(director)
    visitor = Visitor(managed.cluster)
    until(director.ready)
    ready = time.monotonic()
    assert visitor.done().greeted, visitor.lines
    assert visitor.ended - ready < 2


def test_a_crash_of_the_replaced_program_finds_the_sockets_of_the_manager_again(managed: Set) -> None:
    director, ports = managed.director, managed.ports
    until(director.ready)
    process = director.pids[-1]
    del director.messages[:]
    assert director.command("reload", "--exec").returncode == 0
    words = [message.split("\n")[0] for message in director.messages]
    assert [word for word in words if word in ("RELOADING=1", "READY=1")] == ["RELOADING=1", "READY=1"]
    assert director.pids[-1] == process, "systemd would have noticed"
    crash(director)
    assert failures(login_many(["alice", "bob"] * 5, [PROXY], ports.imap)) == []
    until(director.ready)
    assert director.ask("status")["hosts"]


def test_the_fifo_has_a_reader_at_every_moment_of_a_crash_and_a_replacement(managed: Set) -> None:
    """A login process that opens the FIFO while no process reads it stalls with all its sessions."""
    director = managed.director
    until(director.ready)
    fifo = managed.cluster.proxies[0].run / "login/director/proxy-notify"
    over, failed = threading.Event(), []

    def check_fifo() -> None:
        while not over.wait(0.002):
            try:
                os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
            except OSError as exc:
                failed.append(exc)

    looking = threading.Thread(target=check_fifo)
    looking.start()
    try:
        times = len(director.pids)
        os.kill(director.pids[-1], signal.SIGUSR2)
        until(lambda: "event=program_replaced " in director.log)
        director.kill()
        until(lambda: len(director.pids) == times + 1 and director.ready())
    finally:
        over.set()
        looking.join()
    assert failed == []


def test_the_first_delivery_after_a_replacement_gets_through_on_the_connection_that_was_idle(
    managed: Set,
) -> None:
    """LMTP of 2.3 keeps its connection: after an ordinary restart the first delivery fails temporarily with
    451."""
    director, ports = managed.director, managed.ports
    until(director.ready)
    deliver_lmtp(PROXY, ports.lmtp, "lena", "before")
    assert director.command("reload", "--exec").returncode == 0
    assert deliver_lmtp(PROXY, ports.lmtp, "lena", "after").startswith("250")
