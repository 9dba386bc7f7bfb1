"""redis-py's own clients, beside the director's links to Redis: `python -m tests.bench.redis_clients`.

- lost: a server runs a command (INCR) and its answer is lost: the connection is closed, or stays silent until
  the client's time-out. The table shows how often the command has run. 1: it was sent once.
- flush: a flush of 4,096 buckets in a Cluster, as time and CPU time.
- move: a command over two keys of a slot that is being moved (TRYAGAIN) in a Cluster.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from statistics import median
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.retry
import redis.asyncio.sentinel
from redis.backoff import NoBackoff

from state.cluster import ClusterLink
from state.redis import link_to
from state.redis_clients import ClusterAddress, RedisAddress, SentinelAddress
from state.redis_link import Command
from state.redis_scripts import SCRIPTS, SWAP_SHA
from state.resolver import Resolver
from tests.groups import LOCAL, ClusterGroup, slot_of
from tests.lostanswers import CUT, FAILURES, KEY, SILENT, TOPOLOGIES

TIMEOUT = 0.4
"""Seconds that a client waits for an answer."""
LONG = 30.0
BLOB = b"u" * 1024

Send = Callable[[], Awaitable[object]]
"""Sends the command once, as far as the caller knows."""
Close = Callable[[], Awaitable[None]]


def never() -> dict[str, Any]:
    return {"socket_timeout": TIMEOUT, "retry": redis.asyncio.retry.Retry(NoBackoff(), 0)}


def library(address: RedisAddress, options: dict[str, Any]) -> Any:
    """Return a client of redis-py for the event loop."""
    match address:
        case SentinelAddress(sentinels=nodes, service=service):
            sentinel = redis.asyncio.sentinel.Sentinel(nodes, sentinel_kwargs=options)
            return sentinel.master_for(service, **options)
        case ClusterAddress(nodes=nodes):
            return redis.asyncio.cluster.RedisCluster(*nodes[0], **options)
    return redis.asyncio.Redis(host=address.host, port=address.port, **options)


def in_pipeline(client: Any) -> Send:
    """Send two commands in one round trip, as a flush sends its scripts."""

    async def send() -> object:
        alone = isinstance(client, redis.asyncio.Redis)
        pipe = client.pipeline(transaction=False) if alone else client.pipeline()
        pipe.incr(KEY)
        pipe.get(KEY)
        return await pipe.execute()

    return send


async def senders(address: RedisAddress) -> AsyncIterator[tuple[str, Send]]:
    """Yield each client that is measured, with its name."""
    for name, options in {"default": {"socket_timeout": TIMEOUT}, "no retry": never()}.items():
        client = library(address, options)
        yield f"redis-py, {name}", partial(client.incr, KEY)
        yield f"redis-py, {name}, pipeline", in_pipeline(client)
        await client.aclose()
    blocking = await anyio.to_thread.run_sync(address.client, TIMEOUT)
    yield "director's client for locks", lambda: anyio.to_thread.run_sync(blocking.incr, KEY)
    blocking.close()
    link = link_to(address, TIMEOUT, (), Resolver())
    yield "director's link", lambda: link.call("bench", [("INCR", KEY)])
    await link.close()


async def lost(rounds: int) -> None:
    print(f"Times that a command has run whose answer was lost once; {rounds} rounds, min median max\n")
    print(f"{'':42}{CUT:>15}{SILENT:>15}")
    for topology, place_of in TOPOLOGIES.items():
        async with place_of() as place:
            async for name, send in senders(place.address):
                await send()  # connects
                cells = ""
                for how in (CUT, SILENT):
                    counts = [await place.times_run(send, how) for _ in range(rounds)]
                    cells += f"{min(counts):>7}{median(counts):>4.0f}{max(counts):>4}"
                print(f"{topology:10}{name:32}{cells}", flush=True)


def flush_of(turn: int) -> list[Command]:
    """Return a script call for each hash tag, 64 buckets each, as `RedisStore.swap_buckets` sends them."""
    commands: list[Command] = []
    for tag in range(64):
        keys = [f"dd:{{u{tag:02x}}}{tag * 64 + i:03x}" for i in range(64)]
        old, new = (number.to_bytes(8) for number in (turn, turn + 1))
        arguments = [part for _ in keys for part in (old if turn else bytes(8), new + BLOB)]
        commands.append(("EVALSHA", SWAP_SHA, 64, *keys, *arguments))
    return commands


async def flush(rounds: int) -> None:
    with ClusterGroup() as group:
        nodes = tuple((LOCAL, server.port) for server in group.primaries())
        for server in group.primaries():
            server.command("SCRIPT", "LOAD", SCRIPTS[0].decode())
        address = ClusterAddress(url="bench", nodes=nodes, prefix="dd:")
        link = ClusterLink(address, LONG, SCRIPTS, Resolver())
        client = library(address, never() | {"socket_timeout": LONG})

        async def by_link(commands: list[Command]) -> object:
            return await link.call("swap_buckets", commands)

        async def pipeline(commands: list[Command]) -> object:
            pipe = client.pipeline()
            for command in commands:
                pipe.execute_command(*command)
            return await pipe.execute()

        async def one_by_one(commands: list[Command]) -> object:
            async with anyio.create_task_group() as tasks:
                for command in commands:
                    tasks.start_soon(client.execute_command, *command)
            return None

        ways = {"director's link": by_link, "redis-py, pipeline": pipeline, "redis-py, 64 tasks": one_by_one}
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        turn = 0
        for _ in range(rounds + 1):
            for name, way in ways.items():
                commands = flush_of(turn)
                turn += 1
                begun, cpu = time.perf_counter(), time.process_time()
                await way(commands)
                took[name].append((time.perf_counter() - begun, time.process_time() - cpu))
        print(f"A flush of 4,096 buckets of 1 KB, ms, {rounds} rounds, min median max\n")
        print(f"{'':24}{'time':>27}{'CPU time':>27}")
        for name, pairs in took.items():
            cells = ""
            for figures in zip(*pairs[1:], strict=True):
                cells += "".join(f"{1000 * f(figures):9.1f}" for f in (min, median, max))
            print(f"{name:24}{cells}")
        await link.close()
        await client.aclose()


async def move(rounds: int) -> None:
    """Measure a command when one of the slot's two keys has been moved."""
    keys = ["{move}1", "{move}2"]
    slot = slot_of(keys[0])
    with ClusterGroup() as group:
        nodes = tuple((LOCAL, server.port) for server in group.primaries())
        source = group.keeper(keys[0])
        target = next(server for server in group.primaries() if server is not source)
        for key in keys:
            source.command("SET", key, "there")
        group.begin_move(slot, source, target)
        group.move_keys(slot, source, target, 1)
        address = ClusterAddress(url="bench", nodes=nodes, prefix="dd:")
        link = ClusterLink(address, LONG, SCRIPTS, Resolver())
        clients = {"redis-py, default": library(address, {}), "redis-py, no retry": library(address, never())}
        print(f"MGET of two keys of a slot that is being moved, {rounds} rounds, seconds min median max\n")
        for name in ("director's link", *clients):
            took, outcome = [], ""
            for _ in range(rounds):
                begun = time.perf_counter()
                try:
                    if name in clients:
                        found = await clients[name].mget(keys)
                    else:
                        (found,) = await link.call("bench", [("MGET", *keys)])
                    outcome = str(found)
                except FAILURES as exc:
                    outcome = f"{type(exc).__name__}: {exc}"
                took.append(time.perf_counter() - begun)
            print(f"{name:24}" + "".join(f"{f(took):8.3f}" for f in (min, median, max)) + f"   {outcome}")
        await link.close()
        for client in clients.values():
            await client.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", help="lost, flush, move; all of them by default")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(f"redis-py {redis.__version__}")
    for work in (lost, flush, move):
        if not options.what or work.__name__ in options.what:
            print()
            anyio.run(work, options.rounds)


if __name__ == "__main__":
    main()
