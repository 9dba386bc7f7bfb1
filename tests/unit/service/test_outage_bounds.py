"""The growth of queues in an outage of hours; afterwards a single write empties them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from director.core.placement.users import BUCKET_SHIFT, BUCKETS
from director.core.protocol.events import ClaimFailed
from director.stored.procedures import AUDIT_QUEUE
from director.stored.storeevents import SnapshotDue
from director.types import UserKey
from state.base import AuditEntry
from tests.servers import RedisServer
from tests.unit.service.parts import HOSTS, Node, carried_out, packed, user
from tests.unit.service.test_persist import clean, in_a_ring_of_two, running
from tests.waiting import until

pytestmark = pytest.mark.anyio
NOW = int(time.time())


@pytest.mark.shows("S-17")
async def test_only_bucket_numbers_are_queued_while_the_store_is_unreachable_for_hours(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every bucket of users and names changes three times over, with the snapshot away too."""
    snapshot = f"sqlite:///{tmp_path}/none/snapshot.db"
    monkeypatch.setattr(
        "tests.unit.service.test_persist.Node", lambda *a, **k: Node(*a, snapshot=snapshot, **k)
    )
    async with in_a_ring_of_two(redis.url) as node:
        await clean(node)
        redis.kill()
        await until(lambda: not node.persistence.up)
        for turn in range(3):
            for bucket in range(BUCKETS):
                key = UserKey(bucket << BUCKET_SHIFT | turn)
                record = user("", HOSTS[0], decided=NOW, seen=NOW)._replace(key=key)
                node.director.users.put(record)
                node.director.names.add(key.to_bytes(8, "big") + b"\0\4name")
            node.persistence.buckets_changed()
            node.persistence._driver.feed(SnapshotDue())
            for number in range(AUDIT_QUEUE):
                node.persistence.audit(AuditEntry(at=NOW, who="me", what="test", target=str(number)))
            for number in range(1000):
                node.persistence.persist(number, None)
                node.persistence.claim(UserKey(number), packed(record))
        writing, share = node.persistence.core.writer, node.persistence.core.usual
        snapshot_info = node.persistence.info().snapshot
        assert node.persistence.queued <= BUCKETS
        assert len(writing._queued) + len(share._deferred) == BUCKETS
        assert len(writing._queued_names) <= BUCKETS
        assert len(writing.questions) == 0
        assert len(node.persistence.core.steps.audit) == AUDIT_QUEUE
        assert len(node.persistence.core.claims) == 0
        assert len([event for event in node.events if isinstance(event, ClaimFailed)]) == 3000
        assert snapshot_info is not None
        assert snapshot_info.queued_buckets == 2 * BUCKETS
        redis.start()
        await until(lambda: node.persistence.up)


@pytest.mark.shows("S-18")
async def test_one_write_stores_all_that_was_dirty_when_it_began(redis: RedisServer) -> None:
    async with running(Node(redis.url)) as node:
        await clean(node)
        for number in range(20_000):
            node.put(f"user{number}")
        await carried_out(node, node.persistence.core.steps.write(names=False))
        assert node.persistence.queued == 0
