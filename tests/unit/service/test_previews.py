"""What a flush would move, counted while logins are answered."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from director.core.addresses import host_id
from director.core.users import User
from director.types import Address, Stamp, UserKey
from tests.unit.service.parts import HOSTS, Node, running

pytestmark = pytest.mark.anyio
USERS = 5000


class Counting:
    """An assigner that counts the users it is asked about."""

    def __init__(self, assigner: Any) -> None:
        self._assigner = assigner
        self.asked = 0

    def place(self, hash32: int, tag: bytes) -> Any:
        self.asked += 1
        return self._assigner.place(hash32, tag)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with running(Node()) as node:
        yield node


async def test_a_dry_run_of_a_flush_looks_at_some_users_of_a_full_bucket_at_a_time(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = int(time.time())
    for number in range(USERS):
        node.director.users.put(User(UserKey(number), host_id(Address(HOSTS[0])), Stamp(now), now, 0))
    counting = Counting(node.director.assigner)
    monkeypatch.setattr(node.director, "assigner", counting)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, counting.asked)
            counting.asked = 0
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        preview = await node.operations.flush(None, reason="", dry_run=True)
        tasks.cancel_scope.cancel()
    assert preview.moved + preview.unchanged == USERS
    assert 0 < most <= 500
