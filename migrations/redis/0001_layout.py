"""The first layout. Buckets, documents and leases need no preparation; this step makes the hash `meta`.

PREFIX meta                  hash: schema, created (Unix seconds), identity (names this set of data)
PREFIX {uTT}BBB, {nTT}BBB    bucket BBB (3 hex digits) of users or names: 8 bytes version, then the blob;
                             TT = BBB >> 6 (2 hex digits), so 64 buckets share a slot of a Cluster
PREFIX doc:NAME              document: 8 bytes version, then the data
PREFIX lease                 hash: member -> deadline (ms, server's clock), a space, the lease in msgpack
PREFIX audit                 stream, field `e`: the entry in msgpack
PREFIX probe                 for a second after a health check
"""

from __future__ import annotations

import secrets
import time

from redis import Redis


def migrate(server: Redis, prefix: str) -> None:
    """Give the data under `prefix` an identity, unless it has one."""
    server.hsetnx(f"{prefix}meta", "created", str(int(time.time())))
    server.hsetnx(f"{prefix}meta", "identity", secrets.token_hex(8))
