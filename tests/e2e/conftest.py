"""Fixtures with real Dovecot as proxies and backends.

Each case also runs with a plain proxy, to show that the case is right.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from director.demo.cluster import Cluster
from director.demo.dovecot import Backend, Programs, Proxy
from director.demo.ports import Ports, addresses, free_ports
from director.demo.settings import ALL_PROTOCOLS, Rule
from tests import debian13
from tests.e2e import site as sites
from tests.e2e.site import Entrance, Site
from tests.needs import cannot_run, needs
from tests.servers import RedisServer
from tests.spinning import end_spinning_anvils

# Not the demo's addresses: both may run at the same time.
PROXIES, BACKENDS = "127.0.20.11", "127.0.21.1"
PLAIN_PROXY, PLAIN_BACKENDS = "127.0.20.21", "127.0.21.21"
SECONDS = 120


def rules(fixed: str, host: str = "") -> list[Rule]:
    """Return which users the proxies let in. `host` is what a passdb answers if no director is behind it."""
    return [
        Rule("strict*", password="secret", host=host),
        Rule("fixed*", host=fixed),
        Rule("local*", proxy=False),
        Rule("!strict* !fixed* !local*", host=host),
    ]


class Front(NamedTuple):
    """A proxy that clients log in to, and the backends behind it.

    Users called strict… have the password `secret`, fixed… get the backend `b3` from the passdb, local… are
    not proxied. All other users get in with any password.
    """

    proxy: Proxy
    backends: list[Backend]
    ports: Ports

    @property
    def address(self) -> str:
        return self.proxy.address


@pytest.fixture(scope="module", autouse=True)
def quiet_anvils() -> Iterator[None]:
    yield
    end_spinning_anvils()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # By signal: the other method ends the process at once and would leave servers running.
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(SECONDS, method="signal"))


@contextmanager
def new_folder(programs: Programs | None = None) -> Iterator[Path]:
    """Give a folder for one use that this Dovecot can see.

    It is not pytest's folder: a socket's path has 107 bytes at most, and Dovecot must be able to enter.
    """
    parent = programs and programs.root and programs.root / "t"
    if parent:
        parent.mkdir(mode=0o755, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="e2e-", dir=parent) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def folder() -> Iterator[Path]:
    with new_folder() as folder:
        yield folder


@pytest.fixture(params=["sqlite", "redis"])
def state(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of the directors' store: a file of each director, then one Redis."""
    if request.param == "redis":
        with RedisServer(appendonly=True) as server:
            yield server.url
    else:
        yield "sqlite:///state.db"


def dovecot(release: str) -> Programs:
    """Return Dovecot of this machine if it is that release, else 2.4 of the Debian 13 beside it."""
    needs("dovecot", "doveadm")
    here = Programs()
    if release == here.release:
        return here
    if release == "2.3":
        cannot_run(f"needs Dovecot 2.3, as Debian 12 has it; this machine has {here.release}")
    return Programs(debian13.root())


@pytest.fixture(scope="package", params=["2.3", "2.4"])
def programs(request: pytest.FixtureRequest) -> Programs:
    """Return either Dovecot: each test runs with both."""
    return dovecot(request.param)


@pytest.fixture(scope="package")
def ports() -> Ports:
    needs("dovecot", "doveadm")
    proxies = addresses(PROXIES, 3)
    servers = [*proxies, *addresses(BACKENDS, 4), PLAIN_PROXY, *addresses(PLAIN_BACKENDS, 4)]
    return free_ports(servers, proxies)


@pytest.fixture(scope="package")
def cluster(ports: Ports, programs: Programs) -> Iterator[Cluster]:
    """Three directors, each with a proxy, and four backends."""
    passdb = rules(fixed=addresses(BACKENDS, 4)[2])
    with (
        new_folder(programs) as folder,
        Cluster(
            folder / "c",
            ports=ports,
            first_proxy=PROXIES,
            first_backend=BACKENDS,
            passdb=passdb,
            programs=programs,
            protocols=ALL_PROTOCOLS,
        ) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="package")
def plain(ports: Ports, programs: Programs) -> Iterator[Front]:
    """A proxy without a director, whose passdb sends all users to the second of four backends."""
    hosts = addresses(PLAIN_BACKENDS, 4)
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder(programs))
        backends = [
            stack.enter_context(
                Backend(folder / f"b{n}", f"b{n}", host, ports, programs=programs, protocols=ALL_PROTOCOLS)
            )
            for n, host in enumerate(hosts, 1)
        ]
        proxy = Proxy(
            folder / "p1",
            "p1",
            PLAIN_PROXY,
            ports,
            passdb=rules(hosts[2], hosts[1]),
            director=False,
            programs=programs,
            protocols=ALL_PROTOCOLS,
        )
        yield Front(stack.enter_context(proxy), backends, ports)


@pytest.fixture(params=["plain", "director"])
def front(request: pytest.FixtureRequest, programs: Programs) -> Front:
    """The plain proxy, then the first of the three with a director, each of both releases."""
    if request.param == "plain":
        plain: Front = request.getfixturevalue("plain")
        return plain
    cluster: Cluster = request.getfixturevalue("cluster")
    return Front(cluster.proxies[0], cluster.backends, cluster.ports)


@pytest.fixture(scope="package")
def site(programs: Programs) -> Iterator[Site]:
    with new_folder(programs) as folder, sites.running(folder, programs) as site:
        yield site


@pytest.fixture(params=["plain", "director"])
def entrance(request: pytest.FixtureRequest, site: Site) -> Entrance:
    """The site's plain proxy, then one with a director."""
    return site.plain_entrance if request.param == "plain" else site.entrances[0]
