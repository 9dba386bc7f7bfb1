"""Addresses of Redis, and the clients and connections made from them: one server, sentinels or a Cluster.

The links (`redis_link`, `sentinel`, `cluster`) use single connections on the event loop. python-redis-lock
needs a synchronous client, which worker threads use.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
import redis
import redis.sentinel
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry

from state.passwords import Password, value_of

Node: TypeAlias = tuple[str, int]
"""Host and port."""
Client: TypeAlias = redis.Redis | RedisCluster
"""A synchronous client, for a worker thread."""


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """The address of a server, and the login."""

    url: str
    """The URL for display, without the password."""
    host: str = ""
    port: int = 0
    path: str = ""
    """The path of a Unix socket; empty: `host` and `port` are used."""
    db: int = 0
    username: str | None = None
    password: Password | None = None
    tls: bool = False
    prefix: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def client(self, timeout: float) -> Client:
        """Make a synchronous client.

        Make it and use it in a worker thread. It does not repeat a command that may have run.

        Raises:
            RedisError, RedisClusterException: the server cannot be found.
        """
        return redis.Redis(
            host=self.host,
            port=self.port,
            unix_socket_path=self.path or None,
            db=self.db,
            ssl=self.tls,
            **self.client_options(timeout),
        )

    def client_options(self, timeout: float) -> dict[str, Any]:
        """Return the options that all synchronous clients share."""
        return {
            "username": self.username,
            "password": value_of(self.password),
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            # `driver_info` is not None here, so the client first sends its name and reads the reply. With TLS
            # 1.3, a connection that has read nothing yet finds the server's session tickets waiting, and the
            # library takes it for broken.
        }

    def connection(self, timeout: float, node: Node | None = None) -> AbstractConnection:
        """Make a connection for the event loop, not connected yet, to `node` or else to this address."""
        common: dict[str, Any] = {
            "db": self.db,
            "username": self.username,
            "password": value_of(self.password),
            "socket_timeout": None,  # each caller has a deadline for the whole call
            "socket_connect_timeout": timeout,
            "protocol": 2,
            "driver_info": None,
        }
        if self.path:
            return UnixDomainSocketConnection(path=self.path, **common)
        kind = SSLConnection if self.tls else Connection
        host, port = node or (self.host, self.port)
        return kind(host=host, port=port, **common)

    def passwords(self) -> list[Password]:
        """Return the passwords of the servers and of the sentinels."""
        return [self.password] if self.password else []

    def secrets(self) -> list[str]:
        """Return all texts that must not get into a message."""
        return [secret for password in self.passwords() for secret in password.secrets]


class SentinelAddress(RedisAddress, frozen=True, kw_only=True):
    """The addresses of sentinels, which know the primary of `service`, and the logins to sentinels and
    primary."""

    sentinels: tuple[Node, ...]
    service: str
    sentinel_username: str | None = None
    sentinel_password: Password | None = None

    def client(self, timeout: float) -> Client:
        options = self.client_options(timeout)
        login = {
            "username": self.sentinel_username,
            "password": value_of(self.sentinel_password),
            "ssl": self.tls,
        }
        sentinel = redis.sentinel.Sentinel(self.sentinels, sentinel_kwargs=options | login)  # type: ignore[no-untyped-call]
        primary: redis.Redis = sentinel.master_for(self.service, db=self.db, ssl=self.tls, **options)  # type: ignore[no-untyped-call]
        return primary

    def sentinel_connection(self, timeout: float, node: Node) -> AbstractConnection:
        """Make a connection to a sentinel, not connected yet."""
        kind = SSLConnection if self.tls else Connection
        return kind(
            host=node[0],
            port=node[1],
            username=self.sentinel_username,
            password=value_of(self.sentinel_password),
            socket_timeout=None,
            socket_connect_timeout=timeout,
            protocol=2,
            driver_info=None,
        )

    def passwords(self) -> list[Password]:
        return super().passwords() + ([self.sentinel_password] if self.sentinel_password else [])


class ClusterAddress(RedisAddress, frozen=True, kw_only=True):
    """The addresses of some nodes of a Cluster, which know the others, and the login to all of them."""

    nodes: tuple[Node, ...]

    def client(self, timeout: float) -> Client:
        nodes = [ClusterNode(host, port) for host, port in self.nodes]  # type: ignore[no-untyped-call]
        return RedisCluster(startup_nodes=nodes, ssl=self.tls, **self.client_options(timeout))
