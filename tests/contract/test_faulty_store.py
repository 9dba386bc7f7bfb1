"""Guarantees of every store for callers whose calls fail, are half done, or are done twice."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio
import pytest

from state.base import (
    EMPTY_VERSION,
    AuditEntry,
    Bucket,
    Document,
    Lease,
    StateStore,
    StoreUnavailable,
    Swap,
    Swapped,
    version_of,
)
from state.bucketnumbers import BUCKETS
from tests.faulty import Fault, FaultyStore, by_chance

pytestmark = pytest.mark.anyio

T = TypeVar("T")

SEEDS = 5
each_seed = pytest.mark.parametrize("seed", range(SEEDS))
silent = pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.HALF], ids=lambda f: f.name)
"""Faults after which the caller does not know whether the call was done."""


def once(fault: Fault) -> Callable[[str], Fault]:
    """Return a store whose next call has this fault, and whose later calls have none."""
    faults = [fault]
    return lambda operation: faults.pop() if faults else Fault.NONE


def put(number: int, blob: bytes, *, over: bytes = b"") -> Swap:
    return Swap("users", number, version_of(over), blob)


def entry(number: int) -> AuditEntry:
    return AuditEntry(at=time.time(), who="root", what="down", target=str(number))


def lease(incarnation: int) -> Lease:
    return Lease(member="10.0.0.1", ring_address="10.0.0.1:9090", incarnation=incarnation, synced=True)


async def retried(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call until it answers, and return the answer."""
    while True:
        try:
            return await call()
        except StoreUnavailable:
            continue


async def load(store: StateStore) -> list[Bucket]:
    return [bucket async for batch in store.load_buckets("users") for bucket in batch]


# Buckets


@pytest.mark.shows("S-83")
@silent
async def test_a_swap_that_failed_is_swapped_when_it_is_repeated(
    each_store: StateStore, fault: Fault
) -> None:
    faulty = FaultyStore(each_store, once(fault))
    swaps = [put(number, b"new %d" % number) for number in (0, 1, 64, 4095)]
    with pytest.raises(StoreUnavailable):
        await faulty.swap_buckets(swaps)
    assert await faulty.swap_buckets(swaps) == [Swapped(version_of(swap.blob)) for swap in swaps]
    assert {bucket.number: bucket.blob for bucket in await load(each_store)} == {
        swap.number: swap.blob for swap in swaps
    }


@pytest.mark.shows("S-91")
@silent
async def test_a_removal_that_failed_is_swapped_when_it_is_repeated(
    each_store: StateStore, fault: Fault
) -> None:
    await each_store.swap_buckets([put(1, b"a"), put(2, b"b")])
    faulty = FaultyStore(each_store, once(fault))
    removals = [put(1, b"", over=b"a"), put(2, b"", over=b"b")]
    with pytest.raises(StoreUnavailable):
        await faulty.swap_buckets(removals)
    assert await faulty.swap_buckets(removals) == [Swapped(EMPTY_VERSION)] * 2
    assert await load(each_store) == []


@pytest.mark.shows("S-91")
async def test_a_swap_that_happens_twice_is_swapped(each_store: StateStore) -> None:
    faulty = FaultyStore(each_store, lambda operation: Fault.REPEAT)
    assert await faulty.swap_buckets([put(1, b"x")]) == [Swapped(version_of(b"x"))]
    assert await faulty.swap_document("hosts", EMPTY_VERSION, b"x") == Swapped(version_of(b"x"))


@pytest.mark.shows("S-107")
async def test_after_a_half_done_swap_each_bucket_is_old_or_new(each_store: StateStore) -> None:
    numbers = range(0, BUCKETS, 50)
    await each_store.swap_buckets([put(number, b"old") for number in numbers])
    faulty = FaultyStore(each_store, once(Fault.HALF))
    with pytest.raises(StoreUnavailable):
        await faulty.swap_buckets([put(number, b"new", over=b"old") for number in numbers])
    loaded = await load(each_store)
    assert {bucket.blob for bucket in loaded} == {b"old", b"new"}
    assert [bucket.version for bucket in loaded] == [version_of(bucket.blob) for bucket in loaded]
    assert sorted(bucket.number for bucket in loaded) == list(numbers)


@pytest.mark.shows("S-107")
@each_seed
async def test_writers_that_merge_and_retry_lose_nothing_under_any_fault(
    each_store: StateStore, seed: int
) -> None:
    chance = random.Random(seed)
    wanted: dict[int, set[int]] = {number: set() for number in range(6)}

    async def write(store: StateStore, items: Sequence[tuple[int, int]]) -> None:
        known: dict[int, Bucket] = {number: Bucket("users", number, EMPTY_VERSION, b"") for number in wanted}
        for number, item in items:
            others = {number, (number + 1) % len(wanted)}
            while number in others:
                swaps = [
                    Swap(
                        "users",
                        n,
                        known[n].version,
                        bytes(sorted({*known[n].blob, *([item] * (n == number))})),
                    )
                    for n in others
                ]
                outcomes = await retried(lambda swaps=swaps: store.swap_buckets(swaps))  # type: ignore[misc]
                for swap, outcome in zip(swaps, outcomes, strict=True):
                    blob = swap.blob if isinstance(outcome, Swapped) else outcome.blob
                    known[swap.number] = Bucket("users", swap.number, outcome.version, blob)
                    if isinstance(outcome, Swapped):
                        others.discard(swap.number)

    async with anyio.create_task_group() as tasks:
        for writer in range(4):
            items = [(chance.randrange(len(wanted)), chance.randrange(256)) for _ in range(15)]
            for number, item in items:
                wanted[number].add(item)
            tasks.start_soon(write, FaultyStore(each_store, by_chance(100 * seed + writer)), items)
    assert {bucket.number: set(bucket.blob) for bucket in await load(each_store)} == wanted


@pytest.mark.shows("S-103")
async def test_an_interrupted_load_is_complete_when_it_is_repeated(each_store: StateStore) -> None:
    await each_store.swap_buckets([put(number, b"x") for number in range(0, BUCKETS, 3)])
    faulty = FaultyStore(each_store, once(Fault.HALF))
    with pytest.raises(StoreUnavailable):
        await load(faulty)
    assert sorted(bucket.number for bucket in await load(faulty)) == list(range(0, BUCKETS, 3))


# Documents


@pytest.mark.shows("S-83")
@silent
async def test_a_document_whose_swap_failed_is_swapped_when_it_is_repeated(
    each_store: StateStore, fault: Fault
) -> None:
    faulty = FaultyStore(each_store, once(fault))
    with pytest.raises(StoreUnavailable):
        await faulty.swap_document("hosts", EMPTY_VERSION, b"h")
    assert await faulty.swap_document("hosts", EMPTY_VERSION, b"h") == Swapped(version_of(b"h"))
    assert await each_store.read_document("hosts") == Document(version_of(b"h"), b"h")


@pytest.mark.shows("S-110")
@each_seed
async def test_operators_who_merge_and_retry_see_their_change_afterwards(
    each_store: StateStore, seed: int
) -> None:
    lost: list[int] = []

    async def operate(store: StateStore, changes: range) -> None:
        version, rows = EMPTY_VERSION, b""
        for change in changes:
            while True:
                merged = bytes(sorted({*rows, change}))
                outcome = await retried(
                    lambda v=version, m=merged: store.swap_document("hosts", v, m)  # type: ignore[misc]
                )
                version = outcome.version
                if isinstance(outcome, Swapped):
                    rows = merged
                    break
                rows = outcome.blob
            document = await each_store.read_document("hosts")
            confirmed = range(changes.start, change + 1)
            lost.extend(set(confirmed) - set(document.data if document else b""))

    async with anyio.create_task_group() as tasks:
        for operator in range(3):
            changes = range(20 * operator, 20 * operator + 12)
            tasks.start_soon(operate, FaultyStore(each_store, by_chance(100 * seed + operator)), changes)
    assert lost == []


@pytest.mark.shows("S-91")
@pytest.mark.parametrize("fault", [Fault.STUCK_BEFORE, Fault.STUCK_AFTER], ids=lambda f: f.name)
async def test_a_write_whose_caller_was_cancelled_is_swapped_when_it_is_repeated(
    each_store: StateStore, fault: Fault
) -> None:
    for write in (
        lambda store: store.swap_document("hosts", EMPTY_VERSION, b"h"),
        lambda store: store.swap_buckets([put(1, b"h")]),
    ):
        faulty = FaultyStore(each_store, once(fault))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, faulty)
            await faulty.stuck.wait()
            tasks.cancel_scope.cancel()
        assert await write(faulty) in (Swapped(version_of(b"h")), [Swapped(version_of(b"h"))])


# Leases and audit


@pytest.mark.shows("S-113")
async def test_a_lease_that_is_renewed_and_released_twice_is_one_lease_and_none(
    each_store: StateStore,
) -> None:
    faulty = FaultyStore(each_store, lambda operation: Fault.REPEAT)
    await faulty.renew(lease(1), 30.0)
    await faulty.renew(lease(2), 30.0)
    assert [held.incarnation for held in await each_store.members()] == [2]
    await faulty.release("10.0.0.1")
    assert await each_store.members() == []


@pytest.mark.shows("S-116")
async def test_audit_entries_whose_append_is_repeated_are_stored_twice(each_store: StateStore) -> None:
    faulty = FaultyStore(each_store, lambda operation: Fault.REPEAT)
    await faulty.append_audit([entry(1), entry(2)])
    assert [found.target for found in await each_store.audit(10)] == ["2", "1", "2", "1"]


@pytest.mark.shows("S-116")
@each_seed
async def test_audit_entries_of_a_caller_that_retries_keep_their_order(
    each_store: StateStore, seed: int
) -> None:
    faulty = FaultyStore(each_store, by_chance(seed))
    for number in range(0, 40, 2):
        entries = [entry(number), entry(number + 1)]
        await retried(lambda entries=entries: faulty.append_audit(entries))  # type: ignore[misc]
    found = [int(one.target) for one in reversed(await each_store.audit(1000))]
    last = {number: at for at, number in enumerate(found)}
    assert sorted(last, key=last.__getitem__) == list(range(40))


# All


@each_seed
async def test_every_retried_method_gives_the_answer_it_gives_without_faults(
    each_store: StateStore, seed: int
) -> None:
    await each_store.swap_buckets([put(1, b"x")])
    await each_store.swap_document("hosts", EMPTY_VERSION, b"h")
    await each_store.append_audit([entry(1)])
    faulty = FaultyStore(each_store, by_chance(seed))
    reads: list[Callable[[StateStore], Awaitable[object]]] = [
        lambda store: store.run_id(),
        load,
        lambda store: store.read_buckets("users", [1, 2]),
        lambda store: store.versions("users"),
        lambda store: store.read_document("hosts"),
        lambda store: store.documents(),
        lambda store: store.members(),
        lambda store: store.audit(10),
    ]
    for read in reads:
        assert await retried(lambda read=read: read(faulty)) == await read(each_store)  # type: ignore[misc]
