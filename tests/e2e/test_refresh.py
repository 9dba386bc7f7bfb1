"""Sessions that last longer than `users.expire`: Dovecot's notify lines keep their users where they are."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from director.demo.clients import Imap, login_imap
from director.demo.cluster import Cluster
from director.demo.ports import addresses, free_ports
from director.demo.process import ServeProcess
from tests.e2e.conftest import dovecot, new_folder
from tests.e2e.mailclients import Pop3
from tests.e2e.processes import until
from tests.e2e.sessions import answers

EXPIRE = 10
"""Seconds, the minimum. Login processes are told to notify every 3 s."""
FIRST = {"2.3": ("127.0.72.1", "127.0.72.11"), "2.4": ("127.0.73.1", "127.0.73.11")}
BACKENDS = 4
IMAP, POP3, IDLE = "imap-user", "pop3-user", "idle-user"
GARBAGE = [
    b"x" * 70_000,
    b"\n\0\0\0\n\x01\n\x01\x01\x01x\x01\n" + bytes(range(256)) * 3,
    b"idle-us",  # a writer that dies in the middle of a line
    b"\n" * 5000,
]


class LongSessions(NamedTuple):
    """A cluster of one director, with an IMAP and a POP3 session open for longer than EXPIRE."""

    cluster: Cluster
    moved: dict[str, str]
    """By user: the host to which the user was moved. The hash selects another host."""
    imap: Imap
    pop3: Pop3

    @property
    def director(self) -> ServeProcess:
        return self.cluster.directors[0]

    @property
    def fifo(self) -> Path:
        return self.cluster.proxies[0].run / "login/director/proxy-notify"

    def user(self, name: str) -> Any:
        """Return the director's answer about the user."""
        return self.director.get(f"/v1/users/{name}")


def place(cluster: Cluster, user: str) -> str:
    """Move a user to a host that the hash does not select, and return the host. If the assignment expired,
    the next login would go elsewhere."""
    director = cluster.directors[0]
    hashed = director.get(f"/v1/users/{user}")["hashed"]
    wanted = next(backend.address for backend in cluster.backends if backend.address != hashed)
    done = director.command("move", "--new", user, wanted)
    assert done.returncode == 0, done.stderr
    return wanted


def begin(release: str, stack: ExitStack) -> LongSessions:
    programs, (proxy, backend) = dovecot(release), FIRST[release]
    ports = free_ports([proxy, *addresses(backend, BACKENDS)], [proxy])
    cluster = stack.enter_context(
        Cluster(
            stack.enter_context(new_folder(programs)) / "c",
            directors=1,
            backends=BACKENDS,
            ports=ports,
            first_proxy=proxy,
            first_backend=backend,
            settings={"users": f'expire = "{EXPIRE} s"'},
            programs=programs,
        )
    )
    users = (IMAP, POP3, IDLE)
    with ThreadPoolExecutor() as pool:
        moved = dict(zip(users, pool.map(partial(place, cluster), users), strict=True))
    imap, pop3 = stack.enter_context(Imap(proxy, ports.imap)), stack.enter_context(Pop3(proxy, ports.pop3))
    imap.login(IMAP, "any")
    pop3.login(POP3, "any")
    login_imap(proxy, ports.imap, IDLE)
    return LongSessions(cluster, moved, imap, pop3)


def notified(sessions: LongSessions) -> None:
    """Return when each session has notified once more."""
    before = {user: sessions.user(user)["expires"] for user in (IMAP, POP3)}
    for user in before:
        until(
            lambda user=user: sessions.user(user)["expires"] > before[user],
            within=30,
            what=f"{user} notifies",
        )


@pytest.fixture(scope="module")
def both() -> Iterator[dict[str, LongSessions]]:
    """A cluster for each release; the tests wait for both at once. The FIFO gets garbage and is removed
    meanwhile."""
    with ExitStack() as stack:
        sessions = {release: begin(release, stack) for release in FIRST}
        for each in sessions.values():
            with each.fifo.open("wb", buffering=0) as fifo:
                for data in GARBAGE:
                    fifo.write(data)
        for each in sessions.values():
            notified(each)
            each.fifo.unlink()  # the login processes have it open by now
        begun = time.monotonic()
        for each in sessions.values():
            until(
                lambda each=each: each.user(IDLE)["current"] is None,
                within=60,
                what="the idle assignment expires",
            )
        time.sleep(max(0.0, begun + EXPIRE + 1 - time.monotonic()))
        yield sessions


@pytest.fixture(params=sorted(FIRST))
def sessions(request: pytest.FixtureRequest, both: dict[str, LongSessions]) -> LongSessions:
    return both[request.param]


def test_a_session_longer_than_expire_keeps_its_assignment(sessions: LongSessions) -> None:
    for user, session in ((IMAP, sessions.imap), (POP3, sessions.pop3)):
        found = sessions.user(user)
        assert found["current"] == sessions.moved[user]
        assert found["expires"] > time.time()
        assert answers(session)
    assert sessions.user(IDLE)["current"] is None


def test_garbage_in_the_fifo_and_its_removal_are_logged(sessions: LongSessions) -> None:
    for event in ("notify_line_too_long", "notify_fifo_replaced"):
        until(lambda event=event: f"event={event}" in sessions.director.log, what=event)
    assert "event=internal_error" not in sessions.director.log
    assert stat.S_ISFIFO(sessions.fifo.stat().st_mode)


def test_the_store_has_the_assignment_when_the_director_is_killed_and_started_again(
    sessions: LongSessions,
) -> None:
    sessions.director.kill()
    sessions.director.start()
    sessions.director.wait_ready()
    assert sessions.user(IMAP)["current"] == sessions.moved[IMAP]
    assert sessions.user(POP3)["current"] == sessions.moved[POP3]
    proxy = sessions.cluster.proxies[0]
    assert login_imap(proxy.address, proxy.ports.imap, IMAP) == sessions.imap.served_by()
    assert answers(sessions.pop3)


def test_sessions_keep_the_assignment_after_the_restart(sessions: LongSessions) -> None:
    notified(sessions)
    assert sessions.user(IMAP)["current"] == sessions.moved[IMAP]
