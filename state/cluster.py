"""`redis+cluster://…`: sends each command to the node that keeps its keys, with one pipeline for each node.

The nodes of the slots come from CLUSTER SLOTS. They are read at the first call and again after any error.
MOVED and ASK are followed: a node that answers so has not run the command. While a slot is being moved, a
command whose keys are on both nodes is answered TRYAGAIN, for as long as the move takes. It is then sent as
one command for each key, which always finds its node.

The library's own client for a Cluster is not used. While a slot is being moved it answers a command with
several keys of this slot with an error, after 0.4 s of retries; and a flush of 4,096 buckets costs 1.8 times
the CPU time. (It does not repeat a command whose answer was lost, if its retries are turned off.) `python -m
tests.bench.redis_clients` measures it; these are figures of redis-py 8.1. Only its connections, errors and
slot function are used.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import anyio
import redis
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, RedisError, ResponseError, TryAgainError

from state.concurrent import all_results
from state.redis_clients import ClusterAddress, Node
from state.redis_link import INFO, Command, Link, Pool
from state.resolver import Resolver

HOPS = 6
"""How many nodes a command is sent to, one after the other, while each answer names another node."""
REFRESH_SHARE = 4
"""A node that does not tell the slots within 1/REFRESH_SHARE of a call's time-out is skipped."""


class ClusterLink(Link):
    """A link to all nodes of a Cluster."""

    def __init__(
        self, address: ClusterAddress, timeout: float, scripts: Sequence[bytes], resolver: Resolver
    ) -> None:
        super().__init__(address, timeout, resolver)
        self._seeds, self._scripts = address.nodes, scripts
        self._known: set[Node] = set()
        """All nodes, with replicas, as the last CLUSTER SLOTS named them."""
        self._pools: dict[Node, Pool] = {}
        self._slots_at: dict[int, Node] = {}
        """The primary of each slot; empty: unknown, to be read before the next command."""

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.close()

    async def _forget(self) -> None:
        self._slots_at = {}
        for pool in self._pools.values():
            await pool.drop_idle()

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        if not self._slots_at:
            await self._refresh()
        waiting = {i: (self._node_of(command), False) for i, command in enumerate(commands)}
        replies: list[Any] = [None] * len(commands)
        for _ in range(HOPS):
            answers = await self._send_once(commands, waiting)
            waiting = {}
            for i, answer in answers.items():
                match answer:
                    case MovedError():
                        waiting[i] = (self._moved(answer), False)
                    case AskError():
                        waiting[i] = (answer.node_addr, True)
                    case TryAgainError() if len(parts := _for_each_key(commands[i])) > 1:
                        replies[i] = _joined(await self._send(parts))
                    case _:
                        replies[i] = answer
            if not waiting:
                return replies
        places = ", ".join(sorted({f"{host}:{port}" for (host, port), _ in waiting.values()}))
        raise redis.ConnectionError(
            f"{HOPS} nodes in a row said that another node has the key; the last one named {places}"
        )

    async def _send_once(
        self, commands: Sequence[Command], waiting: Mapping[int, tuple[Node, bool]]
    ) -> dict[int, Any]:
        """Send the commands, with one pipeline for each node.

        Returns each reply under the index of its command.
        """
        lists: dict[tuple[Node, bool], list[int]] = {}
        for i, where in waiting.items():
            lists.setdefault(where, []).append(i)

        calls = [
            partial(self._pool(node).exchange, [commands[i] for i in places], asking=asking)
            for (node, asking), places in lists.items()
        ]
        answers: dict[int, Any] = {}
        for places, replies in zip(lists.values(), await all_results(calls), strict=True):
            answers.update(zip(places, replies, strict=True))
        return answers

    async def _infos(self) -> list[Any]:
        await self._refresh()
        primaries = sorted(set(self._slots_at.values()))
        replies = await all_results([partial(self._pool(node).exchange, INFO) for node in primaries])
        return [reply for pair in replies for reply in pair]

    async def _writers(self, operation: str) -> list[Pool]:
        async def refreshed() -> list[Any]:
            await self._refresh()
            return []

        await self._bounded(operation, refreshed())
        return [self._pool(node) for node in sorted(set(self._slots_at.values()))]

    async def _refresh(self) -> None:
        """Read which node keeps which slots.

        The order of nodes is random, as a node that is partitioned off may have old data.
        """
        nodes = list(self._known | set(self._seeds))
        random.shuffle(nodes)
        failure: RedisError | OSError = redis.ConnectionError("no node knows the slots")
        for node in nodes:
            try:
                with anyio.fail_after(self._timeout / REFRESH_SHARE):
                    (ranges,) = await self._pool(node).exchange([("CLUSTER", "SLOTS")])
                if isinstance(ranges, RedisError):
                    raise ranges
            except (RedisError, OSError) as exc:
                if "cluster support disabled" in str(exc):
                    raise ResponseError(f"{node[0]}:{node[1]}: {exc}", status_code="NOCLUSTER") from None
                failure = exc
                continue
            if ranges:
                await self._take(node, ranges)
                return
        raise failure

    async def _take(self, teller: Node, ranges: Sequence[Any]) -> None:
        self._slots_at, known = {}, set()
        for first, last, *keepers in ranges:
            # A node that does not know its own name leaves it out. Then it is the node that was asked.
            places = [(host.decode() if host else teller[0], port) for host, port, *_ in keepers]
            known.update(places)
            self._slots_at.update(dict.fromkeys(range(first, last + 1), places[0]))
        self._known = known
        for node in self._pools.keys() - known - set(self._seeds):
            await self._pools.pop(node).drop_idle()

    def _moved(self, answer: MovedError) -> Node:
        """Return the node that the answer names, and enter it as the primary of this slot."""
        host, port = answer.node_addr
        node = self._slots_at[answer.slot_id] = (host, port)
        return node

    def _node_of(self, command: Command) -> Node:
        slot = key_slot(_keys(command)[0].encode())
        if slot not in self._slots_at:
            raise ResponseError(f"slot {slot} is not served", status_code="CLUSTERDOWN")
        return self._slots_at[slot]

    def _pool(self, node: Node) -> Pool:
        async def connect() -> AbstractConnection:
            make = partial(self._address.connection, self._timeout, node)
            return await self._connected(make, self._address.password)

        if node not in self._pools:
            self._pools[node] = Pool(connect, self._scripts, self._address.password)
        return self._pools[node]


def _keys(command: Command) -> Sequence[str]:
    if command[0] == "EVALSHA":
        keys: Sequence[str] = command[3 : 3 + command[2]]
        return keys
    return command[1:] if command[0] == "MGET" else command[1:2]


def _for_each_key(command: Command) -> list[Command]:
    """Split a command into one command for each key.

    A script has the same number of arguments for each key.
    """
    keys = _keys(command)
    if command[0] != "EVALSHA":
        return [(command[0], key) for key in keys]
    arguments = command[3 + len(keys) :]
    each = len(arguments) // len(keys)
    return [(*command[:2], 1, key, *arguments[i * each : (i + 1) * each]) for i, key in enumerate(keys)]


def _joined(replies: Sequence[Any]) -> Any:
    """Join the replies to the parts of a command into the reply to the command: lists or bytes are
    concatenated."""
    for reply in replies:
        if isinstance(reply, RedisError):
            return reply
    if isinstance(replies[0], bytes):
        return b"".join(replies)
    return [answer for reply in replies for answer in reply]
