"""Connections to one Redis server, and what its errors mean.

Each call is one pipelined round trip under one deadline, connecting included. A connection that was in
any trouble, or whose caller was cancelled, is dropped: the next call makes a new one. Nothing is sent
twice, except a script the server had forgotten, which it then had not run.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
import redis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from state.base import StoreError, StoreRefused, StoreUnavailable

CONNECTIONS = 4
"""Calls at a time; more wait, under their own deadline."""

AWAY = ("LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNKILLABLE")
"""Codes that pass by themselves."""

_CLUSTER = "the server is part of a Redis Cluster, which this release does not offer: name a single server"

ADVICE = {
    "NOAUTH": "the server wants a password: write USER:PASSWORD@ into the URL, or use password_file=",
    "WRONGPASS": "the server does not accept this user and password: correct the URL or the password file",
    "NOPERM": "the ACL does not allow this user the command or the keys: extend it with ACL SETUSER",
    "OOM": "the server's memory is full: raise maxmemory, and keep maxmemory-policy at noeviction",
    "READONLY": "the server is a read-only replica: name the primary in the URL",
    "MISCONF": "the server cannot save its data: free its disk or mend its permissions, see its log",
    "NOREPLICAS": "too few replicas follow the server: bring them back, or lower min-replicas-to-write",
    "WRONGTYPE": "another program keeps data under this prefix: choose another one with ?prefix=",
    "DENIED": "the server is in protected mode: give it a password, or set bind and protected-mode",
    "MOVED": _CLUSTER,
    "CROSSSLOT": _CLUSTER,
}

_NESTED = re.compile(r"(?:: -|user_script: ?\d+: -?)([A-Z]{3,}) ")
"""How Redis 6 reports the error of a command that a script ran."""

Command: TypeAlias = tuple[Any, ...]


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server is and how to get in."""

    url: str
    """For people: without the password."""
    host: str = ""
    port: int = 0
    path: str = ""
    """A Unix socket; then host and port are not used."""
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: bool = False
    prefix: str

    def __repr__(self) -> str:
        return f"RedisAddress({self.url!r})"

    def connection(self, timeout: float) -> AbstractConnection:
        """A connection for the event loop, not connected yet."""
        common: dict[str, Any] = {
            "db": self.db,
            "username": self.username,
            "password": self.password,
            "socket_timeout": None,  # the caller's deadline is over everything
            "socket_connect_timeout": timeout,
            "protocol": 2,
            "driver_info": None,
        }
        if self.path:
            return UnixDomainSocketConnection(path=self.path, **common)
        kind = SSLConnection if self.tls else Connection
        return kind(host=self.host, port=self.port, **common)

    def client(self, timeout: float) -> redis.Redis:
        """A synchronous client, for a worker thread. It retries nothing."""
        return redis.Redis(
            host=self.host,
            port=self.port,
            unix_socket_path=self.path or None,
            db=self.db,
            username=self.username,
            password=self.password,
            ssl=self.tls,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            # It says its name first, refused or not: with TLS 1.3, a connection that has read nothing yet
            # finds the server's session tickets waiting, and the library takes it for broken.
        )


class RedisLink:
    """A few connections, used in turn."""

    def __init__(self, address: RedisAddress, timeout: float, scripts: Sequence[bytes]) -> None:
        self._address, self._timeout, self._scripts = address, timeout, scripts
        self._idle: list[AbstractConnection] = []
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._closed = False

    async def call(self, operation: str, commands: Sequence[Command]) -> list[Any]:
        """The replies to `commands`, in order. Raises StoreUnavailable, StoreRefused."""
        replies = await self._round_trip(operation, commands)
        forgotten = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if forgotten:
            load: list[Command] = [("SCRIPT", "LOAD", script) for script in self._scripts]
            again = await self._round_trip(operation, load + [commands[i] for i in forgotten])
            self._check(operation, again)
            for i, reply in zip(forgotten, again[len(load) :], strict=True):
                replies[i] = reply
        self._check(operation, replies)
        return replies

    async def close(self) -> None:
        """Close what is idle; what is in use is closed when its call ends."""
        self._closed = True
        while self._idle:
            with contextlib.suppress(RedisError):  # it did not close in time: let it
                await self._idle.pop().disconnect()

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)

    def translated(self, exc: RedisError | OSError, operation: str) -> StoreError:
        """See the function of this name."""
        return translated(exc, self._address, operation)

    def _check(self, operation: str, replies: Sequence[object]) -> None:
        for reply in replies:
            if isinstance(reply, RedisError):
                raise self.translated(reply, operation) from reply

    async def _round_trip(self, operation: str, commands: Sequence[Command]) -> list[Any]:
        try:
            async with asyncio.timeout(self._timeout), self._slots:
                connection = self._idle.pop() if self._idle else self._address.connection(self._timeout)
                try:
                    replies = await _exchange(connection, commands)
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
                if self._closed:
                    await connection.disconnect(nowait=True)
                else:
                    self._idle.append(connection)
                return replies
        except (TimeoutError, redis.TimeoutError) as exc:
            await self._drop_idle()  # they are no better
            raise StoreUnavailable(self._address.url, operation, after=self._timeout) from exc
        except (RedisError, OSError) as exc:
            await self._drop_idle()
            raise self.translated(exc, operation) from exc


async def _exchange(connection: AbstractConnection, commands: Sequence[Command]) -> list[Any]:
    """Send all, read all. Error replies are among the results; anything worse is raised."""
    if connection.is_connected and await connection.can_read():
        await connection.disconnect(nowait=True)  # closed by the server, or holding something unasked
    if not connection.is_connected:
        await connection.connect()  # type: ignore[no-untyped-call]
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as exc:
            replies.append(exc)
    return replies


def translated(exc: RedisError | OSError, address: RedisAddress, operation: str) -> StoreError:
    """The same in the words of a store: refused where somebody has to do something, else unavailable."""
    if isinstance(exc.__cause__, RedisError):
        exc = exc.__cause__  # what a Unix socket's connection meets in its greeting comes wrapped
    text = str(exc)
    if address.password:
        text = text.replace(address.password, "…")
    if isinstance(exc, ResponseError | AuthenticationError):
        code = _code(exc)
        if code in ADVICE:
            return StoreRefused(address.url, operation, code, ADVICE[code])
        if code not in AWAY:
            return StoreRefused(address.url, operation, code, f"see the server's log; it said: {text[:200]}")
        return StoreUnavailable(address.url, operation, reason=f"the server says {code}")
    return StoreUnavailable(address.url, operation, reason=text)


def _code(exc: RedisError) -> str:
    """The code of an error reply, also where a script wrapped it."""
    if isinstance(exc, AuthenticationError) and exc.status_code != "NOAUTH":
        return "WRONGPASS"
    code = exc.status_code or str(exc).partition(" ")[0]
    nested = _NESTED.search(str(exc))
    return nested[1] if code == "ERR" and nested else code
