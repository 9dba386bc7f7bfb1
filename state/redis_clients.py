"""Where Redis is, and every client and connection that is made from that: for one server, a primary that
sentinels name, and a Cluster.

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
    """Where the server is and how to get in."""

    url: str
    """For people: without the password."""
    host: str = ""
    port: int = 0
    path: str = ""
    """A Unix socket; then host and port are not used."""
    db: int = 0
    username: str | None = None
    password: Password | None = None
    tls: bool = False
    prefix: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def client(self, timeout: float) -> Client:
        """A synchronous client, made and used in a worker thread. It retries nothing that may have run.

        Raises RedisError, RedisClusterException.
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
        """What all synchronous clients have in common."""
        return {
            "username": self.username,
            "password": value_of(self.password),
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            # It says its name first, refused or not: with TLS 1.3, a connection that has read nothing yet
            # finds the server's session tickets waiting, and the library takes it for broken.
        }

    def connection(self, timeout: float, node: Node | None = None) -> AbstractConnection:
        """A connection for the event loop, not connected yet; to `node` if one is given."""
        common: dict[str, Any] = {
            "db": self.db,
            "username": self.username,
            "password": value_of(self.password),
            "socket_timeout": None,  # the caller's deadline is over everything
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
        """Of servers, and of those that know them."""
        return [self.password] if self.password else []

    def secrets(self) -> list[str]:
        """What must not get into a message."""
        return [secret for password in self.passwords() for secret in password.secrets]


class SentinelAddress(RedisAddress, frozen=True, kw_only=True):
    """Who knows the primary of `service`, and how to get in there and here."""

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
        """A connection to a sentinel, not connected yet."""
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
    """Some nodes, which know all the others, and how to get in everywhere."""

    nodes: tuple[Node, ...]

    def client(self, timeout: float) -> Client:
        nodes = [ClusterNode(host, port) for host, port in self.nodes]  # type: ignore[no-untyped-call]
        return RedisCluster(startup_nodes=nodes, ssl=self.tls, **self.client_options(timeout))
