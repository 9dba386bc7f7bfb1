"""Redis alone, behind Sentinel and in a Cluster, with answers that can be lost after the command has run."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import anyio.to_thread
from redis.exceptions import RedisClusterException, RedisError

from state.base import StoreError
from state.redis_clients import ClusterAddress, RedisAddress, SentinelAddress
from tests.groups import LOCAL, SERVICE, ClusterGroup, wait_for
from tests.servers import RedisServer, free_port

KEY = "{lost}count"
CUT, SILENT = "closed", "silent"
"""The fate of the connection whose answer is lost."""
FAILURES = (RedisError, RedisClusterException, OSError, StoreError)


class LostAnswers:
    """A proxy between clients and one server.

    After `lose` the answer to the next request that names KEY is lost.
    """

    def __init__(self, target: int) -> None:
        self.port, self._target, self._how = 0, target, ""

    def lose(self, how: str) -> None:
        self._how = how

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        listener = await anyio.create_tcp_listener(local_host=LOCAL)
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        task_status.started()
        async with listener:
            await listener.serve(self._pass_on)

    async def _pass_on(self, client: anyio.abc.SocketStream) -> None:
        lost = ""

        async def requests() -> None:
            nonlocal lost
            async for data in client:
                if self._how and KEY.encode() in data:
                    lost, self._how = self._how, ""
                await server.send(data)

        async def replies() -> None:
            async for data in server:
                if lost == CUT:
                    break
                if not lost:
                    await client.send(data)

        async def until_end(way: Callable[[], Awaitable[None]]) -> None:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await way()
            tasks.cancel_scope.cancel()

        async with client, await anyio.connect_tcp(LOCAL, self._target) as server:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(until_end, requests)
                tasks.start_soon(until_end, replies)


class Place:
    """The servers of one topology behind proxies."""

    def __init__(
        self, address: RedisAddress, keeper: Callable[[], RedisServer], proxies: Sequence[LostAnswers]
    ) -> None:
        """Keep the servers. `keeper` returns the server that keeps KEY."""
        self.address, self._keeper, self._proxies = address, keeper, proxies

    async def times_run(self, send: Callable[[], Awaitable[object]], how: str) -> int:
        """Return how often INCR of KEY has run after `send`, whose answer is lost once and which may fail."""
        before = await anyio.to_thread.run_sync(self._count)
        for proxy in self._proxies:
            proxy.lose(how)
        with contextlib.suppress(*FAILURES):
            await send()
        for proxy in self._proxies:
            proxy.lose("")
        return await anyio.to_thread.run_sync(self._count) - before

    def _count(self) -> int:
        answer = self._keeper().command("GET", KEY)
        return 0 if answer.startswith(b"$-1") else int(answer.split(b"\r\n")[1])


@asynccontextmanager
async def proxied(ports: Sequence[int]) -> AsyncIterator[list[LostAnswers]]:
    async with anyio.create_task_group() as tasks:
        proxies = [LostAnswers(port) for port in ports]
        for proxy in proxies:
            await tasks.start(proxy.serve)
        yield proxies
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def alone() -> AsyncIterator[Place]:
    with RedisServer(port=free_port()) as server:
        async with proxied([server.port]) as proxies:
            address = RedisAddress(url="alone", host=LOCAL, port=proxies[0].port, prefix="dd:")
            yield Place(address, lambda: server, proxies)


@asynccontextmanager
async def behind_sentinel() -> AsyncIterator[Place]:
    """Give a server whose sentinel names the proxy as the primary."""
    with RedisServer(port=free_port()) as server:
        async with proxied([server.port]) as proxies:
            options = {
                "sentinel monitor": f"{SERVICE} {LOCAL} {proxies[0].port} 1",
                "sentinel down-after-milliseconds": f"{SERVICE} 60000",
            }
            watcher = RedisServer(port=free_port(), options=options, sentinel=True)
            try:
                await anyio.to_thread.run_sync(watcher.start)
                nodes = ((LOCAL, watcher.port),)
                address = SentinelAddress(url="sentinel", sentinels=nodes, service=SERVICE, prefix="dd:")
                yield Place(address, lambda: server, proxies)
            finally:
                watcher.close()


@asynccontextmanager
async def in_cluster() -> AsyncIterator[Place]:
    """Give a Cluster whose primaries announce the ports of the proxies."""
    with ClusterGroup() as group:
        primaries = group.primaries()
        async with proxied([server.port for server in primaries]) as proxies:
            await anyio.to_thread.run_sync(_announce, primaries, proxies)
            nodes = tuple((LOCAL, proxy.port) for proxy in proxies)
            address = ClusterAddress(url="cluster", nodes=nodes, prefix="dd:")
            yield Place(address, lambda: group.keeper(KEY), proxies)


TOPOLOGIES = {"alone": alone, "Sentinel": behind_sentinel, "Cluster": in_cluster}


def _announce(primaries: Sequence[RedisServer], proxies: Sequence[LostAnswers]) -> None:
    for server, proxy in zip(primaries, proxies, strict=True):
        server.command("CONFIG", "SET", "cluster-announce-port", str(proxy.port))
    announced = [b":%d\r\n" % proxy.port for proxy in proxies]
    wait_for(
        lambda: all(port in server.command("CLUSTER", "SLOTS") for server in primaries for port in announced),
        "the ports of the proxies",
    )
