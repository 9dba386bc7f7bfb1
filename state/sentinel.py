"""`redis+sentinel://…`: the primary that the sentinels name, whichever that is by now.

They are asked for each new connection, and what they name is asked whether it is a primary. As connections
are dropped after any error, a primary that failed is left with the next call. One that was replaced though it
works (`SENTINEL FAILOVER`) goes on taking writes for ten seconds, which are lost: so they are asked also
whenever the run id is, which directors do every second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import redis
import redis.sentinel
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from state.base import StoreError, StoreUnavailable
from state.redis_errors import Failure, code_of
from state.redis_link import Client, Link, Pool, RedisAddress, RedisLink, connected, exchange

SENTINEL_SHARE = 4
"""Parts of a call's deadline; one that a sentinel does not answer within is not waited for."""


class SentinelAddress(RedisAddress, frozen=True, kw_only=True):
    """Who knows the primary of `service`, and how to get in there and here."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    sentinel_username: str | None = None
    sentinel_password: str | None = None

    def link(self, timeout: float, scripts: Sequence[bytes]) -> Link:
        return SentinelLink(self, timeout, scripts)

    def client(self, timeout: float) -> Client:
        options = self.client_options(timeout)
        login = {"username": self.sentinel_username, "password": self.sentinel_password, "ssl": self.tls}
        sentinel = redis.sentinel.Sentinel(self.sentinels, sentinel_kwargs=options | login)  # type: ignore[no-untyped-call]
        primary: redis.Redis = sentinel.master_for(self.service, db=self.db, ssl=self.tls, **options)  # type: ignore[no-untyped-call]
        return primary

    def sentinel_connection(self, timeout: float, node: tuple[str, int]) -> AbstractConnection:
        """A connection to a sentinel, not connected yet."""
        kind = SSLConnection if self.tls else Connection
        return kind(
            host=node[0],
            port=node[1],
            username=self.sentinel_username,
            password=self.sentinel_password,
            socket_timeout=None,
            socket_connect_timeout=timeout,
            protocol=2,
            driver_info=None,
        )

    def secrets(self) -> list[str]:
        return super().secrets() + ([self.sentinel_password] if self.sentinel_password else [])


class SentinelLink(RedisLink):
    """Calls to the primary."""

    def __init__(self, address: SentinelAddress, timeout: float, scripts: Sequence[bytes]) -> None:
        super().__init__(address, timeout, scripts)
        self._sentinels = list(address.sentinels)
        """The one that answered last is asked first."""
        self._who = address
        self._at: tuple[str, int] | None = None
        """The primary of the newest connection."""

    def translated(self, exc: Failure, operation: str) -> StoreError:
        if isinstance(exc, RedisError) and code_of(exc) == "READONLY":
            reason = "the primary has become a replica; the sentinels are asked for the new one"
            return StoreUnavailable(self._address.url, operation, reason=reason)
        return super().translated(exc, operation)

    async def _infos(self) -> list[Any]:
        with contextlib.suppress(RedisError, OSError):  # no sentinel answers: the primary may well do
            async with asyncio.timeout(self._timeout / 2):
                if await self._primary() != self._at:
                    await self._forget()
        return await super()._infos()

    async def _connect(self) -> AbstractConnection:
        self._at = await self._primary()
        try:
            connection = await connected(self._address.connection(self._timeout, self._at))
            try:
                await self._check_role(connection, f"{self._at[0]}:{self._at[1]}")
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
        except BaseException:
            self._sentinels.append(self._sentinels.pop(0))  # it may be behind: next time, ask another one
            raise
        return connection

    @staticmethod
    async def _check_role(connection: AbstractConnection, shown: str) -> None:
        (role,) = await exchange(connection, [("ROLE",)])
        if isinstance(role, RedisError):
            raise role
        if role[0] != b"master":
            raise redis.ConnectionError(
                f"{shown} is no primary, though the sentinels say so: a failover goes on"
            )

    async def _primary(self) -> tuple[str, int]:
        """Host and port, from the first sentinel that knows."""
        unknown = 0
        failures: list[str] = []
        for node in list(self._sentinels):
            shown = f"{node[0]}:{node[1]}"
            try:
                async with asyncio.timeout(self._timeout / SENTINEL_SHARE):
                    found = await self._ask(node)
            except (AuthenticationError, NoPermissionError) as exc:
                raise ResponseError(f"sentinel {shown}: {exc}", status_code="SENTINELAUTH") from None
            except (RedisError, OSError) as exc:
                failures.append(f"{shown}: {exc or 'no answer'}")
                continue
            if found is None:
                unknown += 1
                failures.append(f"{shown} knows no such service")
                continue
            self._sentinels.remove(node)
            self._sentinels.insert(0, node)
            return found
        if unknown == len(self._sentinels):
            raise ResponseError(f"service {self._who.service}", status_code="NOSERVICE")
        problem = f"no sentinel names the primary of {self._who.service} ({'; '.join(failures)})"
        raise redis.ConnectionError(problem)

    async def _ask(self, node: tuple[str, int]) -> tuple[str, int] | None:
        async def connect() -> AbstractConnection:
            return await connected(self._who.sentinel_connection(self._timeout, node))

        pool = Pool(connect, ())
        try:
            command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._who.service)
            (found,) = await pool.exchange([command])
        finally:
            await pool.drop_idle()
        if isinstance(found, RedisError):
            raise found
        return None if found is None else (found[0].decode(), int(found[1]))
