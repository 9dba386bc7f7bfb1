"""Our director without its login and ring sockets: one that stands alone, with state in memory."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio
import msgspec

from director.core.director import Director, Settings
from director.core.placement.addresses import host_id
from director.core.placement.hashing import UserHash
from director.core.placement.names import NameTable
from director.core.placement.users import User
from director.core.protocol.events import Started
from director.core.ring.link import Identity
from director.core.tables.hosts import BackendSetting, HostTable
from director.records import HostInfo
from director.service.driver import Driver
from director.service.log import Log
from director.service.operations.operations import Operations
from director.service.persistence.persist import Persistence
from director.types import Address, MemberId, Stamp, UserKey
from director.wire.hotpath import Assigner, UserTable
from state.memory import MemoryStore

EXPIRE = 900
ALONE = MemberId("127.0.0.1:9090")


class Parts(NamedTuple):
    """What a running director consists of."""

    driver: Driver
    persistence: Persistence
    user_hash: UserHash


@asynccontextmanager
async def real_operations(
    hosts: Sequence[HostInfo], users: Iterable[tuple[str, str]] = ()
) -> AsyncIterator[Operations]:
    """hosts: the configured ones, all up. users: (name, address of the host) of untagged users."""
    async with real_director(hosts, users) as (driver, persistence, user_hash):
        yield Operations(driver, persistence, user_hash, time.time(), lambda: 0.0)


@asynccontextmanager
async def real_director(
    hosts: Sequence[HostInfo], users: Iterable[tuple[str, str]] = ()
) -> AsyncIterator[Parts]:
    """The same without operators."""
    table = HostTable([BackendSetting(Address(h.address), "", h.tag, h.weight) for h in hosts])
    for host in hosts:
        table.merge([msgspec.structs.replace(table.rows[Address(host.address)], up_at=host.changed)])
    identity = Identity(ALONE, 1, "%Lu", EXPIRE, b"secret", 1.0, 5.0, 2.0)
    user_hash, log = UserHash(), Log(sys.stderr.write, level="error")
    assigner = Assigner(UserTable(EXPIRE), user_hash)
    director = Director(identity, [ALONE], table, assigner, NameTable(), Settings(isolation_wait=30.0))
    driver = Driver(director, log)
    persistence = Persistence(
        MemoryStore(), director, driver.handle, log, lease_ttl=10.0, incarnation=1, ping_timeout=5.0
    )
    async with anyio.create_task_group() as tasks:
        await tasks.start(driver.run)
        await persistence.open()
        driver.store = persistence
        driver.handle(Started())
        tasks.start_soon(persistence.run)
        now = int(time.time())
        for name, address in users:
            director.users.put(User(_key(user_hash, name), host_id(Address(address)), Stamp(now), now, 0))
        yield Parts(driver, persistence, user_hash)
        tasks.cancel_scope.cancel()


def _key(user_hash: UserHash, name: str) -> UserKey:
    return UserKey(int(name) << 32) if name.isdigit() else user_hash.key(name.encode())
