"""How a store talks to Redis: pools of connections, and calls. Here is one server; `sentinel` and `cluster`
have the others, `redis_clients` makes the connections.

Each call is one pipelined round trip a server under one deadline, connecting included. A connection that was
in any trouble, or whose caller was cancelled, is dropped: the next call makes a new one. Nothing is sent
twice but what a server said it had not run: a script it had forgotten, a key it does not keep any more. (The
library's clients send a command again whose answer was lost, unless their retries are turned off:
`python -m tests.bench.redis_clients`.)
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
"""Keys looked at in one SCAN."""
CONNECTIONS = 4
"""Calls at a time; more wait, under their own deadline."""

Command: TypeAlias = tuple[Any, ...]
"""A command's words. It has keys: in the second place, or as EVALSHA says."""

INFO = (("INFO", "server"), ("INFO", "replication"))  # both at once only from Redis 7 on

Result = TypeVar("Result")


class Pool:
    """Connections to one server, used in turn."""

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
        """Send commands.

        Args:
            commands: sent in one piece.
            asking: send ASKING before each, because a node that gives its slot away has sent us here.

        Returns:
            The replies, in order, error replies among them.

        Raises:
            RedisError: the client library refuses.
            OSError: the connection was lost.
        """
        replies = await self._round_trip(commands, asking)
        if self._password and any(map(is_login_refused, replies)) and self._password.read_again():
            await self.drop_idle()
            replies = await self._round_trip(commands, asking)  # none was run: NOAUTH
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
        """Close what is idle, and wait for nothing."""
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)

    async def close(self) -> None:
        """Close what is idle; what is in use is closed when its call ends."""
        self._closed = True
        while self._idle:
            with contextlib.suppress(RedisError):  # it did not close in time: let it
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
        if asking:  # it fails where it is not allowed; then the command was only sent on again
            pairs = zip(replies[::2], replies[1::2], strict=True)
            return [reply if not isinstance(asked, RedisError) else asked for asked, reply in pairs]
        return replies

    async def _usable(self) -> AbstractConnection:
        while self._idle:
            connection = self._idle.pop()
            try:
                # Otherwise closed by the server, or holding something unasked.
                if connection.is_connected and not await connection.can_read():
                    return connection
            except (RedisError, OSError):
                pass
            await connection.disconnect(nowait=True)
        return await self._connect()


class Link(ABC):
    """Calls, each under one deadline, and their errors in the words of a store."""

    def __init__(self, address: RedisAddress, timeout: float, resolver: Resolver) -> None:
        """timeout: seconds that a call may take."""
        self._address, self._timeout, self._resolver = address, timeout, resolver
        self._slots = anyio.Semaphore(CONNECTIONS, fast_acquire=True)

    async def call(self, operation: str, commands: Sequence[Command]) -> list[Any]:
        """The replies to `commands`, in order. Raises StoreUnavailable, StoreRefused."""
        return self._good(operation, await self._bounded(operation, self._send(commands)))

    async def servers(self, operation: str) -> list[bytes]:
        """What INFO says of each server that takes writes: of itself, and of replication."""
        replies = self._good(operation, await self._bounded(operation, self._infos()))
        return [b"\r\n".join(replies[i : i + len(INFO)]) for i in range(0, len(replies), len(INFO))]

    async def keys(self, operation: str, pattern: str) -> set[bytes]:
        """The keys that match, of all servers that take writes."""
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
        """See the function of this name."""
        passwords = self._address.passwords()
        notes = [password.problem for password in passwords if password.problem]
        return translated(exc, self._address.url, operation, secrets=self._address.secrets(), notes=notes)

    async def log_in_again(self) -> None:
        """Have the next calls log in anew."""
        await self._forget()

    async def _connected(
        self, make: Callable[[], AbstractConnection], password: Password | None
    ) -> AbstractConnection:
        """A connection after its greeting. Where its password is refused, another one is made with what
        is in the password's file by then. Raises RedisError, OSError."""
        try:
            return await self._greeted(make())
        except (RedisError, OSError) as exc:
            if password is None or not is_login_refused(exc) or not password.read_again():
                raise
        return await self._greeted(make())

    async def _greeted(self, connection: AbstractConnection) -> AbstractConnection:
        if isinstance(connection, Connection):
            # The library looks the name up again; but only one that was answered a moment ago.
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
        """The connections to each server that takes writes."""

    @abstractmethod
    async def close(self) -> None:
        """Close what is idle; what is in use is closed when its call ends."""

    @abstractmethod
    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        """The replies, error replies among them."""

    @abstractmethod
    async def _infos(self) -> list[Any]:
        """The replies to INFO of the first server, then of the next."""

    @abstractmethod
    async def _forget(self) -> None:
        """Drop idle connections, and all that is believed about the servers."""

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
            work.close()  # where it did not get as far as to begin
        if any(isinstance(reply, RedisError) for reply in replies):
            await self._forget()  # READONLY, CLUSTERDOWN: another server may have taken over
        return replies

    def _good(self, operation: str, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if isinstance(reply, RedisError):
                raise self.translated(reply, operation) from reply
        return replies


class RedisLink(Link):
    """Calls to one server."""

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
    """Send all, read all. Error replies are among the results; anything worse is raised."""
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as exc:
            replies.append(exc)
    return replies
