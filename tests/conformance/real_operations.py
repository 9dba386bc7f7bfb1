"""A director of this project without login and ring sockets: it runs alone, with its state in memory."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import anyio
import msgspec

from director.core.placement.addresses import host_id
from director.core.placement.users import User
from director.core.settings import Settings
from director.records import HostInfo, RingInfo
from director.types import Address, MemberId, Stamp, UserKey
from tests.conformance.recording import Recording
from tests.unit.service.parts import Node, key_of, running

ALONE = MemberId("127.0.0.1:9090")


@asynccontextmanager
async def real_node(
    hosts: Sequence[HostInfo], users: Iterable[tuple[str, str]] = (), kick_delay: float = 0.0
) -> AsyncIterator[Node]:
    """Run a director.

    Args:
        hosts: the configured hosts.
        users: (name or hash, address of the host) of untagged users, without sessions.
        kick_delay: seconds, as `users.kick_delay`.
    """
    settings = Settings(isolation_wait=30.0, kick_delay=kick_delay, remember_names=True)
    node = Node(me=ALONE, hosts=hosts, expire=900, settings=settings, proxied=())
    now = int(time.time())
    for name, address in users:
        node.director.users.put(User(_key(name), host_id(Address(address)), Stamp(now), now, 0))
    async with running(node), anyio.create_task_group() as tasks:
        await tasks.start(node.driver.run)
        yield node
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def played_node(recording: Recording) -> AsyncIterator[Node]:
    """Run a director in the state in which a recording begins.

    It lists the recorded directors, though it runs alone.
    """
    async with real_node(recording.hosts, recording.users, kick_delay=2.0) as node:
        if recording.members:
            queries = node.operations.queries
            real = queries.ring

            def ring() -> RingInfo:
                # added directors have no failure: the recorded ring had not dialled them yet
                added = [msgspec.structs.replace(member, last_failed=0) for member in real().members[1:]]
                return msgspec.structs.replace(real(), members=[*recording.members, *added])

            queries.ring = ring
        yield node


def _key(name: str) -> UserKey:
    return UserKey(int(name) << 32) if name.isdigit() else key_of(name)
