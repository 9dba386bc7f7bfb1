"""Login processes and auth that die, stop, or are suspended for a while, with clients in the middle. No
client waits without end, and every client that a proxy without a director would have served is served.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from director.demo.clients import Refused
from director.demo.ports import is_free
from tests.e2e import mail
from tests.e2e.processes import until
from tests.e2e.site import KINDS, SERVICES, Entrance, Site
from tests.e2e.test_protocols import kill_auth
from tests.e2e.visits import SESSIONS, Session, landed

LOGIN = {
    "imap": "a AUTHENTICATE PLAIN {}",
    "pop3": "AUTH PLAIN {}",
    "submission": "AUTH PLAIN {}",
    "sieve": 'AUTHENTICATE "PLAIN" "{}"',
}


def end(processes: Iterable[int]) -> None:
    for process in processes:
        os.kill(process, signal.SIGKILL)


@contextmanager
def suspended(processes: list[int]) -> Iterator[None]:
    assert processes
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


def ask(session: mail.Session, protocol: str, user: str) -> None:
    """Send a login, and return when the login process has read it. The answer is still to come."""
    session.send(LOGIN[protocol].format(mail.encoded(f"\0{user}\0any".encode())))
    until(lambda: session.unread() == 0, what="the login process has read the request")


def idle_files(entrance: Entrance) -> int:
    """Return the number of the director's open files, without the two of each login process."""
    assert entrance.director is not None
    assert entrance.director.process is not None
    opened = Path(f"/proc/{entrance.director.process.pid}/fd").iterdir()
    return len(list(opened)) - 2 * len(login_processes(entrance))


@pytest.fixture
def nothing_left(entrance: Entrance) -> Iterator[None]:
    """Check after the test that the director has closed its connections to ended login processes."""
    if entrance.director is None:
        yield
        return
    landed(entrance, "imap", entrance.user("first"))
    before = idle_files(entrance)
    yield
    until(lambda: idle_files(entrance) <= before, within=20, what="the director has closed what ended")


def login_processes(entrance: Entrance, protocols: Iterable[str] = SESSIONS) -> list[int]:
    return [pid for protocol in protocols for pid in entrance.proxy.processes(SERVICES[protocol])]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("protocol", KINDS)
def test_a_login_process_that_is_killed_during_a_request_ends_no_other_login(
    entrance: Entrance, protocol: str
) -> None:
    user = entrance.user(f"asking-{protocol}")
    landed(entrance, protocol, user)
    with entrance.connect(protocol) as session:
        with suspended(entrance.proxy.processes("auth")):
            ask(session, protocol, user)
            end(login_processes(entrance, [protocol]))
            with pytest.raises(OSError, match=r"clos|reset"):
                session.answer()
        assert landed(entrance, protocol, user) == entrance.backend_of(user)


@pytest.mark.parametrize("protocol", KINDS)
def test_a_user_whose_login_process_is_killed_gets_the_same_backend_again(
    entrance: Entrance, protocol: str
) -> None:
    user = entrance.user(f"cut-off-{protocol}")
    with closing(Session(entrance, protocol, user, "any")) as guest:
        end(login_processes(entrance, [protocol]))
        assert not guest.goes_on()
        assert landed(entrance, protocol, user) == guest.backend


def test_clients_that_log_in_while_auth_is_suspended_are_served_when_it_continues(entrance: Entrance) -> None:
    users = {protocol: entrance.user(f"freezing-{protocol}") for protocol in KINDS}
    for protocol, user in users.items():
        landed(entrance, protocol, user)
    with ExitStack() as stack:
        sessions = {protocol: stack.enter_context(entrance.connect(protocol)) for protocol in KINDS}
        with suspended(entrance.proxy.processes("auth")):
            for protocol, session in sessions.items():
                ask(session, protocol, users[protocol])
        for session in sessions.values():
            session.answer()
            session.noop()


def test_clients_of_a_login_process_that_meets_a_suspended_auth_are_served_when_it_continues(
    entrance: Entrance,
) -> None:
    """A login process greets its clients only after auth has greeted it."""
    landed(entrance, "imap", entrance.user("warm"))  # there is an auth process
    end(login_processes(entrance))
    until(lambda: not login_processes(entrance))
    user = entrance.user("early")
    with ThreadPoolExecutor() as pool:
        with suspended(entrance.proxy.processes("auth")):
            logins = [pool.submit(landed, entrance, protocol, user) for protocol in KINDS]
            until(
                lambda: len(login_processes(entrance)) >= len(KINDS),
                what="every client has its login process",
            )
        assert [login.result() for login in logins] == [entrance.backend_of(user)] * len(KINDS)


def test_clients_that_connect_while_no_auth_runs_are_served_when_it_is_back(entrance: Entrance) -> None:
    """Dovecot's master keeps the sockets, so they wait. submission-login disconnects clients that have sent a
    login."""
    user = entrance.user("late")
    landed(entrance, "imap", user)
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        waiting = [protocol for protocol in KINDS if protocol != "submission"]
        sessions = {protocol: stack.enter_context(entrance.connect(protocol)) for protocol in waiting}
        master = entrance.proxy.processes()[0]
        with suspended([master]):
            end(entrance.proxy.processes("auth"))
            for protocol, session in sessions.items():
                ask(session, protocol, user)
            late = [pool.submit(landed, entrance, protocol, f"{user}r") for protocol in KINDS]
        for session in sessions.values():
            try:
                session.answer()
            except Refused:  # sent before its login process had noticed
                session.authenticate(mail.plain(user), initial=True)
            session.noop()
        later = [login.result() for login in late]
    assert later == [entrance.backend_of(f"{user}r")] * len(KINDS)


def test_sessions_and_logins_continue_over_a_reload_of_dovecot(entrance: Entrance) -> None:
    user = entrance.user("reloaded")
    with ExitStack() as stack:
        guests = [stack.enter_context(closing(Session(entrance, p, user, "any"))) for p in KINDS]
        assert entrance.proxy.doveadm("reload").returncode == 0
        backends = [landed(entrance, protocol, user) for protocol in KINDS]
        assert [guest.goes_on() for guest in guests] == [True] * len(guests)
        assert backends == [guest.backend for guest in guests]


def test_auth_that_is_killed_repeatedly_loses_no_login_permanently(entrance: Entrance) -> None:
    user = entrance.user("stubborn")
    backend = landed(entrance, "imap", user)
    for _ in range(3):
        kill_auth(entrance.proxy)
        seen = []
        while not seen:
            with suppress(Refused):
                seen.append(landed(entrance, "imap", user))
        assert seen == [backend]


def test_kicks_reach_the_sessions_of_a_dovecot_that_was_stopped_and_started(site: Site) -> None:
    """Kicks went to the anvil of the stopped Dovecot, which waited for the director to close its
    connection."""
    entrance, user = site.entrances[0], "survivor"
    assert entrance.director is not None
    landed(entrance, "imap", user)
    entrance.director.command("kick", user)
    entrance.proxy.stop_master()
    until(lambda: all(is_free(entrance.address, port) for port in entrance.proxy.listening), within=20)
    entrance.proxy.start()
    with closing(Session(entrance, "imap", user, "any")) as guest:
        assert entrance.director.command("kick", user).stdout == f"{user}: 1 session ended\n"
        assert not guest.goes_on()
