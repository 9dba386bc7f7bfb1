"""Connections to Redis that close, stall or are slow in every exchange of every operation."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from typing import Any

import anyio
import hiredis
import msgspec
import pytest
from anyio import to_thread

from state.base import (
    AuditEntry,
    Document,
    Health,
    Lease,
    StateStore,
    StoreUnavailable,
    Swap,
    Swapped,
    version_of,
)
from tests.contract.conftest import Stores
from tests.proxy import How, Proxy, Way
from tests.servers import RedisServer, free_port

pytestmark = pytest.mark.anyio

Operation = Callable[[StateStore, int], Awaitable[Any]]
"""Called with the number of a turn, from 1; a write replaces the data of the turn before."""

ME = Lease(member="10.0.0.1", ring_address="10.0.0.1:9090", incarnation=1, synced=True)
FIRST = AuditEntry(at=time.time(), who="root", what="down", target="first")
NUMBERS = (1, 2, 63, 64, 130, 4095)
LARGE = 3 << 20
"""Bytes of a blob, so that two of them are too much for one round trip."""


def blob(turn: int, number: int) -> bytes:
    return b"%d:%d" % (turn, number) * 20 if turn else b""


async def swap_buckets(store: StateStore, turn: int) -> Any:
    swaps = [Swap("users", n, version_of(blob(turn - 1, n)), blob(turn, n)) for n in NUMBERS]
    return await store.swap_buckets(swaps) == [Swapped(version_of(swap.blob)) for swap in swaps]


async def swap_much(store: StateStore, turn: int) -> Any:
    old, new = (b"%d" % n * (LARGE // len(b"%d" % n)) if n else b"" for n in (turn - 1, turn))
    swaps = [Swap("names", n, version_of(old), new) for n in (5, 500)]
    return await store.swap_buckets(swaps) == [Swapped(version_of(new))] * 2


async def swap_document(store: StateStore, turn: int) -> Any:
    new = blob(turn, 0)
    return await store.swap_document("plan", version_of(blob(turn - 1, 0)), new) == Swapped(version_of(new))


async def append_audit(store: StateStore, turn: int) -> Any:
    await store.append_audit([msgspec.structs.replace(FIRST, target=f"{turn}.{n}") for n in range(3)])


async def load_buckets(store: StateStore, turn: int) -> Any:
    loaded = [bucket async for batch in store.load_buckets("users") for bucket in batch]
    return [(bucket.number, bucket.version == version_of(bucket.blob)) for bucket in loaded]


async def read_buckets(store: StateStore, turn: int) -> Any:
    return await store.read_buckets("users", [*NUMBERS, 7])


async def versions(store: StateStore, turn: int) -> Any:
    return await store.versions("users")


async def read_document(store: StateStore, turn: int) -> Any:
    return await store.read_document("hosts")


async def documents(store: StateStore, turn: int) -> Any:
    return "hosts" in await store.documents()


async def renew(store: StateStore, turn: int) -> Any:
    await store.renew(msgspec.structs.replace(ME, incarnation=turn), 60.0)
    return [lease.incarnation for lease in await store.members()]


async def release(store: StateStore, turn: int) -> Any:
    await store.release("10.0.0.9")


async def members(store: StateStore, turn: int) -> Any:
    return [lease.member for lease in await store.members()]


async def audit(store: StateStore, turn: int) -> Any:
    return await store.audit(10, target="first")


async def health(store: StateStore, turn: int) -> Any:
    return isinstance(await store.health(), Health)


async def run_id(store: StateStore, turn: int) -> Any:
    return await store.run_id()


WRITES: list[Operation] = [swap_buckets, swap_much, swap_document, append_audit, renew, release]
READS: list[Operation] = [
    load_buckets,
    read_buckets,
    versions,
    read_document,
    documents,
    members,
    audit,
    health,
    run_id,
]
each_operation = pytest.mark.parametrize(
    "operation", [*WRITES, *READS], ids=lambda operation: operation.__name__
)


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    with Proxy(redis_server.socket) as proxy:
        yield proxy


@pytest.fixture
async def direct(redis_server: RedisServer, stores: Stores) -> StateStore:
    """The same store without the proxy, with data for all operations that read."""
    store = await stores.open(redis_server.url)
    assert await swap_buckets(store, 1)
    await store.swap_document("hosts", version_of(b""), b"h" * 50)
    await store.renew(ME, 60.0)
    await store.append_audit([FIRST])
    return store


def url_of(proxy: Proxy, *, prefix: str = "dd:") -> str:
    return f"redis://127.0.0.1:{proxy.port}?prefix={prefix}"


def places(replies: bytes) -> list[int]:
    """Return numbers of bytes: 0, each end of a reply, one byte before each end, the middle of each reply."""
    reader = hiredis.Reader()
    ends = [0]
    for at in range(len(replies)):
        reader.feed(replies[at : at + 1])
        if reader.gets() is not False:
            ends.append(at + 1)
    pairs = list(pairwise(ends))
    chosen = pairs if len(pairs) <= 8 else [*pairs[:3], *pairs[len(pairs) // 2 :][:2], *pairs[-3:]]
    return sorted({at for start, end in chosen for at in (start, (start + end) // 2, end - 1, end)})


async def recorded(proxy: Proxy, work: Awaitable[object]) -> dict[Way, bytes]:
    """Return the exchanges that pass through the proxy during the operation."""
    proxy.listen()
    await work
    return {way: bytes(passed) for way, passed in proxy.passed.items()}


async def outcome_of(work: Awaitable[Any]) -> tuple[Any, StoreUnavailable | None]:
    """Return the result of the operation, or its error."""
    try:
        return await work, None
    except StoreUnavailable as exc:
        return None, exc


async def struck(proxy: Proxy) -> bool:
    """Whether all bytes before the fault have passed, so that the fault has occurred."""
    return proxy.reached and await to_thread.run_sync(proxy.struck.wait, 5.0)


@pytest.mark.shows("S-90", "S-124")
@each_operation
async def test_an_operation_interrupted_after_any_reply_fails_at_once_and_can_be_repeated(
    operation: Operation, proxy: Proxy, direct: StateStore, stores: Stores
) -> None:
    store = await stores.open(url_of(proxy), timeout=10.0)
    turn = 1 if operation is swap_buckets else 0  # the fixture has written the first
    await operation(store, turn := turn + 1)  # the first one may ask for more
    passed = await recorded(proxy, operation(store, turn := turn + 1))
    request = len(passed[Way.REQUESTS])
    cuts = [(Way.REPLIES, at) for at in places(passed[Way.REPLIES])]
    cuts += [(Way.REQUESTS, at) for at in (0, 1, request // 2, request - 1, request)]
    happened = 0
    for way, at in cuts:
        turn += 1
        expected = await undisturbed(operation, direct, turn)
        proxy.strike(How.CUT, way, after=at)
        outcome, failure = await outcome_of(operation(store, turn))
        assert failure is None or (failure.after is None and await struck(proxy)), failure
        assert failure is not None or outcome == expected
        happened += await struck(proxy)
        proxy.listen()
        assert await operation(store, turn) == expected
        await nothing_doubled_or_lost(operation, direct, turn)
    assert happened >= len(cuts) - 2, "only the last places of a reply with numbers in it may be missed"


async def undisturbed(operation: Operation, direct: StateStore, turn: int) -> Any:
    """Return the result of the operation."""
    if operation in READS:
        return await operation(direct, turn)
    return {renew: [turn], release: None, append_audit: None}.get(operation, True)


async def nothing_doubled_or_lost(operation: Operation, direct: StateStore, turn: int) -> None:
    """Check that the store after an operation and its repetition holds the result of one operation."""
    if operation is swap_buckets:
        stored = await direct.read_buckets("users", NUMBERS)
        assert [bucket.blob for bucket in stored] == [blob(turn, n) for n in NUMBERS]
        assert set(await direct.versions("users")) == set(NUMBERS)
    elif operation is swap_document:
        assert await direct.read_document("plan") == Document(version_of(blob(turn, 0)), blob(turn, 0))
    elif operation is append_audit:
        targets = [entry.target for entry in await direct.audit(20) if entry.target.startswith(f"{turn}.")]
        doubled = targets[3:][::-1] + targets[:3][::-1]
        wanted = [f"{turn}.{n}" for n in range(3)]
        assert doubled[-3:] == wanted
        assert doubled[:-3] == wanted[: len(doubled) - 3]
    elif operation is renew:
        assert [lease.incarnation for lease in await direct.members()] == [turn]


@pytest.mark.shows("S-84")
async def test_operations_that_stall_are_unavailable_at_their_deadline_and_can_be_repeated(
    redis_server: RedisServer, direct: StateStore, stores: Stores
) -> None:
    failures: list[StoreUnavailable] = []

    async def stall(operation: Operation, way: Way) -> None:
        with Proxy(redis_server.socket) as proxy:
            store = await stores.open(url_of(proxy, prefix=f"{operation.__name__}{way.name}:"), timeout=1.5)
            expected = await operation(store, 1)
            passed = await recorded(proxy, operation(store, 1))
            proxy.strike(How.STALL, way, after=len(passed[way]) // 2)
            with pytest.raises(StoreUnavailable) as caught:
                await operation(store, 1)
            assert proxy.struck.is_set()
            failures.append(caught.value)
            assert await operation(store, 1) == expected
            await store.close()

    async with anyio.create_task_group() as tasks:
        for operation in (swap_buckets, swap_document, append_audit, renew, *READS):
            for way in Way:
                tasks.start_soon(stall, operation, way)
    assert [failure.after for failure in failures] == [1.5] * 2 * (4 + len(READS))


@pytest.mark.shows("S-98")
async def test_a_start_interrupted_after_any_reply_can_be_repeated_and_makes_one_layout(
    redis_server: RedisServer, proxy: Proxy, stores: Stores
) -> None:
    first = stores.new(url_of(proxy, prefix="first:"), timeout=5.0)
    passed = await recorded(proxy, first.open())
    for number, at in enumerate(places(passed[Way.REPLIES])):
        store = stores.new(url_of(proxy, prefix=f"{number:05}:"), timeout=5.0)
        proxy.strike(How.CUT, Way.REPLIES, after=at)
        _, failure = await outcome_of(store.open())
        assert failure is None or failure.after is None, "it waited for its deadline"
        proxy.listen()
        redis_server.command("DEL", f"lock:{number:05}:{{lock}}migrate")  # it lapses in ten seconds
        await store.open()
        again = await stores.open(f"{redis_server.url}?prefix={number:05}:")
        assert await swap_buckets(store, 1)
        assert await again.run_id() == await store.run_id()
        assert sorted(await again.versions("users")) == list(NUMBERS)
        await store.close()
        await again.close()


@pytest.mark.shows("S-124")
async def test_a_reply_after_its_deadline_is_not_taken_for_the_reply_of_the_next_call(
    proxy: Proxy, direct: StateStore, stores: Stores
) -> None:
    store = await stores.open(url_of(proxy), timeout=1.0)
    proxy.delay = 1.3
    with pytest.raises(StoreUnavailable):
        await store.read_buckets("users", [1])
    proxy.delay = 0.0
    assert [bucket.blob for bucket in await store.read_buckets("users", [2])] == [blob(1, 2)]


@pytest.mark.shows("S-124")
async def test_a_slow_server_answers_within_the_deadline_and_its_calls_do_not_wait_for_each_other(
    proxy: Proxy, direct: StateStore, stores: Stores
) -> None:
    store = await stores.open(url_of(proxy), timeout=10.0)
    proxy.delay = 0.5
    begun = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(store.read_buckets, "users", [number])
    took = anyio.current_time() - begun
    proxy.delay = 0.0
    assert 0.5 <= took < 4.0


@pytest.mark.shows("S-124")
async def test_a_closed_tls_connection_fails_the_call_and_is_opened_again(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RedisServer(tls_port=free_port()) as server, Proxy(server.tls_port) as proxy:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        store = await stores.open(f"rediss://127.0.0.1:{proxy.port}", timeout=10.0)
        await swap_buckets(store, 1)  # a server sends session tickets after its first reply
        passed = await recorded(proxy, swap_buckets(store, 2))
        for turn, at in enumerate(range(0, len(passed[Way.REPLIES]), 10), start=3):
            proxy.strike(How.CUT, Way.REPLIES, after=at)
            with pytest.raises(StoreUnavailable) as caught:
                await swap_buckets(store, turn)
            assert caught.value.after is None
            assert await swap_buckets(store, turn)
        await store.close()


@pytest.mark.shows("S-108")
async def test_reading_all_versions_costs_an_eighth_of_loading_all_buckets(
    redis_server: RedisServer, proxy: Proxy, stores: Stores
) -> None:
    store = await stores.open(url_of(proxy))
    users = [(n, n.to_bytes(2) * 1100) for n in range(4096)]  # a hundred records each
    await store.swap_buckets([Swap("users", n, version_of(b""), blob) for n, blob in users])
    loading = await recorded(proxy, load_buckets(store, 1))
    looking = await recorded(proxy, store.versions("users"))
    assert 8 * len(looking[Way.REPLIES]) < len(loading[Way.REPLIES])
