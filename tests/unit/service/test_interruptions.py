"""A director's whole dealings with its store, interrupted once at every call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import anyio
import msgspec
import pytest

from director.core.placement.names import entry
from director.core.placement.users import BUCKETS, unpack
from director.core.protocol.events import Claimed, Leases, TimerFired
from director.core.tables.hosts import decode_rows, encode_rows
from director.types import Address, UserKey
from state.base import EMPTY_VERSION, Lease, StateStore, Swap, Swapped
from state.memory import MemoryStore
from tests.faulty import Choose, Fault, FaultyStore, by_chance
from tests.unit.service.parts import HOSTS, ME, OTHER, Node, address_of, bucket_of, key_of, packed, user
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

NOW = int(time.time())
PATIENCE = 30.0
"""Seconds for each step: many directors share a slow machine here."""
ENDED = {Fault.STUCK_BEFORE: Fault.BEFORE, Fault.STUCK_AFTER: Fault.AFTER}
"""The end of a call that hangs, for a caller with a deadline."""
STORED_BEFORE = ["known", "also known"]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses of the real thing are shorter, its deadlines longer: many share a slow machine here."""
    for name in ("FLUSH_AFTER", "RETRY_FIRST"):
        monkeypatch.setattr(f"director.stored.pace.{name}", 0.01)
    monkeypatch.setattr("director.stored.pace.RETRY_LONGEST", 0.05)
    for name in ("OPEN_WITHIN", "STOP_WITHIN"):
        monkeypatch.setattr(f"director.stored.procedures.{name}", PATIENCE)


class SharedStore(FaultyStore):
    """A store in memory that counts as shared, and outlives the director that closes it."""

    def __init__(self, store: StateStore, choose: Choose) -> None:
        super().__init__(store, choose)
        self.shared = True
        self.away = False

    async def close(self) -> None:
        pass


class Life:
    """One director from start to stop, and what became of it.

    number: the call that has the fault, counted from the start, or in_stop: from there. Where it is stuck
    the director is stopped, unless it is patient and waits for its own deadline.
    storm: what may happen to any call but those of the stop, instead.
    """

    def __init__(
        self,
        number: int = -1,
        fault: Fault = Fault.NONE,
        *,
        in_stop: bool = False,
        patient: bool = False,
        storm: Choose | None = None,
    ) -> None:
        self.number, self.fault, self._patient, self._storm = number, fault, patient, storm
        self._counts = not in_stop
        self.calls = 0
        self.operation = ""
        """The operation that had the fault."""
        self.opened = self.stopping = self.in_open = self.in_stop = False
        self.unconfirmed = 0
        """Operators' changes that were not confirmed."""
        self.false: list[str] = []
        """Operators' changes that were confirmed and not stored."""
        self.inner = MemoryStore()
        self.node = Node(between=self._between, members=[ME], lease_ttl=1.0)

    def _between(self, _: StateStore) -> StateStore:
        self.store = SharedStore(self.inner, self._choose)
        return self.store

    def _choose(self, operation: str) -> Fault:
        if self.store.away:
            return Fault.BEFORE
        self.calls += self._counts
        if self._storm is not None:
            return self._storm(operation)
        if not self._counts or self.calls - 1 != self.number:
            return Fault.NONE
        self.operation = operation
        self.in_open, self.in_stop = not self.opened, self.stopping
        if self.in_stop and not self._patient:
            return ENDED.get(self.fault, self.fault)
        return self.fault

    async def live(self) -> None:
        await self._prepare()
        async with anyio.create_task_group() as tasks:
            if not self._patient:
                tasks.start_soon(self._cancel_when_stuck, tasks.cancel_scope)
            await self._run()
            tasks.cancel_scope.cancel()
        self.node.driver.stop()
        self.stopping = self._counts = True
        self.store.away = False  # it was, if a claim that came late was stuck
        await self.node.persistence.stop()

    async def _prepare(self) -> None:
        """A user that the director has to find, and a host that an operator has changed."""
        await self.inner.open()
        await put_users(self.inner, STORED_BEFORE)
        row = self.node.director.hosts.rows[Address(HOSTS[2])]
        changed = msgspec.structs.replace(row, weight=33, weight_at=NOW - 1000)
        await self.inner.swap_document("hosts", EMPTY_VERSION, encode_rows([changed]))

    async def _cancel_when_stuck(self, scope: anyio.CancelScope) -> None:
        await self.store.stuck.wait()
        scope.cancel()

    async def _run(self) -> None:
        node, director = self.node, self.node.director
        await node.persistence.open()
        self.opened = True
        node.start()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node.persistence.run)
            await self._until(lambda: not director.loading)
            self._put("early", range(40))
            await self._until_stored()
            await self._operate(HOSTS[0], 7)
            await self.inner.renew(Lease(member=OTHER, ring_address=OTHER, incarnation=1, synced=True), 600)
            director.barrier.ring = (ME, OTHER)
            node.handle(TimerFired())
            self._put("in a ring", range(40))
            await self._until(lambda: node.persistence.core.usual.ring == (ME, OTHER))
            await self._until_stored()
            await self.inner.release(OTHER)
            director.barrier.ring = (ME,)
            node.handle(Leases(frozenset({ME})))
            await self._until(lambda: node.persistence.core.usual.ring == (ME,))
            await self._until_stored()
            await self._claim("claimed")
            self.store.away = True
            self._put("in an outage", range(40))
            await self._until(lambda: not node.persistence.up)
            self.store.away = False
            await self._until_stored()
            await self._operate(HOSTS[1], 8)
            self._storm = None
            await self._until_stored()
            self._put("last moment", range(1))
            tasks.cancel_scope.cancel()

    def _put(self, name: str, numbers: Iterable[int]) -> None:
        for number in numbers:
            key = self.node.put(f"{name} {number}", HOSTS[number % 3])
            self.node.director.names.add(entry(key, name.encode()))

    async def _operate(self, host: str, weight: int) -> None:
        change = await self.node.operations.hosts.update(host, weight, reason="test")
        self.unconfirmed += not change.stored
        if change.stored and (await stored_hosts(self.inner))[host] != weight:
            self.false.append(host)

    async def _claim(self, name: str) -> None:
        """As a login that comes again and again."""
        candidate = packed(user(name, HOSTS[1], decided=NOW, seen=NOW))
        claimed = Claimed(key_of(name), b"")
        with anyio.fail_after(PATIENCE):
            while claimed not in self.node.events:
                self.node.persistence.claim(key_of(name), candidate)
                await anyio.sleep(0.02)

    async def _until_stored(self) -> None:
        p = self.node.persistence
        await self._until(
            lambda: (
                p.up
                and not p.queued
                and p.documents.operators_stored
                and not p.core.steps.audit
                and not p.core.usual.has_changed()
            )
        )

    async def _until(self, condition: Callable[[], object]) -> None:
        await until(condition, within=PATIENCE)

    async def check(self) -> None:
        """Store and memory are the same, and everything confirmed is stored."""
        director = self.node.director
        where = f"call {self.number} ({self.operation}), {self.fault.name}"
        assert self.false == [], where
        keys = {key for number in range(BUCKETS) for key in keys_of(director.users.stored_bucket(number))}
        stored = {bucket.number: bucket.blob for bucket in await load(self.inner)}
        stored_keys = {key for blob in stored.values() for key in keys_of(blob)}
        assert set(map(key_of, STORED_BEFORE)) <= stored_keys, where
        if self.in_stop:
            keys.discard(key_of("last moment 0"))  # what a stop cannot write was not confirmed to anybody
        assert keys <= stored_keys, where
        if self.node.persistence.loaded and not self.in_stop:
            memory = {number: director.users.stored_bucket(number) for number in range(BUCKETS)}
            if key_of("claimed") not in keys:
                stored.pop(bucket_of("claimed"), None)  # an interrupted claim may have been stored
            assert {number: blob for number, blob in memory.items() if blob} == stored, where
        assert await stored_hosts(self.inner) == {
            row.address: row.weight for row in director.hosts.rows.values()
        }, where
        assert (await stored_hosts(self.inner))[HOSTS[2]] == 33, where


def keys_of(blob: bytes) -> set[UserKey]:
    return {record.key for record in unpack(blob)}


async def load(store: StateStore) -> list:
    return [bucket async for batch in store.load_buckets("users") for bucket in batch]


async def put_users(store: StateStore, names: Iterable[str]) -> None:
    swaps = [
        Swap("users", bucket_of(name), EMPTY_VERSION, packed(user(name, HOSTS[2], decided=NOW, seen=NOW)))
        for name in names
    ]
    assert all(isinstance(outcome, Swapped) for outcome in await store.swap_buckets(swaps))


async def stored_hosts(store: StateStore) -> dict[str, int]:
    document = await store.read_document("hosts")
    return {} if document is None else {row.address: row.weight for row in decode_rows(document.data)}


async def live_together(some: Iterable[Life]) -> None:
    async with anyio.create_task_group() as tasks:
        for life in some:
            tasks.start_soon(life.live)


async def lives(fault: Fault) -> list[Life]:
    """One for each call that a life makes, with this fault of that call; and one in which nothing happens."""
    calm = Life()
    await calm.live()
    all_lives = [Life(number, fault) for number in range(calm.calls)]
    await live_together(all_lives)
    assert sum(bool(life.operation) for life in all_lives) >= calm.calls - 3, "their number varies a little"
    assert calm.unconfirmed == 0
    return [calm, *all_lives]


@pytest.mark.shows("S-62")
@pytest.mark.parametrize(
    "fault",
    [Fault.BEFORE, Fault.AFTER, Fault.STUCK_BEFORE, Fault.STUCK_AFTER],
    ids=lambda fault: fault.name,
)
async def test_a_life_with_one_fault_at_any_call_ends_with_everything_stored(fault: Fault) -> None:
    for life in await lives(fault):
        await life.check()


@pytest.mark.shows("S-63")
async def test_a_life_in_a_storm_ends_with_everything_stored() -> None:
    some = [Life(storm=by_chance(seed, spared=0.8)) for seed in range(20)]
    await live_together(some)
    for life in some:
        await life.check()


@pytest.mark.shows("S-64")
@pytest.mark.parametrize("fault", [Fault.STUCK_BEFORE, Fault.STUCK_AFTER], ids=lambda fault: fault.name)
async def test_a_start_whose_store_gives_no_answer_goes_on_without_it_and_joins_it_later(
    fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = Life()
    await calm.live()
    monkeypatch.setattr("director.stored.procedures.OPEN_WITHIN", 1.0)
    reading = range(1, calm.store.calls.index("load_buckets"))  # opening has no deadline here but the store's
    some = [Life(number, fault, patient=True) for number in reading]
    await live_together(some)
    for life in some:
        assert life.in_open
        await life.check()
        assert len(life.node.logged("store_reachable")) == 2, "after the start, and after the outage"


@pytest.mark.shows("S-64")
@pytest.mark.parametrize("fault", [Fault.STUCK_BEFORE, Fault.STUCK_AFTER], ids=lambda fault: fault.name)
async def test_a_stop_whose_store_gives_no_answer_ends_at_its_deadline(
    fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("director.stored.procedures.STOP_WITHIN", 1.0)
    some = [Life(number, fault, in_stop=True, patient=True) for number in range(2)]
    await live_together(some)
    for life in some:
        assert life.in_stop
        assert life.node.persistence.errors.get("stop") == 1
        await life.check()


@pytest.mark.shows("S-65")
@pytest.mark.parametrize("seed", range(3))
async def test_two_directors_in_a_storm_who_claim_the_same_users_come_to_the_same(seed: int) -> None:
    inner = MemoryStore()
    await inner.open()
    nodes = [
        Node(
            between=lambda _, seed=seed: SharedStore(inner, by_chance(seed, spared=0.8)), me=me, members=[me]
        )  # type: ignore[misc]
        for seed, me in enumerate((ME, OTHER))
    ]
    names = [f"user {number}" for number in range(100)]

    async def insist(node: Node, host: str, order: list[str]) -> None:
        for at in range(0, len(order), 10):
            waiting = {key_of(name): name for name in order[at : at + 10]}
            while waiting:
                for key, name in waiting.items():
                    node.persistence.claim(key, packed(user(name, host, decided=NOW, seen=NOW)))
                await anyio.sleep(0.01)
                for event in node.events:
                    waiting.pop(event.key if isinstance(event, Claimed) else UserKey(0), None)

    for node in nodes:
        await node.persistence.open()
        node.start()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as running:
            for node in nodes:
                running.start_soon(node.persistence.run)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(insist, nodes[0], HOSTS[0], names)
                tasks.start_soon(insist, nodes[1], HOSTS[1], names[::-1])
            running.cancel_scope.cancel()
    stored = {record.key: record for bucket in await load(inner) for record in unpack(bucket.blob)}
    hosts = [[node.host(name) for node in nodes] for name in names]
    assert [pair for pair in hosts if len(set(pair)) != 1] == []
    assert [address_of(stored[key_of(name)].host) for name in names] == [pair[0] for pair in hosts]
    for node in nodes:
        node.driver.stop()
        await node.persistence.stop()


# Stops, after which the driver takes in nothing more; they were found by the tests above.


def node_over(inner: MemoryStore, store: list[SharedStore]) -> Node:
    """A director at this store; `store` is given what stands between."""

    def between(_: StateStore) -> StateStore:
        store.append(SharedStore(inner, lambda operation: Fault.NONE))
        return store[0]

    return Node(between=between, members=[ME])


@pytest.mark.shows("S-66")
async def test_a_director_that_stops_before_it_has_read_its_store_does_not_empty_it() -> None:
    inner, stores = MemoryStore(), []
    await inner.open()
    await put_users(inner, STORED_BEFORE)
    node = node_over(inner, stores)
    rows = [
        msgspec.structs.replace(row, weight=33, weight_at=NOW) for row in node.director.hosts.rows.values()
    ]
    await inner.swap_document("hosts", EMPTY_VERSION, encode_rows(rows))
    stores[0].away = True
    stores[0].choose = lambda operation: Fault.BEFORE if stores[0].away else Fault.NONE
    await node.persistence.open()
    node.start()
    stores[0].away = False
    node.driver.stop()
    await node.persistence.stop()
    stored = {key for bucket in await load(inner) for key in keys_of(bucket.blob)}
    assert stored == set(map(key_of, STORED_BEFORE))
    assert set((await stored_hosts(inner)).values()) == {33}


@pytest.mark.shows("S-66")
async def test_a_stop_keeps_what_another_has_written_into_the_same_bucket_meanwhile() -> None:
    inner, stores = MemoryStore(), []
    await inner.open()
    node = node_over(inner, stores)
    await node.persistence.open()
    node.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.persistence.run)
        await until(lambda: node.persistence.loaded)
        tasks.cancel_scope.cancel()
    theirs = user("alice", HOSTS[1], decided=NOW, seen=NOW)._replace(key=UserKey(key_of("bob") ^ 1))
    swap = Swap("users", bucket_of("bob"), EMPTY_VERSION, packed(theirs))
    assert isinstance((await inner.swap_buckets([swap]))[0], Swapped)
    node.put("bob")
    node.driver.stop()
    await node.persistence.stop()
    stored = {key for bucket in await load(inner) for key in keys_of(bucket.blob)}
    assert stored == {theirs.key, key_of("bob")}


@pytest.mark.shows("S-67")
async def test_a_stop_in_the_middle_of_a_ring_change_writes_what_was_left_to_the_member_who_is_gone() -> None:
    inner, stores = MemoryStore(), []
    await inner.open()
    await inner.renew(Lease(member=OTHER, ring_address=OTHER, incarnation=1, synced=True), 600)
    node = node_over(inner, stores)
    share = node.persistence.core.usual
    await node.persistence.open()
    node.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.persistence.run)
        await until(lambda: node.persistence.loaded and share.ring)
        node.director.barrier.ring = (ME, OTHER)
        node.handle(TimerFired())
        await until(lambda: share.ring == (ME, OTHER) and not node.director.partial)
        keys = {node.put(f"user {number}") for number in range(40)}
        await until(lambda: not node.persistence.queued)
        stores[0].choose = lambda operation: (
            Fault.STUCK_BEFORE if operation == "versions" and not stores[0].stuck.is_set() else Fault.NONE
        )
        node.director.barrier.ring = (ME,)
        node.handle(Leases(frozenset({ME})))
        await stores[0].stuck.wait()
        tasks.cancel_scope.cancel()
    share._deferred.clear()  # long ago
    node.driver.stop()
    await node.persistence.stop()
    assert {key for bucket in await load(inner) for key in keys_of(bucket.blob)} == keys
