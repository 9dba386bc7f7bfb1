"""Real Dovecot of both releases with one login process, while its director is dead."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from director.demo.clients import Imap, login_imap
from director.demo.cluster import Cluster
from director.demo.dovecot import Programs
from tests.e2e.conftest import new_folder
from tests.e2e.dead_director import Visitor, keeper_of, site
from tests.e2e.processes import until

PROXY, BACKEND = "127.0.82.11", "127.0.82.21"
GREETED_WITHIN = 2.0
"""Seconds from the time when the director is ready until a client is greeted."""
RECONNECTS_AT_ONCE_AFTER = 5.5
"""Seconds after an attempt to connect within which a login process waits before the next one."""
NOOP_WITHIN = 0.5
PIPE = 65536
"""Bytes that a FIFO holds."""
Death = Callable[[Cluster], None]


@pytest.fixture(scope="module")
def cluster(programs: Programs) -> Iterator[Cluster]:
    # sessions are named in the FIFO every third of the time that assignments last
    with (
        new_folder(programs) as folder,
        site(folder / "c", programs, PROXY, BACKEND, expire="10 s") as cluster,
    ):
        yield cluster


@pytest.fixture(autouse=True)
def _warm(cluster: Cluster) -> Iterator[None]:
    """Let the login process connect to the director before the test, and start the director after it."""
    if not cluster.directors[0].running:
        cluster.start_directors()
    login_imap(PROXY, cluster.ports.imap, "alice")
    yield
    if not cluster.directors[0].running:
        cluster.start_directors()


def killed(cluster: Cluster) -> None:
    cluster.directors[0].kill()


def stopped(cluster: Cluster) -> None:
    cluster.directors[0].stop()


def seconds_to_greeting(cluster: Cluster, death: Death, *, alone: float, before: float) -> float:
    """Return the seconds from the time when the director is ready again until its only client is greeted.

    Args:
        cluster: the director that dies, and its proxy.
        death: ends the director.
        alone: seconds without a director.
        before: seconds between the client's connect and the start of the director."""
    death(cluster)
    time.sleep(alone - before)
    visitor = Visitor(cluster)
    time.sleep(before)
    assert not visitor.greeted
    cluster.start_directors()
    ready = time.monotonic()
    visitor.done()
    assert visitor.greeted, visitor.lines
    return visitor.ended - ready


@pytest.mark.parametrize("death", [killed, stopped])
def test_a_single_client_that_connects_while_the_director_is_dead_is_greeted_when_it_is_back(
    cluster: Cluster, death: Death
) -> None:
    time.sleep(RECONNECTS_AT_ONCE_AFTER)
    assert seconds_to_greeting(cluster, death, alone=2, before=1.5) < GREETED_WITHIN


def test_a_single_client_that_connects_after_40_s_without_a_director_is_greeted_when_it_is_back(
    cluster: Cluster,
) -> None:
    """The login process has given up one connection by then: it waits 30 s for an answer."""
    assert seconds_to_greeting(cluster, killed, alone=40, before=5) < GREETED_WITHIN


def noops(session: Imap, seconds: float) -> list[float]:
    """Send NOOP repeatedly, and return the seconds that each answer took."""
    took, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        session.command("NOOP")
        took.append(time.monotonic() - began)
        time.sleep(0.02)
    return took


def test_an_open_session_continues_while_10_clients_a_second_connect_to_a_dead_director(
    cluster: Cluster,
) -> None:
    with Imap(PROXY, cluster.ports.imap) as session:
        session.login("alice", "any")
        killed(cluster)
        visitors, took = [], []
        for _ in range(80):
            visitors.append(Visitor(cluster))
            took += noops(session, 0.1)
        assert max(took) < NOOP_WITHIN
        cluster.start_directors()
        ready = time.monotonic()
        for visitor in visitors:
            visitor.done()
        assert all(visitor.greeted for visitor in visitors)
        assert max(visitor.ended for visitor in visitors) - ready < GREETED_WITHIN


def test_a_fifo_that_is_full_stalls_no_session_and_is_read_when_the_director_is_back(
    cluster: Cluster,
) -> None:
    """Login processes write the names of their sessions to the FIFO every 3 s here; names that do not fit are
    lost."""
    director, proxy = cluster.directors[0], cluster.proxies[0]
    with Imap(PROXY, cluster.ports.imap) as session:
        session.login("alice", "any")
        killed(cluster)
        fifo = os.open(proxy.run / "login/director/proxy-notify", os.O_WRONLY | os.O_NONBLOCK)
        filled = 0
        with suppress(BlockingIOError):
            while True:
                filled += os.write(fifo, b"any-user\n" * 10_000)  # only a part fits
        os.close(fifo)
        assert filled == PIPE
        assert max(noops(session, 7)) < NOOP_WITHIN
        cluster.start_directors()
        before = director.ask("status", "alice")["expires"]
        until(
            lambda: director.ask("status", "alice")["expires"] > before,
            what="the session is written to the FIFO again",
        )
        assert max(noops(session, 1)) < NOOP_WITHIN


def test_login_processes_stall_when_the_keeper_is_killed_together_with_its_director(
    cluster: Cluster,
) -> None:
    """Without a keeper the tests above fail: each client stalls a login process for a second, and so does a
    FIFO without a reader."""
    process = keeper_of(cluster)
    with Imap(PROXY, cluster.ports.imap, timeout=2.0) as session:
        session.login("alice", "any")
        killed(cluster)
        os.kill(process, signal.SIGKILL)
        took, stalled, began = [0.0], False, time.monotonic()
        while max(took) < NOOP_WITHIN and not stalled:
            assert time.monotonic() < began + 10, "nothing stalls"
            Visitor(cluster)
            try:
                took += noops(session, 0.1)
            except TimeoutError:
                stalled = True
        cluster.start_directors()
