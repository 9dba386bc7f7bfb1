"""Every protocol on either Dovecot, and all that may happen to its users. Each test is a column of the table
that `python -m tests.e2e.protocols_table` prints. Login, wrong password and restart of auth run at a plain
proxy too.

An LMTP delivery and a doveadm command end before a kick or a move could end them, so both must complete: a
mail whose text is being sent is delivered to the old host. LMTP has no passwords: an unknown user stands in
for a wrong password. doveadm has a password of its own, for the port of the proxy's doveadm.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import NamedTuple

import pytest

from director.demo.clients import Refused
from director.demo.cluster import Cluster
from director.demo.dovecot import Programs, Proxy
from director.demo.ports import addresses, free_ports
from director.demo.settings import ALL_PROTOCOLS, DOVEADM_PASSWORD
from tests.e2e import mail
from tests.e2e.conftest import new_folder
from tests.e2e.processes import run_command, until
from tests.e2e.site import PASSWORD, Entrance, Site
from tests.e2e.visits import PROTOCOLS, SESSIONS, Visit, landed, returned, visit

FORGETFUL, FORGETFUL_BACKENDS = "127.0.33.11", "127.0.33.21"
EXPIRE = 10
WRONG_PASSWORD = {
    "imap": "a NO [AUTHENTICATIONFAILED] Authentication failed.",
    "pop3": "-ERR [AUTH] Authentication failed.",
    "submission": "535 5.7.8 Authentication failed.",
    "sieve": 'NO "Authentication failed."',
}

pytestmark = pytest.mark.parametrize("protocol", PROTOCOLS)


def elsewhere(site: Site, backend: str) -> tuple[str, str]:
    """Return name and address of another backend without a tag."""
    return next((other.name, other.address) for other in site.backends[:3] if other.name != backend)


class Stay(NamedTuple):
    """A user who was moved off the host that the hash selects, and has logged in again."""

    user: str
    visit: Visit

    @property
    def backend(self) -> str:
        return self.visit.backend


def moved(entrance: Entrance, protocol: str, user: str) -> Stay:
    """Move a user off the host that the hash selects, so that only a director with the assignment knows the
    host."""
    assert entrance.director is not None
    name, address = elsewhere(entrance.site, landed(entrance, protocol, user))
    run_command(entrance.director, "move", user, address)
    stay = Stay(user, visit(entrance, protocol, user))
    if protocol != "lmtp":  # its backend is known only at the end
        assert stay.backend == name
    return stay


@pytest.fixture(scope="module")
def begin_stays(site: Site) -> Iterator[Callable[[str], dict[str, Stay]]]:
    """Return a function that begins a visit by each protocol at the first director. Visits end with the
    module."""
    with ExitStack() as stack:

        def begin(prefix: str) -> dict[str, Stay]:
            begun = {p: moved(site.entrances[0], p, f"{prefix}-{p}") for p in PROTOCOLS}
            for stay in begun.values():
                stack.callback(stay.visit.close)
            return begun

        yield begin


# ---- logins


def test_login(entrance: Entrance, protocol: str) -> None:
    user = entrance.user(f"guest-{protocol}")
    backend = landed(entrance, protocol, user)
    assert backend == entrance.backend_of(user)
    assert landed(entrance, "imap", user) == backend


def test_wrong_password(entrance: Entrance, protocol: str) -> None:
    if protocol == "lmtp":
        unknown = entrance.user("ghost")
        with pytest.raises(Refused) as refusal:
            visit(entrance, protocol, unknown)
        assert refusal.value.reply == f"550 5.1.1 <{unknown}> User doesn't exist: {unknown}"
        return
    user = entrance.user(f"strict-{protocol}")
    with pytest.raises(Refused) as refusal:
        visit(entrance, protocol, user, "wrong")
    if protocol == "doveadm":
        assert re.fullmatch(r"75: .*doveadm authentication failed.*", refusal.value.reply, re.DOTALL)
    else:
        assert refusal.value.reply == WRONG_PASSWORD[protocol]
    visit(entrance, protocol, user, DOVEADM_PASSWORD if protocol == "doveadm" else PASSWORD).close()


# ---- an operator


def test_kick(site: Site, protocol: str) -> None:
    user, other = f"kicked-{protocol}", f"kept-in-{protocol}"
    with ExitStack() as stack:
        visits, others = everywhere(site, protocol, user, stack), everywhere(site, protocol, other, stack)
        output = run_command(site.directors[1], "kick", user).stdout
        live = [guest.goes_on() for guest in visits]
        assert [guest.goes_on() for guest in others] == [True, True]
        if protocol in SESSIONS:
            assert (live, output) == ([False, False], f"{user}: 2 sessions ended\n")
        else:
            assert (live, output) == ([True, True], f"{user}: 0 sessions ended\n")
        (backend,) = {guest.backend for guest in visits}
        assert [landed(entrance, protocol, user) for entrance in site.entrances] == [backend] * 2


def test_move(site: Site, protocol: str) -> None:
    user, other = f"moved-{protocol}", f"stays-{protocol}"
    old = landed(site.entrances[0], protocol, user)
    new, address = elsewhere(site, old)
    with ExitStack() as stack:
        visits, others = everywhere(site, protocol, user, stack), everywhere(site, protocol, other, stack)
        run_command(site.directors[1], "move", user, address)
        live = [guest.goes_on() for guest in visits]
        assert live == [protocol not in SESSIONS] * 2
        assert [guest.goes_on() for guest in others] == [True, True]
        if protocol == "lmtp":
            assert {guest.backend for guest in visits} == {old}
        assert [landed(entrance, protocol, user) for entrance in site.entrances] == [new, new]


def everywhere(site: Site, protocol: str, user: str, stack: ExitStack) -> list[Visit]:
    """Begin a visit at each entrance."""
    return [stack.enter_context(closing(visit(entrance, protocol, user))) for entrance in site.entrances]


# ---- time


class Forgotten(NamedTuple):
    """Users who were moved, logged in again, and were idle until their assignments expired."""

    entrance: Entrance
    came_back: dict[str, tuple[str, str]]
    """By protocol: the backend to which the user was moved, and the backend of the login after the move."""
    hashed: dict[str, str]
    """By protocol: the backend that the hash selects."""


@pytest.fixture(scope="module")
def forgotten(programs: Programs) -> Iterator[Forgotten]:
    """A director with the shortest expiry. The assignments of all protocols expire together."""
    hosts = addresses(FORGETFUL_BACKENDS, 2)
    ports = free_ports([FORGETFUL, *hosts], [FORGETFUL])
    with new_folder(programs) as folder, mail.relay("127.0.33.9") as relay:
        cluster = Cluster(
            folder / "c",
            directors=1,
            backends=2,
            ports=ports,
            first_proxy=FORGETFUL,
            first_backend=FORGETFUL_BACKENDS,
            settings={"users": f'expire = "{EXPIRE} s"'},
            programs=programs,
            protocols=ALL_PROTOCOLS,
        )
        for backend in cluster.backends:
            backend.relay = relay
        with cluster:
            site = Site(cluster, cluster.proxies[0], None)
            entrance, director = site.entrances[0], cluster.directors[0]
            hashed, came_back = {}, {}
            for protocol in PROTOCOLS:
                user = f"idle-{protocol}"
                hashed[protocol] = landed(entrance, protocol, user)
                new = next(backend for backend in cluster.backends if backend.name != hashed[protocol])
                run_command(director, "move", user, new.address)
                came_back[protocol] = new.name, landed(entrance, protocol, user)
            for protocol in PROTOCOLS:
                until(
                    lambda user=f"idle-{protocol}": director.ask("status", user)["current"] is None,
                    within=4 * EXPIRE,
                    what=f"idle-{protocol} is forgotten",
                )
            yield Forgotten(entrance, came_back, hashed)


def test_expiry(forgotten: Forgotten, protocol: str) -> None:
    moved_to, came_back_to = forgotten.came_back[protocol]
    assert came_back_to == moved_to
    assert landed(forgotten.entrance, protocol, f"idle-{protocol}") == forgotten.hashed[protocol]


# ---- failures


@pytest.fixture(scope="module")
def replaced(site: Site, begin_stays: Callable[[str], dict[str, Stay]]) -> dict[str, Stay]:
    """Visits during which the program of the first director was replaced in place."""
    begun = begin_stays("replaced")
    run_command(site.directors[0], "reload", "--exec")
    return begun


def test_director_replaced(site: Site, replaced: dict[str, Stay], protocol: str) -> None:
    stay = replaced[protocol]
    assert stay.visit.goes_on()
    assert landed(site.entrances[0], protocol, stay.user) == stay.backend


@pytest.fixture(scope="module")
def restarted(site: Site, begin_stays: Callable[[str], dict[str, Stay]]) -> dict[str, Stay]:
    """Visits during which the first director was stopped in order and started again."""
    begun = begin_stays("restart")
    site.directors[0].restart()
    return begun


@pytest.fixture(scope="module")
def crashed(site: Site, begin_stays: Callable[[str], dict[str, Stay]]) -> dict[str, Stay]:
    """Visits during which the first director was killed and started again."""
    begun = begin_stays("crash")
    site.directors[0].kill()
    site.directors[0].start()
    site.directors[0].wait_ready()
    return begun


def test_director_restart(site: Site, restarted: dict[str, Stay], protocol: str) -> None:
    stay = restarted[protocol]
    assert stay.visit.goes_on()
    assert returned(site.entrances[0], protocol, stay.user) == stay.backend


def test_director_crash(site: Site, crashed: dict[str, Stay], protocol: str) -> None:
    stay = crashed[protocol]
    assert stay.visit.goes_on()
    assert returned(site.entrances[0], protocol, stay.user) == stay.backend


def kill_auth(proxy: Proxy) -> None:
    """Kill all auth processes, and wait until none is left. Dovecot starts others."""
    ended = proxy.processes("auth")
    assert ended
    for process in ended:
        os.kill(process, signal.SIGKILL)
    until(lambda: not set(ended) & set(proxy.processes("auth")), within=20)


def test_auth_restart(entrance: Entrance, protocol: str) -> None:
    user = entrance.user(f"patient-{protocol}")
    with closing(visit(entrance, protocol, user)) as guest:
        kill_auth(entrance.proxy)
        assert guest.goes_on()
        assert returned(entrance, protocol, user) == guest.backend
