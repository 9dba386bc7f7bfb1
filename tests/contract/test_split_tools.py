"""`director state …` and `director migrate` on stores with buckets that are split, or ought to be."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from director.core.placement.names import entries_in, entry
from director.core.placement.users import BUCKET_SHIFT, User, pack, unpack
from director.statetools.buckets import merge_users
from director.statetools.findings import TimeLimits
from director.statetools.places import problems
from director.statetools.splits import split_large
from director.statetools.verification import Verification
from director.stored.buckettree import first_key, users_tree
from director.types import HostId, Stamp, UserKey
from state.base import (
    EMPTY_VERSION,
    SPACES,
    SPLIT,
    SPLIT_VERSION,
    Lease,
    Lost,
    Space,
    StateStore,
    StoreUnavailable,
    Swap,
    Swapped,
)
from state.bucketnumbers import LEVELS, below
from tests.contract.conftest import Stores
from tests.contract.test_state_tools import director, done, shown_on_a_terminal
from tests.servers import RedisServer

pytestmark = pytest.mark.anyio

NOW = int(time.time())
CHANCE = random.Random(33)
LARGE = (7, 8, 9, 4095)
"""Buckets that hold more than they should."""
CROWD = {
    number: sorted({UserKey(number << BUCKET_SHIFT | CHANCE.getrandbits(BUCKET_SHIFT)) for _ in range(2000)})
    for number in LARGE
}
FEW = [UserKey(number << BUCKET_SHIFT | 1 << 40) for number in (0, 10, 2000)]


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that commands can open: both kinds, empty."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state.db"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


def user(key: UserKey, decided: int = NOW) -> User:
    return User(key, HostId(7), Stamp(decided), NOW, 0)


def name(key: UserKey) -> bytes:
    return b"%x@example.org" % key


async def fill(store: StateStore) -> None:
    """Write four buckets with 2,000 users and their names, too many, and three with one user each."""
    await store.swap_buckets(
        [
            *(Swap("users", number, EMPTY_VERSION, pack(map(user, keys))) for number, keys in CROWD.items()),
            *(
                Swap("names", number, EMPTY_VERSION, b"".join(entry(key, name(key)) for key in keys))
                for number, keys in CROWD.items()
            ),
            *(Swap("users", key >> BUCKET_SHIFT, EMPTY_VERSION, pack([user(key)])) for key in FEW),
        ]
    )


@pytest.fixture
async def filled(url: str, stores: Stores) -> str:
    store = await stores.open(url)
    await fill(store)
    await store.close()
    return url


async def contents(store: StateStore) -> dict[str, object]:
    """Return all users and names of all buckets. Each is in the bucket where it belongs."""
    found: dict[str, object] = {}
    for space in SPACES:
        blobs = {b.number: b.blob async for batch in store.load_buckets(space) for b in batch}
        tree = users_tree()
        for number, blob in blobs.items():
            tree.learn(number, split=blob == SPLIT)
        for number, blob in blobs.items():
            if blob != SPLIT:
                entries = {u.key: u for u in unpack(blob)} if space == "users" else dict(entries_in(blob))
                assert all(tree.leaf_of(key) == number for key in entries)
                found |= {f"{space} {key:016x}": value for key, value in entries.items()}
    return found


async def split(store: StateStore, space: Space = "users") -> set[int]:
    """Return the buckets that are split."""
    return {number for number, version in (await store.versions(space)).items() if version == SPLIT_VERSION}


def quiet(done: int, of: int) -> None:
    """Ignore the progress."""


# ---- migrate


async def test_migrate_splits_buckets_that_are_too_large_and_reports_it(filled: str, stores: Stores) -> None:
    said = done("migrate", "--dry-run", "--store", filled)
    assert "would split 4 buckets of users\nwould split 4 buckets of names\n" in said
    store = await stores.open(filled)
    before = await contents(store)
    assert len(before) == 2 * sum(map(len, CROWD.values())) + len(FEW)
    assert await split(store) == set()
    await store.close()
    said = done("migrate", "--reason", "grown", "--store", filled)
    assert said.endswith("split 4 buckets of users\nsplit 4 buckets of names\ndone\n")
    assert done("migrate", "--store", filled).endswith("nothing to do\n")
    await store.open()
    assert await contents(store) == before
    assert await split(store) >= set(LARGE)
    sizes = [len(b.blob) async for batch in store.load_buckets("users") for b in batch]
    assert max(sizes) <= users_tree().split_above
    (entry,) = await store.audit(10)
    text = "split 4 buckets of users and 4 of names"
    assert (entry.what, entry.detail, entry.reason) == ("migrate", text, "grown")


async def test_a_large_bucket_that_is_damaged_is_left_for_repair_and_named(url: str, stores: Stores) -> None:
    store = await stores.open(url)
    await fill(store)
    (bucket,) = await store.read_buckets("users", [7])
    await store.swap_buckets([Swap("users", 7, bucket.version, bucket.blob + b"cut")])
    await store.close()
    ran = director("migrate", "--store", url)
    assert ran.returncode == 0
    assert "split 3 buckets of users" in ran.stdout
    assert (
        "users, bucket 7 is too large, but damaged and not split: run `director state verify --fix`"
        in ran.stderr
    )


async def test_migrate_shows_its_progress_on_a_terminal(filled: str) -> None:
    shown = shown_on_a_terminal("migrate", "--dry-run", "--store", filled)
    assert re.search(r"migrate: \d+ %", shown)


class Power:
    """Lets a store do a number of swaps, one at a time, and fails all later ones."""

    def __init__(self, store: StateStore, swaps: int) -> None:
        self._left, self._swap = swaps, store.swap_buckets
        store.swap_buckets = self.swap_buckets  # type: ignore[method-assign]

    async def swap_buckets(self, swaps: Sequence[Swap]) -> list[Swapped | Lost]:
        results = []
        for one in swaps:
            if not self._left:
                raise StoreUnavailable("test", "swap_buckets", reason="the power went out")
            self._left -= 1
            results += await self._swap([one])
        return results


@pytest.mark.shows("S-47")
async def test_an_interruption_between_any_two_steps_loses_nothing(stores: Stores) -> None:
    for swaps in range(200):
        store = await stores.open("memory:")
        keys = CROWD[7]
        await merge_users(store, {7: {key: user(key) for key in keys}})
        before = await contents(store)
        broken = store.swap_buckets
        Power(store, swaps)
        finished = False
        try:
            await split_large(store, quiet)
            finished = True
        except StoreUnavailable:
            assert await contents(store) == before
        store.swap_buckets = broken  # type: ignore[method-assign]
        # Before the command runs again a director makes a later decision about one of the users.
        await merge_users(store, {7: {keys[5]: user(keys[5], NOW + 9)}})
        after = before | {f"users {keys[5]:016x}": user(keys[5], NOW + 9)}
        assert await contents(store) == after
        await split_large(store, quiet)
        assert await contents(store) == after
        assert 7 in await split(store)
        if finished:
            break
    assert 8 < swaps < 199


async def test_a_write_of_a_director_during_a_split_is_kept(stores: Stores) -> None:
    store = await stores.open("memory:")
    await fill(store)
    late = UserKey(first_key(below(7)[1]) + 12345)
    swap_buckets = store.swap_buckets

    async def between(swaps: Sequence[Swap]) -> list[Swapped | Lost]:
        if any(one.number == 7 and one.blob == SPLIT for one in swaps):
            store.swap_buckets = swap_buckets  # type: ignore[method-assign]
            await merge_users(store, {7: {late: user(late)}})
        return await swap_buckets(swaps)

    store.swap_buckets = between  # type: ignore[method-assign]
    before = await contents(store)
    await split_large(store, quiet)
    assert await contents(store) == before | {f"users {late:016x}": user(late)}
    assert 7 in await split(store)


@pytest.mark.shows("S-59")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("moment", ["during", "after"])
async def test_migrate_continues_after_a_kill_at_any_write(url: str, stores: Stores, moment: str) -> None:
    """Of 64 buckets of the table at a time all parts are written, then the marks: level by level."""
    store = await stores.open(url)
    await fill(store)
    before = await contents(store)
    await store.close()
    halves = 0
    for number in range(1, 6):
        command = [
            sys.executable,
            "-m",
            "tests.contract.killed",
            str(number),
            moment,
            "migrate",
            "--store",
            url,
        ]
        killed = subprocess.run(command, capture_output=True)  # noqa: ASYNC221 - it ends itself
        assert killed.returncode == -signal.SIGKILL, killed
        await store.open()
        assert await contents(store) == before
        halves += 0 < len(await split(store) & set(LARGE)) < len(LARGE)
        await store.close()
    assert halves
    assert done("migrate", "--store", url).endswith("done\n")
    await store.open()
    assert await contents(store) == before
    assert await split(store) >= set(LARGE)
    assert await split(store, "names") >= set(LARGE)


# ---- while directors run that know only the first schema


async def old_director(server: RedisServer, stores: Stores) -> None:
    """A store of the first schema, and the lease of a director that knows no newer one."""
    store = await stores.open(server.url)
    await fill(store)
    await store.renew(Lease(member="10.0.0.9:9090", ring_address="", incarnation=1, synced=True), 60)
    server.command("HSET", "dd:meta", "schema", "1")


async def test_migrate_names_the_directors_that_could_not_read_the_new_schema_and_changes_nothing(
    redis_server: RedisServer, stores: Stores
) -> None:
    await old_director(redis_server, stores)
    said = done("migrate", "--dry-run", "--store", redis_server.url)
    assert "would run 0002: split buckets: " in said
    assert "would run only after these directors are upgraded or stopped: 10.0.0.9:9090" in said
    ran = director("migrate", "--store", redis_server.url)
    assert ran.returncode == 75
    assert "running directors do not know the newer schema: 10.0.0.9:9090" in ran.stderr
    assert redis_server.command("HGET", "dd:meta", "schema") == b"$1\r\n1\r\n"
    redis_server.command("HDEL", "dd:lease", "10.0.0.9:9090")
    assert done("migrate", "--store", redis_server.url).endswith("done\n")
    assert redis_server.command("HGET", "dd:meta", "schema") == b"$1\r\n2\r\n"


async def test_a_store_kept_at_the_older_schema_can_be_read(
    redis_server: RedisServer, stores: Stores
) -> None:
    await old_director(redis_server, stores)
    said = done("state", "info", "--store", redis_server.url)
    assert "schema    1; this program knows 2, these directors do not: 10.0.0.9:9090\n" in said
    assert f"users     {sum(map(len, CROWD.values())) + len(FEW)} in 7 buckets\n" in said
    lines = done("state", "export", "-", "--store", redis_server.url).splitlines()
    assert json.loads(lines[0])["schema"] == 1
    assert redis_server.command("HGET", "dd:meta", "schema") == b"$1\r\n1\r\n"


# ---- export, import, verify, info


@pytest.mark.shows("S-60")
async def test_a_split_store_is_exported_counted_and_imported_as_any_other(
    filled: str, stores: Stores, tmp_path: Path
) -> None:
    whole = done("state", "export", "-", "--store", filled)
    done("migrate", "--store", filled)
    file = tmp_path / "backup.jsonl"
    done("state", "export", str(file), "--store", filled)
    assert file.read_text().splitlines()[1:] == whole.splitlines()[1:]
    store = await stores.open(filled)
    before = await contents(store)
    await store.close()
    said = json.loads(done("state", "import", str(file), "--json", "--store", filled))
    assert (said["imported"]["users"]["new"], said["imported"]["users"]["changed"]) == (0, 0)
    other = f"sqlite:///{tmp_path}/other.db"
    done("state", "import", str(file), "--store", other)
    assert await contents(await stores.open(other)) == before
    info = json.loads(done("state", "info", "--json", "--store", filled))["contents"]
    crowd = sum(map(len, CROWD.values()))
    assert (info["users"], info["names"]) == (crowd + len(FEW), crowd)
    assert done("state", "verify", "--store", filled).endswith(": good\n")


@pytest.mark.shows("S-60")
async def test_an_import_writes_users_to_the_buckets_below_a_split_bucket(
    filled: str, stores: Stores, tmp_path: Path
) -> None:
    file = tmp_path / "backup.jsonl"
    done("state", "export", str(file), "--store", filled)
    store = await stores.open(filled)
    before = await contents(store)
    await split_large(store, quiet)
    async for batch in store.load_buckets("users"):
        gone = [
            Swap("users", b.number, b.version, b"") for b in batch if b.number >= 4096 and b.blob != SPLIT
        ]
        await store.swap_buckets(gone)
    assert await contents(store) != before
    await store.close()
    done("state", "import", str(file), "--store", filled)
    await store.open()
    assert await contents(store) == before
    assert await split(store) >= set(LARGE)


@pytest.mark.shows("S-60")
async def test_verify_finds_and_repairs_users_in_the_wrong_half(stores: Stores) -> None:
    store = await stores.open("memory:")
    await fill(store)
    await split_large(store, quiet)
    tree = users_tree()
    for number in await split(store):
        tree.learn(number, split=True)
    before = await contents(store)
    leaves = tree.leaves(7)
    one, other = await store.read_buckets("users", [leaves[0], leaves[-1]])
    await store.swap_buckets(
        [
            Swap("users", one.number, one.version, one.blob + other.blob[:22]),
            Swap("users", other.number, other.version, other.blob[22:]),
        ]
    )
    findings = [f async for f in Verification(store, TimeLimits.at(NOW, 900), fix=False).findings(quiet)]
    assert [finding.problem for finding in findings] == ["records that belong to other buckets: 1"]
    assert findings[0].where == f"users, bucket {leaves[0]}"
    with problems():
        fixed = [f async for f in Verification(store, TimeLimits.at(NOW, 900), fix=True).findings(quiet)]
    assert [finding.fixed for finding in fixed] == [True]
    assert await contents(store) == before


async def test_a_marker_below_the_deepest_level_is_a_damaged_bucket(stores: Stores) -> None:
    """Symptom: a marker in the wrong place sent the reader to buckets that do not exist."""
    store = await stores.open("memory:")
    path = [7]
    for _ in range(LEVELS):
        path.append(below(path[-1])[0])
    await store.swap_buckets([Swap("users", number, EMPTY_VERSION, SPLIT) for number in path])
    findings = [f async for f in Verification(store, TimeLimits.at(NOW, 900), fix=False).findings(quiet)]
    assert [finding.where for finding in findings] == [f"users, bucket {path[-1]}"]
