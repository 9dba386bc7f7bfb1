"""One director or all directors end and start again: users keep their hosts, hosts keep weight and state."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from director.demo.clients import Login, failures
from director.demo.cluster import Cluster
from director.demo.ports import Ports, addresses, free_ports
from tests.e2e.lookups import hosts_of
from tests.e2e.mailclients import on_two_backends
from tests.needs import needs
from tests.servers import RedisServer

PROXIES, BACKENDS = "127.0.22.11", "127.0.23.1"
OUTAGE = 1.0
AGREE = 10.0


@pytest.fixture
def own_ports() -> Ports:
    needs("dovecot", "doveadm")
    proxies = addresses(PROXIES, 3)
    return free_ports([*proxies, *addresses(BACKENDS, 4)], proxies)


@pytest.fixture(params=["sqlite", "redis"])
def restarting(request: pytest.FixtureRequest, own_ports: Ports) -> Iterator[Cluster]:
    """A cluster for one test, with a store in each director, then with one Redis for all."""
    with ExitStack() as stack:
        state = "sqlite:///state.db" if request.param == "sqlite" else stack.enter_context(RedisServer()).url
        cluster = Cluster(ports=own_ports, first_proxy=PROXIES, first_backend=BACKENDS, state=state)
        yield stack.enter_context(cluster)


def host_table(cluster: Cluster, number: int) -> list[tuple[Any, ...]]:
    hosts = cluster.directors[number].ask("status")["hosts"]
    return [(host["address"], host["tag"], host["weight"], host["up"]) for host in hosts]


def all_users(cluster: Cluster, number: int) -> dict[str, str]:
    return {user["key"]: user["host"] for user in cluster.directors[number].ask("map")}


def wait_until_all_know(cluster: Cluster, users: int) -> None:
    deadline = time.monotonic() + AGREE
    while any(director.ask("status")["users"] != users for director in cluster.directors):
        assert time.monotonic() < deadline, [
            director.ask("status")["users"] for director in cluster.directors
        ]


def test_a_restart_of_all_directors_moves_no_user_and_keeps_weights_and_states(restarting: Cluster) -> None:
    users = [f"user{number}" for number in range(20_000)]
    first, second, third = addresses(BACKENDS, 3)
    assert restarting.directors[0].command("update", first, "30").returncode == 0
    assigned: dict[str, str] = {}
    for number, proxy in enumerate(restarting.proxies):
        assigned |= hosts_of(proxy.run / "director-userdb", users[number::3])
    assert restarting.directors[1].command("update", second, "250").returncode == 0
    assert restarting.directors[2].command("down", third).returncode == 0
    wait_until_all_know(restarting, len(users))
    before = [(host_table(restarting, number), all_users(restarting, number)) for number in range(3)]

    restarting.stop_directors()
    restarting.start_directors()

    after = [(host_table(restarting, number), all_users(restarting, number)) for number in range(3)]
    again: dict[str, str] = {}
    for number, proxy in enumerate(restarting.proxies):
        again |= hosts_of(proxy.run / "director-userdb", users[(number + 1) % 3 :: 3])
    assert [user for user in users if assigned[user] != again[user]] == []
    assert [table for table, _ in after] == [table for table, _ in before]
    assert [len(users_there) for _, users_there in after] == [20_000] * 3
    assert all(was == now for (_, was), (_, now) in zip(before, after, strict=True))


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_mail_logins_continue_while_one_director_is_killed_and_started_again(
    own_ports: Ports, victim: int
) -> None:
    users = [f"user{number % 300}" for number in range(1000)]
    finished: list[Login] = []
    cluster = Cluster(ports=own_ports, first_proxy=PROXIES, first_backend=BACKENDS)
    with cluster, ThreadPoolExecutor(1) as pool:
        logins = pool.submit(cluster.log_in, users, rate=100, parallel=200, done=finished.append)
        while len(finished) < 300:
            time.sleep(0.01)
        dying = time.monotonic()
        cluster.directors[victim].kill()
        dead = time.monotonic()
        time.sleep(OUTAGE)
        restarted = time.monotonic()
        cluster.directors[victim].start()
        cluster.directors[victim].wait_ready()
        results = logins.result()
        address = cluster.proxies[victim].address
    in_flight = [
        login
        for login in failures(results)
        if login.via == address and login.began <= dead and dying <= login.began + login.seconds
    ]
    assert failures(results) == in_flight
    assert all(login.began + login.seconds <= restarted for login in in_flight), "they fail at once"
    assert on_two_backends(results) == {}
    assert len({login.backend for login in results}) >= 4
