"""`redis+sentinel://…`: calls go to the primary that the sentinels name at that time.

For each new connection the sentinels are asked for the primary, and the named server is asked for its role.
Connections are dropped after any error, so the call after a failover finds the new primary. A primary that
was replaced while it worked (`SENTINEL FAILOVER`) takes writes for another ten seconds, and these are lost.
Therefore the sentinels are also asked with each `run_id`, which directors call every second.

The library's own client for Sentinel is not used. It believes the first sentinel that answers and does not
ask the primary for its role, so a sentinel that names a former primary would decide. It does not leave a
primary that was replaced while it worked, and does not read a changed password again.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import anyio
import redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from state.base import StoreError, StoreUnavailable
from state.redis_clients import Node, SentinelAddress
from state.redis_errors import Failure, code_of
from state.redis_link import Pool, RedisLink, exchange
from state.resolver import Resolver

SENTINEL_SHARE = 4
"""A sentinel that does not answer within 1/SENTINEL_SHARE of a call's time-out is skipped."""


class SentinelLink(RedisLink):
    """A link to the primary that the sentinels name."""

    def __init__(
        self, address: SentinelAddress, timeout: float, scripts: Sequence[bytes], resolver: Resolver
    ) -> None:
        super().__init__(address, timeout, scripts, resolver)
        self._sentinels = list(address.sentinels)
        """First the sentinel that named the primary of the newest connection; last the sentinels that did
        not answer."""
        self._server = address
        self._at: Node | None = None
        """The primary of the newest connection."""

    def translated(self, exc: Failure, operation: str) -> StoreError:
        if isinstance(exc, RedisError) and code_of(exc) == "READONLY":
            reason = "the primary has become a replica; the sentinels are asked for the new one"
            return StoreUnavailable(self._address.url, operation, reason=reason)
        return super().translated(exc, operation)

    async def _infos(self) -> list[Any]:
        if self._at is not None:
            await self._leave_former_primary()
        return await super()._infos()

    async def _leave_former_primary(self) -> None:
        """Drop the connections if the sentinels name another primary by now."""
        with contextlib.suppress(RedisError, OSError):  # the primary may answer even if no sentinel does
            with anyio.fail_after(self._timeout / 2):
                async for _, primary in self._named():
                    if primary != self._at:
                        await self._forget()
                    break

    async def _connect(self) -> AbstractConnection:
        tried: set[Node] = set()
        failure: RedisError | OSError | None = None
        async for sentinel, primary in self._named():
            if primary in tried:
                continue
            tried.add(primary)
            try:
                address = self._address
                make = partial(address.connection, self._timeout, primary)
                connection = await self._connected(make, address.password)
                await _check_role(connection, primary)
            except AuthenticationError:
                raise
            except (RedisError, OSError) as exc:
                failure = exc  # this sentinel's data may be old: try the primary that the next sentinel names
                continue
            self._at = primary
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)
            return connection
        assert failure is not None, "_named names one, or raises"
        raise failure

    async def _named(self) -> AsyncIterator[tuple[Node, Node]]:
        """Yield each sentinel that answers and knows the service, with the primary that it names.

        Raises:
            RedisError: no sentinel names a primary, or a sentinel refuses the login.
        """
        failures: list[str] = []
        known = unknown = 0
        for node in list(self._sentinels):
            shown = f"{node[0]}:{node[1]}"
            try:
                with anyio.fail_after(self._timeout / SENTINEL_SHARE):
                    found = await self._ask(node)
            except (AuthenticationError, NoPermissionError) as exc:
                raise ResponseError(f"sentinel {shown}: {exc}", status_code="SENTINELAUTH") from None
            except (RedisError, OSError) as exc:
                failures.append(f"{shown}: {exc or 'no answer'}")
                self._sentinels.remove(node)
                self._sentinels.append(node)
                continue
            if found is None:
                unknown += 1
                failures.append(f"{shown} knows no such service")
                continue
            known += 1
            yield node, found
        if unknown == len(self._sentinels):
            raise ResponseError(f"service {self._server.service}", status_code="NOSERVICE")
        if not known:
            problem = f"no sentinel names the primary of {self._server.service} ({'; '.join(failures)})"
            raise redis.ConnectionError(problem)

    async def _ask(self, node: Node) -> Node | None:
        async def connect() -> AbstractConnection:
            make = partial(self._server.sentinel_connection, self._timeout, node)
            return await self._connected(make, self._server.sentinel_password)

        pool = Pool(connect, (), self._server.sentinel_password)
        try:
            command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._server.service)
            (found,) = await pool.exchange([command])
        finally:
            await pool.drop_idle()
        if isinstance(found, RedisError):
            raise found
        return None if found is None else (found[0].decode(), int(found[1]))


async def _check_role(connection: AbstractConnection, node: Node) -> None:
    """Raise RedisError or OSError, and disconnect, unless the connection is to a primary."""
    try:
        (role,) = await exchange(connection, [("ROLE",)])
        if isinstance(role, RedisError):
            raise role
        if role[0] != b"master":
            shown = f"{node[0]}:{node[1]}"
            raise redis.ConnectionError(
                f"{shown} is not a primary, although the sentinels say so: a failover is in progress"
            )
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
