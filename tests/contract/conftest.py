"""Real stores for the contract tests: a file in a temporary folder, or a Redis server of the tests."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

from state.base import StateStore, StoreError
from state.urls import open_store
from tests import rights
from tests.faulty import Fault, FaultyStore
from tests.groups import ClusterGroup, SentinelGroup
from tests.rights import PASSWORD
from tests.servers import RedisServer, free_port

TIMEOUT = 2.0

NewStore = Callable[[], StateStore]
"""Makes another object for the same store."""

Kind = TypeVar("Kind", bound=StateStore)


class Stores:
    """The stores of one test. All are closed at its end, even if it fails."""

    def __init__(self) -> None:
        self._all: list[StateStore] = []

    def new(self, url: str, *, folder: Path = Path("/"), timeout: float = TIMEOUT) -> StateStore:
        """Return a store that is not open yet. `folder`: the start of relative paths."""
        return self.keep(open_store(url, base_dir=folder, timeout=timeout))

    async def open(self, url: str, *, folder: Path = Path("/"), timeout: float = TIMEOUT) -> StateStore:
        """Return an open store."""
        store = self.new(url, folder=folder, timeout=timeout)
        await store.open()
        return store

    def keep(self, store: Kind) -> Kind:
        """Close this store at the end too."""
        self._all.append(store)
        return store

    async def close(self) -> None:
        for store in reversed(self._all):
            await store.close()


@pytest.fixture
async def stores() -> AsyncIterator[Stores]:
    stores = Stores()
    yield stores
    await stores.close()


@pytest.fixture(scope="session")
def redis_for_all() -> Iterator[RedisServer]:
    """A server for all tests that leave it unchanged."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_server(redis_for_all: RedisServer) -> RedisServer:
    """The shared server, emptied."""
    redis_for_all.command("FLUSHALL")
    return redis_for_all


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server for one test, which may do anything with the server. The data survive restarts."""
    with RedisServer(appendonly=True, options={"appendfsync": "always"}) as server:
        yield server


@pytest.fixture(scope="session")
def limited_redis() -> Iterator[RedisServer]:
    """A server on a socket, a port and a port for TLS, with the user that the documentation describes."""
    user = {"user": f"director on >{PASSWORD} {rights.SERVER}"}
    with RedisServer(port=free_port(), tls_port=free_port(), options=user) as server:
        yield server


@pytest.fixture(scope="session")
def sentinels() -> Iterator[SentinelGroup]:
    """Sentinels with the documented users, for all tests that leave the same number of servers and
    sentinels."""
    all_rights = {"rights": rights.BEHIND_SENTINEL, "sentinel_rights": rights.SENTINEL}
    with SentinelGroup(**all_rights, password=PASSWORD) as group:
        yield group


@pytest.fixture(scope="session")
def cluster() -> Iterator[ClusterGroup]:
    """A Cluster with the documented user, for all tests that leave the same number of nodes."""
    with ClusterGroup(rights=rights.NODE, password=PASSWORD) as group:
        yield group


@pytest.fixture(params=["sqlite", "redis", "sentinel", "cluster"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path, stores: Stores) -> NewStore:
    """The stores that outlive a process."""
    return _factory(request, tmp_path, stores)


@pytest.fixture(
    params=[
        "memory",
        "late",
        "sqlite",
        "redis",
        "user-on-socket",
        "user-on-tcp",
        "user-on-tls",
        "sentinel",
        "cluster",
    ]
)
async def store(request: pytest.FixtureRequest, tmp_path: Path, stores: Stores) -> StateStore:
    """Each store, open. The calls of `late` overtake each other."""
    store = _factory(request, tmp_path, stores)()
    if request.param == "late":
        chance = random.Random(1)
        store = FaultyStore(store, lambda operation: chance.choice([Fault.NONE, Fault.DELAY]))
    await store.open()
    return store


@pytest.fixture(params=["memory", "sqlite", "redis", "sentinel", "cluster"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path, stores: Stores) -> NewStore:
    """One store of each kind."""
    return _factory(request, tmp_path, stores)


@pytest.fixture
async def each_store(any_store: NewStore) -> StateStore:
    """One store of each kind, open."""
    store = any_store()
    await store.open()
    return store


def _factory(request: pytest.FixtureRequest, folder: Path, stores: Stores) -> NewStore:
    url = _url(request)
    return lambda: stores.new(url, folder=folder)


def _url(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty store."""
    match request.param:
        case "memory" | "late":
            return "memory:"
        case "sqlite":
            return "sqlite:///state.db"
        case "redis":
            server: RedisServer = request.getfixturevalue("redis_server")
            return server.url
        case "sentinel" | "cluster":
            group: SentinelGroup | ClusterGroup = request.getfixturevalue(
                {"sentinel": "sentinels"}.get(request.param, "cluster")
            )
            group.flush()
            return group.url
    server = request.getfixturevalue("limited_redis")
    server.command("FLUSHALL")
    if request.param == "user-on-tls":
        request.getfixturevalue("monkeypatch").setenv("SSL_CERT_FILE", str(server.certificate))
        return f"rediss://director:{PASSWORD}@127.0.0.1:{server.tls_port}"
    if request.param == "user-on-tcp":
        return f"redis://director:{PASSWORD}@127.0.0.1:{server.port}"
    return f"unix://director:{PASSWORD}@{server.socket}"


async def until(condition: Callable[[], Awaitable[bool]], *, within: float = 30.0) -> None:
    """Return as soon as `condition` holds, for conditions that depend on the clock of a server."""
    with anyio.fail_after(within):
        while not await condition():  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def failure_of_open(url: str) -> StoreError:
    """Return the error with which the store of this URL cannot be opened."""
    store = open_store(url, base_dir=Path("/"), timeout=2.0)
    try:
        with pytest.raises(StoreError) as caught:
            await store.open()
    finally:
        await store.close()
    return caught.value
