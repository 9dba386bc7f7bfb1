"""The promises of every store: each test is a sentence of `state/base.py`."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise

import anyio
import msgspec
import pytest

from state.audit import AUDIT_AGE, AUDIT_TEXT
from state.base import (
    EMPTY_VERSION,
    SCHEMA,
    SPLIT,
    AuditEntry,
    Bucket,
    Document,
    Lease,
    Lost,
    Space,
    StateStore,
    StoreUnavailable,
    Swap,
    Swapped,
    version_of,
)
from state.bucketnumbers import BUCKETS, NUMBERS, above, below
from tests.contract.conftest import NewStore, Stores, until

pytestmark = pytest.mark.anyio


def put(number: int, blob: bytes, *, over: bytes = b"", space: Space = "users") -> Swap:
    """Return a swap that expects `over` to be stored."""
    return Swap(space, number, version_of(over), blob)


def path_to(number: int) -> list[int]:
    """Return the buckets above this bucket."""
    return [] if number < BUCKETS else [*path_to(above(number)), above(number)]


async def load(store: StateStore, space: Space = "users") -> list[Bucket]:
    return [bucket async for batch in store.load_buckets(space) for bucket in batch]


def lease(member: str, *, incarnation: int = 1, synced: bool = True) -> Lease:
    return Lease(
        member=member,
        ring_address=f"{member}:9090",
        incarnation=incarnation,
        synced=synced,
        info={"version": "1"},
    )


NOW = float(int(time.time()))


def entry(number: int, *, target: str = "10.0.0.1") -> AuditEntry:
    return AuditEntry(
        at=NOW + number, who="root", what="down", target=target, detail=f"n={number}", reason="disk ü"
    )


def every_call(store: StateStore) -> dict[str, Callable[[], Awaitable[object]]]:
    """One call of each method of an open store but `close`."""
    return {
        "run_id": store.run_id,
        "load_buckets": lambda: load(store),
        "read_buckets": lambda: store.read_buckets("users", [1]),
        "swap_buckets": lambda: store.swap_buckets([put(1, b"x")]),
        "versions": lambda: store.versions("users"),
        "read_document": lambda: store.read_document("hosts"),
        "swap_document": lambda: store.swap_document("hosts", EMPTY_VERSION, b"h"),
        "documents": store.documents,
        "renew": lambda: store.renew(lease("10.0.0.1"), 30),
        "release": lambda: store.release("10.0.0.2"),
        "members": store.members,
        "append_audit": lambda: store.append_audit([entry(1)]),
        "audit": lambda: store.audit(10),
        "health": store.health,
    }


# Versions


@pytest.mark.shows("S-73")
def test_a_version_is_8_bytes_of_the_digest_of_the_blob_and_stays_the_same_over_releases() -> None:
    assert version_of(b"blob") == bytes.fromhex("ee26908bf9629eeb")
    assert version_of(b"") == EMPTY_VERSION == bytes(8)


# Buckets


@pytest.mark.shows("S-72")
async def test_a_bucket_that_was_never_written_is_empty(store: StateStore) -> None:
    assert await store.read_buckets("users", [7]) == [Bucket("users", 7, EMPTY_VERSION, b"")]


@pytest.mark.shows("S-76")
async def test_a_swapped_bucket_is_read_as_it_was_written(store: StateStore) -> None:
    blob = bytes(range(256)) * 20
    assert await store.swap_buckets([put(7, blob)]) == [Swapped(version_of(blob))]
    assert await store.read_buckets("users", [7]) == [Bucket("users", 7, version_of(blob), blob)]


@pytest.mark.shows("S-77")
async def test_a_swap_that_states_another_version_loses_and_gets_what_is_stored(store: StateStore) -> None:
    await store.swap_buckets([put(7, b"first")])
    assert await store.swap_buckets([put(7, b"second")]) == [Lost(version_of(b"first"), b"first")]
    assert (await store.read_buckets("users", [7]))[0].blob == b"first"


@pytest.mark.shows("S-72")
async def test_a_swap_of_a_removed_bucket_loses_with_an_empty_blob(store: StateStore) -> None:
    assert await store.swap_buckets([put(7, b"second", over=b"first")]) == [Lost(EMPTY_VERSION, b"")]


@pytest.mark.shows("S-77")
async def test_a_swap_repeated_with_the_returned_version_wins(store: StateStore) -> None:
    await store.swap_buckets([put(7, b"first")])
    assert await store.swap_buckets([put(7, b"second", over=b"first")]) == [Swapped(version_of(b"second"))]


@pytest.mark.shows("rule 30", "S-91")
async def test_a_blob_that_is_stored_already_counts_as_swapped(store: StateStore) -> None:
    await store.swap_buckets([put(7, b"first")])
    again = await store.swap_buckets([put(7, b"first"), put(7, b"first", over=b"what")])
    assert again == [Swapped(version_of(b"first"))] * 2


@pytest.mark.shows("S-75")
async def test_an_empty_blob_removes_the_bucket(store: StateStore) -> None:
    await store.swap_buckets([put(7, b"first")])
    assert await store.swap_buckets([put(7, b"", over=b"first")]) == [Swapped(EMPTY_VERSION)]
    assert await store.versions("users") == {}
    assert await load(store) == []


@pytest.mark.shows("S-75")
async def test_removing_a_bucket_that_changed_meanwhile_loses(store: StateStore) -> None:
    await store.swap_buckets([put(7, b"second")])
    assert await store.swap_buckets([put(7, b"", over=b"first")]) == [Lost(version_of(b"second"), b"second")]


@pytest.mark.shows("S-106")
async def test_every_swap_of_a_call_is_decided_alone_and_answered_in_order(store: StateStore) -> None:
    await store.swap_buckets([put(number, b"old") for number in (1, 3, 4095)])
    swaps = [put(number, b"new") for number in (4095, 2, 64, 1, 0, 3)]
    lost, won = Lost(version_of(b"old"), b"old"), Swapped(version_of(b"new"))
    assert await store.swap_buckets(swaps) == [lost, won, won, lost, won, lost]


@pytest.mark.shows("S-106")
async def test_two_swaps_of_one_bucket_in_a_call_are_done_in_order(store: StateStore) -> None:
    outcome = await store.swap_buckets([put(5, b"a"), put(5, b"b"), put(5, b"c", over=b"a")])
    assert outcome == [Swapped(version_of(b"a")), Lost(version_of(b"a"), b"a"), Swapped(version_of(b"c"))]


@pytest.mark.shows("S-106")
async def test_more_than_64_swaps_of_one_bucket_are_done_in_order(store: StateStore) -> None:
    blobs = [b"", *(b"%d" % n for n in range(150))]
    swaps = [put(5, new, over=old) for old, new in pairwise(blobs)]
    assert await store.swap_buckets(swaps) == [Swapped(version_of(blob)) for blob in blobs[1:]]


@pytest.mark.shows("S-105")
async def test_no_swaps_and_no_numbers_are_answered_with_nothing(store: StateStore) -> None:
    assert await store.swap_buckets([]) == []
    assert await store.read_buckets("users", []) == []


@pytest.mark.shows("S-71")
async def test_the_two_spaces_share_no_bucket(store: StateStore) -> None:
    await store.swap_buckets([put(7, b"user"), put(7, b"name", space="names")])
    assert await load(store, "names") == [Bucket("names", 7, version_of(b"name"), b"name")]
    assert await store.versions("users") == {7: version_of(b"user")}


@pytest.mark.shows("S-107")
async def test_of_concurrent_swaps_of_one_bucket_one_wins_and_the_others_get_its_blob(
    store: StateStore,
) -> None:
    outcomes: dict[bytes, Swapped | Lost] = {}

    async def swap(blob: bytes) -> None:
        outcomes[blob] = (await store.swap_buckets([put(7, blob)]))[0]

    async with anyio.create_task_group() as tasks:
        for n in range(20):
            tasks.start_soon(swap, b"writer %d" % n)
    (winner,) = (blob for blob, outcome in outcomes.items() if isinstance(outcome, Swapped))
    losers = [outcome for blob, outcome in outcomes.items() if blob != winner]
    assert losers == [Lost(version_of(winner), winner)] * 19


@pytest.mark.shows("S-107")
@pytest.mark.parametrize("seed", range(3))
async def test_writers_that_merge_and_swap_again_lose_nothing(store: StateStore, seed: int) -> None:
    chance = random.Random(seed)
    wanted: dict[int, set[int]] = {number: set() for number in range(8)}

    async def write(items: list[tuple[int, int]]) -> None:
        for number, item in items:
            base, blob = EMPTY_VERSION, b""
            while True:
                merged = bytes(sorted({*blob, item}))
                (outcome,) = await store.swap_buckets([Swap("users", number, base, merged)])
                if isinstance(outcome, Swapped):
                    break
                base, blob = outcome.version, outcome.blob

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            items = [(chance.randrange(8), chance.randrange(256)) for _ in range(25)]
            for number, item in items:
                wanted[number].add(item)
            tasks.start_soon(write, items)
    stored = {bucket.number: set(bucket.blob) for bucket in await load(store)}
    assert stored == wanted


@pytest.mark.shows("S-103")
async def test_all_buckets_written_are_loaded_each_once(store: StateStore) -> None:
    blobs = {number: number.to_bytes(2) * (1 + number % 300) for number in range(BUCKETS)}
    outcome = await store.swap_buckets([put(number, blob) for number, blob in blobs.items()])
    assert outcome == [Swapped(version_of(blob)) for blob in blobs.values()]
    loaded = await load(store)
    assert len(loaded) == BUCKETS
    assert {bucket.number: bucket.blob for bucket in loaded} == blobs


@pytest.mark.shows("S-103")
async def test_a_few_buckets_among_many_numbers_are_loaded_each_once(store: StateStore) -> None:
    await store.swap_buckets([put(number, b"x") for number in (0, 63, 64, 4095)])
    assert sorted(bucket.number for bucket in await load(store)) == [0, 63, 64, 4095]


@pytest.mark.shows("S-104")
async def test_a_bucket_written_during_a_load_does_not_disturb_it(store: StateStore) -> None:
    await store.swap_buckets([put(number, b"x") for number in range(0, BUCKETS, 4)])
    seen: list[int] = []
    async for batch in store.load_buckets("users"):
        seen += [bucket.number for bucket in batch if bucket.number % 4 == 0]
        await store.swap_buckets([put(4001, b"y"), put(1, b"y")])
    assert sorted(seen) == list(range(0, BUCKETS, 4))


@pytest.mark.shows("S-108")
async def test_versions_are_the_versions_of_the_stored_blobs(store: StateStore) -> None:
    blobs = {number: b"blob %d" % number for number in (0, 1, 63, 64, 2048, 4095)}
    await store.swap_buckets([put(number, blob) for number, blob in blobs.items()])
    assert await store.versions("users") == {number: version_of(blob) for number, blob in blobs.items()}


@pytest.mark.shows("S-105")
async def test_buckets_are_read_in_the_order_asked_for(store: StateStore) -> None:
    await store.swap_buckets([put(3, b"three"), put(4000, b"far")])
    found = await store.read_buckets("users", [4000, 2, 3, 4000])
    assert [(bucket.number, bucket.blob) for bucket in found] == [
        (4000, b"far"),
        (2, b""),
        (3, b"three"),
        (4000, b"far"),
    ]


@pytest.mark.shows("S-70")
@pytest.mark.parametrize("number", [-1, NUMBERS])
async def test_an_invalid_bucket_number_is_an_error_of_the_caller(store: StateStore, number: int) -> None:
    with pytest.raises(ValueError, match="must be 0 to 258047"):
        await store.swap_buckets([put(number, b"x")])
    with pytest.raises(ValueError, match="must be 0 to 258047"):
        await store.read_buckets("users", [number])


@pytest.mark.shows("S-74")
async def test_a_version_of_the_wrong_size_is_an_error_of_the_caller(store: StateStore) -> None:
    with pytest.raises(ValueError, match="must be 8 bytes"):
        await store.swap_buckets([Swap("users", 1, b"short", b"x")])


@pytest.mark.shows("S-71")
async def test_an_unknown_space_is_an_error_of_the_caller(store: StateStore) -> None:
    with pytest.raises(ValueError, match="no space 'hosts': there are users, names"):
        await store.versions("hosts")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no space"):
        await store.swap_buckets([Swap("hosts", 1, EMPTY_VERSION, b"x")])  # type: ignore[arg-type]


# Buckets that were split


@pytest.mark.shows("S-54")
async def test_all_numbers_can_be_written_and_read(store: StateStore) -> None:
    numbers = [0, BUCKETS - 1, BUCKETS, 3 * BUCKETS - 1, 3 * BUCKETS, NUMBERS // 2, NUMBERS - 1]
    blobs = {number: b"blob %d" % number for number in numbers}
    outcome = await store.swap_buckets([put(number, blob) for number, blob in blobs.items()])
    assert outcome == [Swapped(version_of(blob)) for blob in blobs.values()]
    assert {b.number: b.blob for b in await store.read_buckets("users", numbers)} == blobs


@pytest.mark.shows("S-54")
async def test_buckets_below_a_split_bucket_are_loaded_with_it_and_have_a_version(store: StateStore) -> None:
    blobs = {one: SPLIT for one in path_to(NUMBERS - 1)}
    blobs |= {NUMBERS - 1: b"deepest", below(7)[0]: b"low", below(7)[1]: b"high", 7: SPLIT, 8: b"whole"}
    await store.swap_buckets([put(number, blob) for number, blob in blobs.items()])
    batches = [batch async for batch in store.load_buckets("users")]
    assert {bucket.number: bucket.blob for batch in batches for bucket in batch} == blobs
    for batch in batches:
        numbers = [bucket.number for bucket in batch]
        for place, number in enumerate(numbers):
            assert number < BUCKETS or above(number) in numbers[:place]
    assert await store.versions("users") == {number: version_of(blob) for number, blob in blobs.items()}
    assert await load(store, "names") == []


@pytest.mark.shows("S-54")
async def test_buckets_below_a_bucket_that_is_not_split_are_ignored(store: StateStore) -> None:
    whole, stale, deeper = 7, below(7)[0], below(below(7)[0])[1]
    await store.swap_buckets([put(stale, SPLIT), put(deeper, b"stale"), put(below(9)[0], b"no parent")])
    assert await load(store) == []
    assert await store.versions("users") == {}
    await store.swap_buckets([put(whole, b"whole")])
    assert await load(store) == [Bucket("users", whole, version_of(b"whole"), b"whole")]
    assert await store.versions("users") == {whole: version_of(b"whole")}


@pytest.mark.shows("S-54")
async def test_an_empty_half_of_a_split_bucket_is_not_stored(store: StateStore) -> None:
    low, high = below(4095)
    await store.swap_buckets([put(high, b"high"), put(4095, SPLIT)])
    assert sorted(await store.versions("users")) == [4095, high]
    assert [bucket.number for bucket in await load(store)] == [4095, high]
    assert await store.read_buckets("users", [low]) == [Bucket("users", low, EMPTY_VERSION, b"")]


@pytest.mark.shows("S-54")
async def test_buckets_of_all_levels_are_swapped_in_one_call(store: StateStore) -> None:
    first = range(0, BUCKETS, 16)
    numbers = [number for one in first for number in (one, *below(one), below(below(one)[1])[0])]
    outcome = await store.swap_buckets([put(number, b"x", over=b"") for number in numbers])
    assert outcome == [Swapped(version_of(b"x"))] * len(numbers)
    again = await store.swap_buckets([put(number, b"y", over=b"z") for number in numbers])
    assert again == [Lost(version_of(b"x"), b"x")] * len(numbers)


async def test_a_store_that_is_open_has_the_newest_schema(store: StateStore) -> None:
    assert (store.schema, store.held_by) == (SCHEMA, ())


# Documents


@pytest.mark.shows("S-109")
async def test_a_document_that_was_never_written_is_none(store: StateStore) -> None:
    assert await store.read_document("hosts") is None


@pytest.mark.shows("S-109")
async def test_a_document_is_read_as_it_was_written(store: StateStore) -> None:
    outcome = await store.swap_document("hosts", EMPTY_VERSION, b"\0data")
    assert outcome == Swapped(version_of(b"\0data"))
    assert await store.read_document("hosts") == Document(version_of(b"\0data"), b"\0data")


@pytest.mark.shows("S-110")
async def test_a_swap_of_a_document_that_another_writer_changed_is_lost(store: StateStore) -> None:
    await store.swap_document("hosts", EMPTY_VERSION, b"theirs")
    assert await store.swap_document("hosts", EMPTY_VERSION, b"mine") == Lost(
        version_of(b"theirs"), b"theirs"
    )
    outcome = await store.swap_document("hosts", version_of(b"theirs"), b"both")
    assert outcome == Swapped(version_of(b"both"))


@pytest.mark.shows("S-110")
async def test_a_document_that_is_stored_already_counts_as_swapped(store: StateStore) -> None:
    await store.swap_document("hosts", EMPTY_VERSION, b"data")
    assert await store.swap_document("hosts", EMPTY_VERSION, b"data") == Swapped(version_of(b"data"))


@pytest.mark.shows("S-110")
async def test_documents_with_different_names_share_no_data(store: StateStore) -> None:
    await store.swap_document("hosts", EMPTY_VERSION, b"h")
    await store.swap_document("applied.10.0.0.1", EMPTY_VERSION, b"a")
    assert await store.read_document("hosts") == Document(version_of(b"h"), b"h")


@pytest.mark.shows("S-112")
async def test_documents_are_listed_by_name_in_order(store: StateStore) -> None:
    assert await store.documents() == []
    for name in ("members", "hosts", "plan"):
        await store.swap_document(name, EMPTY_VERSION, b"x")
    await store.swap_document("plan", version_of(b"x"), b"")
    assert await store.documents() == ["hosts", "members"]


@pytest.mark.shows("S-110")
async def test_empty_data_removes_the_document(store: StateStore) -> None:
    await store.swap_document("hosts", EMPTY_VERSION, b"h")
    assert await store.swap_document("hosts", version_of(b"h"), b"") == Swapped(EMPTY_VERSION)
    assert await store.read_document("hosts") is None


@pytest.mark.shows("S-72")
async def test_a_swap_of_a_removed_document_is_lost(store: StateStore) -> None:
    assert await store.swap_document("hosts", version_of(b"h"), b"i") == Lost(EMPTY_VERSION, b"")
    assert await store.read_document("hosts") is None


@pytest.mark.shows("S-109")
async def test_a_document_name_may_have_64_allowed_characters(store: StateStore) -> None:
    name = "az09_.-".ljust(64, "x")
    await store.swap_document(name, EMPTY_VERSION, b"x")
    assert await store.documents() == [name]


@pytest.mark.shows("S-74")
async def test_a_version_of_the_wrong_size_for_a_document_is_an_error_of_the_caller(
    store: StateStore,
) -> None:
    with pytest.raises(ValueError, match="must be 8 bytes"):
        await store.swap_document("hosts", b"short", b"x")


@pytest.mark.shows("S-109")
@pytest.mark.parametrize("name", ["", "Hosts", "a b", "../x", "x" * 65])
async def test_an_invalid_document_name_is_an_error_of_the_caller(store: StateStore, name: str) -> None:
    with pytest.raises(ValueError, match="a name is 1 to 64"):
        await store.read_document(name)


# Leases


@pytest.mark.shows("S-78")
async def test_a_renewed_lease_is_among_the_members_with_its_remaining_time(store: StateStore) -> None:
    await store.renew(lease("10.0.0.1"), 30)
    (held,) = await store.members()
    assert (held.member, held.ring_address, held.incarnation) == ("10.0.0.1", "10.0.0.1:9090", 1)
    assert (held.synced, held.info) == (True, {"version": "1"})
    assert 25 < held.remaining <= 30


@pytest.mark.shows("S-113")
async def test_a_renewed_lease_replaces_the_earlier_lease(store: StateStore) -> None:
    await store.renew(lease("10.0.0.1", synced=False), 3)
    await store.renew(lease("10.0.0.1", incarnation=2), 30)
    (held,) = await store.members()
    assert (held.incarnation, held.synced, held.remaining > 25) == (2, True, True)


@pytest.mark.shows("S-113")
async def test_a_lease_lapses_when_it_is_not_renewed_in_time(store: StateStore) -> None:
    await store.renew(lease("10.0.0.1"), 0.3)
    before = await store.members()

    async def gone() -> bool:
        return not await store.members()

    await until(gone)
    assert [held.member for held in before] == ["10.0.0.1"]


async def test_a_renewal_returns_whether_the_lease_had_lapsed(store: StateStore) -> None:
    said = [await store.renew(lease("10.0.0.1"), 30), await store.renew(lease("10.0.0.1"), 0.1)]
    await store.renew(lease("10.0.0.2"), 30)
    await until(lambda: alone(store, "10.0.0.2"))
    said += [await store.renew(lease("10.0.0.1"), 30), await store.renew(lease("10.0.0.1"), 30)]
    assert said == [False, True, False, True]


async def alone(store: StateStore, member: str) -> bool:
    return [one.member for one in await store.members()] == [member]


@pytest.mark.shows("S-114")
async def test_a_released_lease_is_deleted_at_once(store: StateStore) -> None:
    await store.renew(lease("10.0.0.1"), 30)
    await store.release("10.0.0.1")
    assert await store.members() == []


@pytest.mark.shows("S-114")
async def test_releasing_a_missing_lease_is_no_error(store: StateStore) -> None:
    await store.release("10.0.0.9")
    assert await store.members() == []


@pytest.mark.shows("S-78")
async def test_the_remaining_time_in_a_written_lease_is_ignored(store: StateStore) -> None:
    await store.renew(msgspec.structs.replace(lease("10.0.0.1"), remaining=9999.0), 30)
    (held,) = await store.members()
    assert held.remaining <= 30


@pytest.mark.shows("S-115")
async def test_leases_are_listed_by_member(store: StateStore) -> None:
    for member in ("10.0.0.3", "10.0.0.1", "10.0.0.2"):
        await store.renew(lease(member), 30)
    assert [held.member for held in await store.members()] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


@pytest.mark.shows("S-119")
async def test_a_lease_is_not_released_by_closing(new_store: NewStore) -> None:
    first, second = new_store(), new_store()
    await first.open()
    await first.renew(lease("10.0.0.1"), 30)
    await first.close()
    await second.open()
    assert [held.member for held in await second.members()] == ["10.0.0.1"] * second.shared


# Audit


@pytest.mark.shows("S-79", "S-117")
async def test_audit_entries_come_back_newest_first(store: StateStore) -> None:
    await store.append_audit([entry(1), entry(2)])
    await store.append_audit([entry(3)])
    assert await store.audit(2) == [entry(3), entry(2)]


@pytest.mark.shows("S-117")
async def test_audit_entries_are_found_by_target_and_time(store: StateStore) -> None:
    await store.append_audit([entry(n, target=f"10.0.0.{n % 2}") for n in range(1, 7)])
    assert await store.audit(10, since=NOW + 3, target="10.0.0.1") == [
        entry(5, target="10.0.0.1"),
        entry(3, target="10.0.0.1"),
    ]


@pytest.mark.shows("S-116")
async def test_no_audit_entries_are_no_error(store: StateStore) -> None:
    await store.append_audit([])
    assert await store.audit(10) == []


@pytest.mark.shows("S-24", "S-116")
async def test_the_oldest_audit_entries_are_dropped_after_ten_thousand(store: StateStore) -> None:
    for start in range(0, 12_000, 1000):
        await store.append_audit([entry(n) for n in range(start, start + 1000)])
    kept = await store.audit(20_000)
    assert [e.at for e in kept[:10_000]] == [NOW + n for n in range(11_999, 1_999, -1)]
    assert len(kept) <= 10_200


@pytest.mark.shows("S-24")
async def test_audit_entries_older_than_ninety_days_are_not_returned(store: StateStore) -> None:
    old = msgspec.structs.replace(entry(1), at=NOW - AUDIT_AGE - 60)
    young = msgspec.structs.replace(entry(2), at=NOW - AUDIT_AGE + 86_400)
    await store.append_audit([old, young])
    await store.append_audit([entry(3)])
    assert await store.audit(10) == [entry(3), young]
    assert await store.audit(10, since=1.0) == [entry(3), young]


async def test_a_clock_that_is_years_ahead_for_a_moment_does_not_drop_the_audit(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.append_audit([entry(number) for number in range(100)])
    true_time = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: true_time() + 10 * 365 * 86_400)
        for number in range(3):
            ahead = msgspec.structs.replace(entry(number), at=time.time())
            await store.append_audit([ahead])
        assert len(await store.audit(200)) <= 3
    assert len(await store.audit(200)) >= 100 + 3 - 3 * 10


@pytest.mark.shows("S-24")
async def test_a_long_text_in_an_audit_entry_is_shortened_and_found_by_the_full_text(
    store: StateStore,
) -> None:
    long = "ü" * 3000
    await store.append_audit([entry(1, target=long), entry(2)])
    (found,) = await store.audit(10, target=long)
    assert found.target.endswith("ü…")
    assert 490 < len(found.target.encode()) <= AUDIT_TEXT


async def test_an_audit_entry_with_a_name_that_is_not_utf_8_is_stored(store: StateStore) -> None:
    name = b"j\xfcrgen".decode(errors="surrogateescape")
    await store.append_audit([entry(1, target=name)])
    (found,) = await store.audit(10, target=name)
    assert found.target == r"j\udcfcrgen"


# The store as a whole


@pytest.mark.shows("S-80")
async def test_health_names_the_program_that_keeps_the_data(store: StateStore) -> None:
    health = await store.health()
    assert health.server.split()[0] in ("memory", "SQLite", "Redis", "Valkey")
    assert 0 <= health.took < 2


@pytest.mark.shows("S-100")
async def test_the_run_id_stays_while_the_store_runs(store: StateStore) -> None:
    first = await store.run_id()
    await store.swap_buckets([put(1, b"x")])
    assert await store.run_id() == first != ""


@pytest.mark.shows("S-89")
async def test_a_store_that_was_never_opened_is_unavailable_in_every_method_but_layout(
    any_store: NewStore,
) -> None:
    store = any_store()
    layout = await store.layout()
    assert len(layout.steps) == layout.known - layout.found
    assert await unavailable(store) == list(every_call(store))
    await store.close()


@pytest.mark.shows("S-89")
async def test_a_store_that_is_closed_is_unavailable_in_every_method(store: StateStore) -> None:
    await store.close()
    assert await unavailable(store) == list(every_call(store))


async def unavailable(store: StateStore) -> list[str]:
    """Return the operations that fail because the store is not open."""
    found = []
    for call in every_call(store).values():
        with pytest.raises(StoreUnavailable, match="not open") as caught:
            await call()
        found.append(caught.value.operation)
    return found


@pytest.mark.shows("S-93")
async def test_all_methods_may_be_called_at_once(store: StateStore) -> None:
    done: list[str] = []

    async def run(operation: str, call: Callable[[], Awaitable[object]]) -> None:
        await call()
        done.append(operation)

    calls = every_call(store)
    async with anyio.create_task_group() as tasks:
        for operation, call in [*calls.items()] * 3:
            tasks.start_soon(run, operation, call)
    assert sorted(done) == sorted([*calls] * 3)
    assert [bucket.blob for bucket in await load(store)] == [b"x"]
    assert len(await store.audit(10)) == 3


@pytest.mark.shows("S-96", "S-97")
async def test_a_store_that_is_open_runs_no_step_and_has_set_nothing_aside(store: StateStore) -> None:
    assert store.step is None
    assert store.set_aside is None


@pytest.mark.shows("S-81")
async def test_the_layout_of_an_opened_store_is_complete_and_reading_it_changes_nothing(
    store: StateStore,
) -> None:
    await store.swap_buckets([put(7, b"x")])
    await store.close()
    layout = await store.layout()
    assert (layout.found, layout.steps) == (layout.known, ())
    await store.open()
    assert await store.versions("users") == {7: version_of(b"x")}


@pytest.mark.shows("S-98", "S-119")
async def test_closing_and_opening_twice_is_no_error(store: StateStore) -> None:
    await store.close()
    await store.close()
    await store.open()
    await store.open()
    assert await store.read_document("hosts") is None


@pytest.mark.shows("S-95")
async def test_only_redis_is_shared(store: StateStore) -> None:
    assert store.shared == store.url.startswith(("unix:", "redis"))


@pytest.mark.shows("S-92")
async def test_a_cancelled_call_leaves_the_store_usable(store: StateStore) -> None:
    swaps = [put(number, bytes(2000)) for number in range(BUCKETS)]
    for wait in (0.0, 0.001, 0.005):
        with anyio.move_on_after(wait):
            await store.swap_buckets(swaps)
    assert await store.swap_buckets(swaps) == [Swapped(version_of(bytes(2000)))] * BUCKETS


# Data that outlive a process


@pytest.mark.shows("S-120")
async def test_all_data_but_leases_survive_closing_and_opening(new_store: NewStore) -> None:
    first = new_store()
    await first.open()
    await first.swap_buckets([put(7, b"users"), put(8, b"names", space="names")])
    await first.swap_document("hosts", EMPTY_VERSION, b"h")
    await first.append_audit([entry(1)])
    await first.close()
    second = new_store()
    await second.open()
    assert await load(second) == [Bucket("users", 7, version_of(b"users"), b"users")]
    assert await load(second, "names") == [Bucket("names", 8, version_of(b"names"), b"names")]
    assert await second.read_document("hosts") == Document(version_of(b"h"), b"h")
    assert await second.audit(10) == [entry(1)]


@pytest.mark.shows("S-100")
async def test_the_run_id_is_the_same_after_opening_the_same_data_again(new_store: NewStore) -> None:
    first, second = new_store(), new_store()
    await first.open()
    before = await first.run_id()
    await first.close()
    await second.open()
    assert await second.run_id() == before


@pytest.mark.shows("S-120")
async def test_a_memory_store_loses_its_data_with_its_object(stores: Stores) -> None:
    first, second = stores.new("memory:"), stores.new("memory:")
    await first.open()
    await second.open()
    await first.swap_buckets([put(7, b"x")])
    assert await load(second) == []
    assert await first.run_id() != await second.run_id()


@pytest.mark.shows("S-113")
async def test_a_lease_is_judged_by_the_clock_of_the_store_not_of_its_reader(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.renew(lease("10.0.0.1"), 30)
    real = time.time()
    monkeypatch.setattr(time, "time", lambda: real + 3600)
    assert len(await store.members()) == 1
