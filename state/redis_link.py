"""Connection pools and calls of a Redis store.

This module has the link to a single server; `sentinel` and `cluster` have the other links, and
`redis_clients` makes the connections.

Each call is one pipelined round trip to each server, under one deadline that includes connecting. A
connection that failed in any way, or whose caller was cancelled, is dropped; the next call makes a new one. A
command is sent twice only if a server said that it had not run it: a script that it no longer had, a key that
it no longer keeps. (The library's clients repeat a command whose answer was lost, unless their retries are
turned off: `python -m tests.bench.redis_clients`.)
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias, TypeVar

import anyio
import redis
from redis.asyncio.connection import AbstractConnection, Connection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from state.base import StoreError, StoreUnavailable
from state.passwords import Password
from state.redis_clients import RedisAddress
from state.redis_errors import Failure, is_login_refused, translated
from state.resolver import Resolver

SCAN_PAGE = 10_000
"""The number of keys that a single SCAN examines."""
CONNECTIONS = 4
"""The number of calls at the same time. More calls wait, under their own deadlines."""

Command: TypeAlias = tuple[Any, ...]
"""The words of a command. It has keys: from the second word on, or as EVALSHA says."""

# Two commands: one INFO with both sections needs Redis 7.
INFO = (("INFO", "server"), ("INFO", "replication"))

Result = TypeVar("Result")


class Pool:
    """Connections to one server. A free connection is used again."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[AbstractConnection]],
        scripts: Sequence[bytes],
        password: Password | None = None,
    ) -> None:
        self._connect, self._password = connect, password
        self._load: list[Command] = [("SCRIPT", "LOAD", script) for script in scripts]
        self._idle: list[AbstractConnection] = []
        self._closed = False

    async def exchange(self, commands: Sequence[Command], *, asking: bool = False) -> list[Any]:
        """Send commands and return their replies.

        Args:
            commands: sent in one piece.
            asking: send ASKING before each command, because a node that is moving the slot away named this
                node.

        Returns:
            The replies in order; an error reply is an exception in the list.

        Raises:
            RedisError: the client library refuses.
            OSError: the connection was lost.
        """
        replies = await self._round_trip(commands, asking)
        if self._password and any(map(is_login_refused, replies)) and self._password.read_again():
            await self.drop_idle()
            replies = await self._round_trip(commands, asking)  # repeating is safe: NOAUTH means none was run
        forgotten = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if forgotten:
            for reply in await self._round_trip(self._load, False):
                if isinstance(reply, RedisError):
                    raise reply
            again = await self._round_trip([commands[i] for i in forgotten], asking)
            for i, reply in zip(forgotten, again, strict=True):
                replies[i] = reply
        return replies

    async def drop_idle(self) -> None:
        """Close idle connections without waiting."""
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)

    async def close(self) -> None:
        """Close idle connections. A connection in use is closed when its call ends."""
        self._closed = True
        while self._idle:
            with contextlib.suppress(RedisError):  # it did not close in time; it is dropped anyway
                await self._idle.pop().disconnect()

    async def _round_trip(self, commands: Sequence[Command], asking: bool) -> list[Any]:
        if asking:
            commands = [word for command in commands for word in (("ASKING",), command)]
        connection = await self._usable()
        try:
            replies = await exchange(connection, commands)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        if self._closed:
            await connection.disconnect(nowait=True)
        else:
            self._idle.append(connection)
        if asking:  # if ASKING was refused, the command was answered with a redirection and did not run
            pairs = zip(replies[::2], replies[1::2], strict=True)
            return [reply if not isinstance(asked, RedisError) else asked for asked, reply in pairs]
        return replies

    async def _usable(self) -> AbstractConnection:
        while self._idle:
            connection = self._idle.pop()
            try:
                # Skip a connection that the server closed, or that holds data which no command asked for.
                if connection.is_connected and not await connection.can_read():
                    return connection
            except (RedisError, OSError):
                pass
            await connection.disconnect(nowait=True)
        return await self._connect()


class Link(ABC):
    """Sends commands to Redis. Each call has a deadline, and raises the exceptions of a store."""

    def __init__(self, address: RedisAddress, timeout: float, resolver: Resolver) -> None:
        """Keep the address.

        Args:
            address: the address of the store.
            timeout: seconds that a call may take.
            resolver: looks up the names of servers.
        """
        self._address, self._timeout, self._resolver = address, timeout, resolver
        self._slots = anyio.Semaphore(CONNECTIONS, fast_acquire=True)

    async def call(self, operation: str, commands: Sequence[Command]) -> list[Any]:
        """Send commands and return their replies, in order.

        Raises:
            StoreUnavailable: the store did not answer in time.
            StoreRefused: a reply is an error that an operator has to fix.
        """
        return self._good(operation, await self._bounded(operation, self._send(commands)))

    async def servers(self, operation: str) -> list[bytes]:
        """Return the INFO sections `server` and `replication` of each server that takes writes, joined."""
        replies = self._good(operation, await self._bounded(operation, self._infos()))
        return [b"\r\n".join(replies[i : i + len(INFO)]) for i in range(0, len(replies), len(INFO))]

    async def keys(self, operation: str, pattern: str) -> set[bytes]:
        """Return the keys that match a pattern, of all servers that take writes."""
        found: set[bytes] = set()
        for pool in await self._writers(operation):
            cursor = b"0"
            while True:
                command: Command = ("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_PAGE)
                replies = await self._bounded(operation, pool.exchange([command]))
                ((cursor, keys),) = self._good(operation, replies)
                found.update(keys)
                if cursor == b"0":
                    break
        return found

    def translated(self, exc: Failure, operation: str) -> StoreError:
        """Return the StoreError for an exception of the client library (`redis_errors.translated`)."""
        passwords = self._address.passwords()
        notes = [password.problem for password in passwords if password.problem]
        return translated(exc, self._address.url, operation, secrets=self._address.secrets(), notes=notes)

    async def log_in_again(self) -> None:
        """Drop the connections, so that the next calls log in again."""
        await self._forget()

    async def _connected(
        self, make: Callable[[], AbstractConnection], password: Password | None
    ) -> AbstractConnection:
        """Return a connection after its greeting.

        If the server refuses the password, the password's file is read again, and another connection is tried
        if the password has changed.

        Raises:
            RedisError, OSError: the server refuses or does not answer.
        """
        try:
            return await self._greeted(make())
        except (RedisError, OSError) as exc:
            if password is None or not is_login_refused(exc) or not password.read_again():
                raise
        return await self._greeted(make())

    async def _greeted(self, connection: AbstractConnection) -> AbstractConnection:
        if isinstance(connection, Connection):
            # The library looks up the name again in a shared thread. Here only a name that was answered a
            # moment ago gets that far.
            try:
                await self._resolver.addresses(connection.host)
            except OSError as exc:
                reason = f"{connection.host}:{connection.port}: {exc.strerror or exc}"
                raise redis.ConnectionError(reason) from exc
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    @abstractmethod
    async def _writers(self, operation: str) -> list[Pool]:
        """Return the connections to each server that takes writes."""

    @abstractmethod
    async def close(self) -> None:
        """Close idle connections. A connection in use is closed when its call ends."""

    @abstractmethod
    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        """Send the commands and return the replies, error replies among them."""

    @abstractmethod
    async def _infos(self) -> list[Any]:
        """Return the replies to INFO of the first server, then of the next."""

    @abstractmethod
    async def _forget(self) -> None:
        """Drop idle connections and all that is known of the servers."""

    async def _bounded(self, operation: str, work: Coroutine[Any, Any, list[Any]]) -> list[Any]:
        try:
            with anyio.fail_after(self._timeout):
                async with self._slots:
                    replies = await work
        except (TimeoutError, redis.TimeoutError) as exc:
            await self._forget()  # the other connections are no better
            raise StoreUnavailable(self._address.url, operation, after=self._timeout) from exc
        except (RedisError, OSError) as exc:
            await self._forget()
            raise self.translated(exc, operation) from exc
        finally:
            work.close()  # for a call that never got a slot
        if any(isinstance(reply, RedisError) for reply in replies):
            await self._forget()  # READONLY, CLUSTERDOWN: another server may have become primary
        return replies

    def _good(self, operation: str, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if isinstance(reply, RedisError):
                raise self.translated(reply, operation) from reply
        return replies


class RedisLink(Link):
    """A link to one server."""

    def __init__(
        self, address: RedisAddress, timeout: float, scripts: Sequence[bytes], resolver: Resolver
    ) -> None:
        super().__init__(address, timeout, resolver)
        self._pool = Pool(self._connect, scripts, address.password)

    async def close(self) -> None:
        await self._pool.close()

    async def _connect(self) -> AbstractConnection:
        address = self._address
        return await self._connected(lambda: address.connection(self._timeout), address.password)

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        return await self._pool.exchange(commands)

    async def _infos(self) -> list[Any]:
        return await self._pool.exchange(INFO)

    async def _forget(self) -> None:
        await self._pool.drop_idle()

    async def _writers(self, operation: str) -> list[Pool]:
        return [self._pool]


async def exchange(connection: AbstractConnection, commands: Sequence[Command]) -> list[Any]:
    """Send all commands, then read all replies.

    Error replies are among the results; other errors are raised.
    """
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as exc:
            replies.append(exc)
    return replies
