"""A director joins two others that have many assignments: `python -m tests.bench.join`.

At a warm start its own store holds all but a thousandth of them (the director was restarted), or all but a
hundredth (it did not run for a while); at a cold start, none. The table shows the time from the end of its
load until it answers all logins, the bytes on its links, and the longest wait of a login at the two others
from its start until it answers. Needs a C compiler.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

import anyio.to_thread
import uvloop

from director.core.placement.addresses import host_id
from director.core.placement.hashing import UserHash
from director.core.placement.users import BUCKET_SHIFT, BUCKETS, User, pack, rounded
from director.types import Stamp, UserKey
from state.base import EMPTY_VERSION, Swap
from state.urls import open_store
from tests.bench.systems import HOSTS, build_tools, fake_auth
from tests.e2e.processes import DirectorProcess, Directors, until
from tests.logins import Logins

FIRST = "127.0.26.1"
EXPIRE = 900
UNKNOWN = (1000, 100)
"""One in so many users is missing in the store of a director that starts warm."""
PROBES = [f"known{number}" for number in range(5000)]
"""Users in the stores whose names are known."""
RATE = 250.0
"""Logins a second at each of the two others: of assigned users, and as many of new ones."""
BEFORE = 0.5
AFTER = 0.5
"""Seconds of logins before the start of the third director, and after the end of its join."""
BATCH = 256
START = 60.0
"""Seconds that the directors may take to start with all their users."""


@dataclass
class Sample:
    """The result of a join, in seconds and bytes."""

    load: float
    join: float
    bytes_in: int
    bytes_out: int
    assigned: float
    new: float
    late: float
    failed: int


def records(users: int) -> Iterator[tuple[int, list[User]]]:
    """Yield buckets of `users` users, the probes among them. All were seen just now."""
    now = int(time.time())
    ids = [host_id(host) for host in HOSTS]
    user_hash = UserHash("%Lu")
    named: dict[int, list[UserKey]] = {}
    for name in PROBES:
        key = user_hash.key(name.encode())
        named.setdefault(key >> BUCKET_SHIFT, []).append(key)
    for number in range(BUCKETS):
        keys = set(named.get(number, ()))
        size = users * (number + 1) // BUCKETS - users * number // BUCKETS
        while len(keys) < size:
            keys.add(UserKey(number << BUCKET_SHIFT | random.getrandbits(BUCKET_SHIFT) | 1 << 32))
        yield (
            number,
            [User(key, random.choice(ids), Stamp(now), rounded(now, EXPIRE), 0) for key in sorted(keys)],
        )


async def make_stores(folders: Mapping[int, Path], users: int) -> None:
    """Make stores in which one user in so many is missing; 0: none."""
    stores = []
    for folder in folders.values():
        folder.mkdir()
        stores.append(open_store("sqlite:///state.db", base_dir=folder))
        await stores[-1].open()
    buckets = records(users)
    while part := list(itertools.islice(buckets, BATCH)):
        for store, one_in in zip(stores, folders, strict=True):
            swaps = []
            for number, all_of_it in part:
                blob = pack(user for user in all_of_it if not one_in or random.random() >= 1 / one_in)
                swaps.append(Swap("users", number, EMPTY_VERSION, blob))
            await store.swap_buckets(swaps)
    for store in stores:
        await store.close()


def give(store: Path | None, director: DirectorProcess) -> None:
    """Give the director, which does not run, a copy of this store for its start; None: no store."""
    for file in director.folder.glob("state.db*"):
        file.unlink()
    if store is not None:
        for file in store.glob("state.db*"):
            shutil.copy(file, director.folder)


def moment(line: str) -> float:
    """Return the Unix time of a line of the log."""
    return datetime.fromisoformat(line.split()[0].removeprefix("time=")).timestamp()


def fresh(director: DirectorProcess, lines: int) -> str:
    """Return what the director has logged after its first `lines` lines."""
    return "\n".join(director.log.splitlines()[lines:])


async def join(ring: Sequence[DirectorProcess], store: Path | None) -> Sample:
    *others, joiner = ring
    joiner.kill()
    give(store, joiner)
    logged = len(joiner.log.splitlines())
    sockets = {other.member: other.login for other in others}
    names = f"new{time.time_ns()}-"
    assigned = Logins(sockets, 2 * RATE, lambda number: PROBES[number % len(PROBES)])
    new = Logins(sockets, 2 * RATE, lambda number: f"{names}{number}")
    async with assigned, new:
        await asyncio.sleep(BEFORE)
        begun = time.monotonic()
        joiner.start()
        await anyio.to_thread.run_sync(lambda: until(lambda: joined(joiner, logged), within=START))
        await asyncio.sleep(AFTER)
        now = time.monotonic()
        longest = [max(login.seconds(now) for login in logins.since(begun)) for logins in (assigned, new)]
        failed = sum(login.failed for logins in (assigned, new) for login in logins.since(begun))
    members = joiner.get("/v1/ring")["members"]
    lines = fresh(joiner, logged).splitlines()
    (loaded,) = (line for line in lines if " event=store_loaded " in line)
    answers = next(line for line in lines if "answers=everybody" in line)
    return Sample(
        load=float(loaded.rpartition("seconds=")[2]),
        join=moment(answers) - moment(loaded),
        bytes_in=sum(member["bytes_in"] or 0 for member in members),
        bytes_out=sum(member["bytes_out"] or 0 for member in members),
        assigned=longest[0],
        new=longest[1],
        late=max(assigned.late, new.late),
        failed=failed,
    )


def joined(director: DirectorProcess, logged: int) -> bool:
    return "answers=everybody" in fresh(director, logged)


def show(what: str, samples: Sequence[Sample]) -> None:
    print(f"\n{what} ({len(samples)} runs)")
    print(f"{'':36}{'min':>10}{'median':>10}{'max':>10}")
    rows: dict[str, tuple[list[float], int]] = {
        "load of its own store, s": ([s.load for s in samples], 3),
        "join, s": ([s.join for s in samples], 3),
        "received, kB": ([s.bytes_in / 1000 for s in samples], 0),
        "sent, kB": ([s.bytes_out / 1000 for s in samples], 0),
        "longest wait, assigned users, ms": ([1000 * s.assigned for s in samples], 1),
        "longest wait, new users, ms": ([1000 * s.new for s in samples], 1),
        "the generator's own lag in it, ms": ([1000 * s.late for s in samples], 1),
    }
    for name, (values, digits) in rows.items():
        told = "".join(f"{v:>10.{digits}f}" for v in (min(values), median(values), max(values)))
        print(f"{name:36}{told}")
    print(f"failed: {sum(s.failed for s in samples)}")


async def bench(folder: Path, users: int, runs: int) -> None:
    stores = {one_in: folder / f"without{one_in}" for one_in in (0, *UNKNOWN)}
    await make_stores(stores, users)
    directors = Directors(folder, first=FIRST, backends=HOSTS, auths=False)
    ring = directors.all
    with ExitStack() as stack:
        fake_auth(folder, stack, [director.run for director in ring])
        for director in ring:
            give(stores[0], director)
        stack.enter_context(directors)
        for director in ring:
            director.wait_whole(len(ring), START)
        warm = [(f"warm but for one in {one_in}", stores[one_in]) for one_in in UNKNOWN]
        for name, store in (*warm, ("cold", None)):
            samples = []
            for turn in range(runs):
                samples.append(await join(ring, store))
                print(f"{users} users, {name}: run {turn + 1} of {runs}", file=sys.stderr)
            show(f"{users} users, {name}", samples)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, action="append", help="100,000 and 1,000,000 if not given")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    for users in options.users or [100_000, 1_000_000]:
        with tempfile.TemporaryDirectory(prefix="join") as name:
            folder = Path(name)
            build_tools(folder, "fakeauth")
            uvloop.run(bench(folder, users, options.runs))


if __name__ == "__main__":
    main()
