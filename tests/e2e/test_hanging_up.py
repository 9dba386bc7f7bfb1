"""Clients of real directors that hang up: the commands that they had sent are carried out everywhere."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Client, DirectorProcess, Directors, connect, until
from tests.poolmon import GREETING, Poolmon, over_tcp, over_unix
from tests.servers import free_port

FIRST = "127.0.88.11"
HOSTS = [f"127.0.3.{number}" for number in (1, 2, 3, 4)]
NAMES = [f"user{number}" for number in range(200)]


class Ring:
    def __init__(self, directors: Directors, tcp: list[str]) -> None:
        self.all, self.tcp = directors.all, tcp

    def log_in(self) -> dict[str, str]:
        """Log in all users, each director in turn, and return their hosts."""
        hosts: dict[str, str] = {}
        for number, director in enumerate(self.all):
            with Client(director.login) as client:
                hosts |= client.ask(NAMES[number :: len(self.all)])
        return hosts

    def monitors(self, way: str) -> list[Poolmon]:
        """Return a monitor for each director."""
        return (
            [over_unix(director.admin) for director in self.all]
            if way == "unix"
            else list(map(over_tcp, self.tcp))
        )

    def wait_for(self, down: set[str]) -> None:
        """Wait until these hosts are down and have no users, on every director."""
        for director in self.all:
            listing = over_unix(director.admin)
            until(lambda listing=listing: listing.hosts_down() == down, what="the hosts that are down")
            until(
                lambda listing=listing: not listing.hosts_with_users() & down,
                what="users of a host that is down",
            )


@pytest.fixture(params=[1, 3])
def ring(request: pytest.FixtureRequest, folder: Path) -> Iterator[Ring]:
    head, _, last = FIRST.rpartition(".")
    tcp = [f"{head}.{int(last) + number}:{free_port()}" for number in range(request.param)]
    each = [{"settings": {"listen.admin": f'tcp = "{address}"'}} for address in tcp]
    with Directors(folder, first=FIRST, count=request.param, state="memory:", each=each) as directors:
        directors.wait_whole()
        yield Ring(directors, tcp)


@pytest.mark.parametrize("way", ["unix", "tcp"])
def test_poolmon_moves_users_off_dead_hosts(ring: Ring, way: str) -> None:
    assert set(ring.log_in().values()) == set(HOSTS)
    for dead in ({HOSTS[0]}, set(HOSTS[:3]), {HOSTS[3]}, set()):
        scans = [threading.Thread(target=monitor.scan, args=(dead,)) for monitor in ring.monitors(way)]
        for scan in scans:
            scan.start()
        for scan in scans:
            scan.join()
        ring.wait_for(dead)
        assert not set(ring.log_in().values()) & dead


@pytest.fixture
def director(folder: Path) -> Iterator[DirectorProcess]:
    with Directors(folder, first=FIRST, count=1) as directors:
        directors.wait_whole()
        yield directors[0]


def send_and_hang_up(director: DirectorProcess) -> int:
    """Send many changes of a host's weight, and hang up. Returns the last weight."""
    weights = range(1, 31)
    with connect(director.admin) as sock:
        sock.sendall(
            GREETING + b"".join(b"HOST-UPDATE\t%s\t%d\n" % (HOSTS[0].encode(), weight) for weight in weights)
        )
    return weights[-1]


def test_commands_that_were_sent_are_carried_out_before_the_program_is_replaced(
    director: DirectorProcess,
) -> None:
    weight = send_and_hang_up(director)
    director.send(signal.SIGUSR2)
    until(lambda: director.ready() and director.get("/v1/reload")["number"] == 1)
    assert director.hosts()[0][2] == weight
    assert not director.all_logged("admin_commands_dropped")


def test_commands_that_were_sent_are_carried_out_before_the_director_stops(director: DirectorProcess) -> None:
    weight = send_and_hang_up(director)
    assert director.stop() == 0
    director.start().wait_ready()
    assert director.hosts()[0][2] == weight
    assert not director.all_logged("admin_commands_dropped")
