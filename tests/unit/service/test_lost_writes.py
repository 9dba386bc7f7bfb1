"""Writes that are lost because another director has written in between."""

from __future__ import annotations

import time
from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest

from director.core.placement.addresses import host_id
from director.core.placement.users import BUCKET_SHIFT, RECORD, User, pack
from director.core.protocol.events import StoredUsers
from director.stored.pace import TURN_BYTES
from director.types import Address, Stamp, UserKey
from state.base import EMPTY_VERSION, Lost, Swap, Swapped
from tests.unit.service.parts import HOSTS, Node, clean, running

pytestmark = pytest.mark.anyio
BUCKETS_WRITTEN = 40
USERS_IN_EACH = 1000


def in_bucket(number: int, users: range) -> list[User]:
    now = int(time.time())
    host = host_id(Address(HOSTS[0]))
    return [User(UserKey(number << BUCKET_SHIFT | one), host, Stamp(now), now, 0) for one in users]


@pytest.mark.shows("A-38")
async def test_full_buckets_that_another_director_has_written_are_taken_in_some_at_a_time() -> None:
    node = Node("memory:")
    swap_buckets = node.store.swap_buckets

    async def after_another(swaps: Sequence[Swap]) -> list[Swapped | Lost]:
        theirs = [
            Swap(
                "users", swap.number, EMPTY_VERSION, pack(in_bucket(swap.number, range(1, USERS_IN_EACH + 1)))
            )
            for swap in swaps
            if swap.space == "users" and swap.number < BUCKETS_WRITTEN and swap.version == EMPTY_VERSION
        ]
        if theirs:
            await swap_buckets(theirs)
        return await swap_buckets(swaps)

    node.store.swap_buckets = after_another  # type: ignore[method-assign]
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            events, node.events = node.events, []
            most = max(most, sum(len(one.records) for one in events if isinstance(one, StoredUsers)))
            await anyio.lowlevel.checkpoint()

    async with running(node), anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        for number in range(BUCKETS_WRITTEN):
            node.director.users.put(in_bucket(number, range(1))[0])
        node.persistence.buckets_changed()
        with anyio.fail_after(10):
            while len(node.director.users) < BUCKETS_WRITTEN * (USERS_IN_EACH + 1):
                await anyio.lowlevel.checkpoint()
        await clean(node)
        tasks.cancel_scope.cancel()
    assert 0 < most <= TURN_BYTES + USERS_IN_EACH * RECORD.size
