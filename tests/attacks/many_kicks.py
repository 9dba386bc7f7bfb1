"""Very many users change hosts in one merge, in real processes with a kick channel: measures the longest
login of another user meanwhile.

    python -m tests.attacks.many_kicks [--users N] [--runs N]

The second of two directors is killed, and started again with a store in which all users are assigned to
another host. The first ends the sessions of all users, at a stand-in for Dovecot 2.3's ipc.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import anyio.to_thread

from director.core.placement.addresses import host_id
from director.core.placement.hashing import UserHash
from director.core.placement.users import BUCKET_SHIFT, User, pack, rounded
from director.types import Stamp
from state.base import EMPTY_VERSION, Swap
from state.urls import open_store
from tests.e2e.processes import Auth, Client, DirectorProcess
from tests.ipc import HEADER, FakeIpc
from tests.logins import Logins
from tests.servers import free_port

BEFORE, AFTER = "127.0.3.1", "127.0.3.2"
ADDRESSES = ["127.0.2.71", "127.0.2.72"]
EXPIRE = 900
RATE = 200.0
"""Logins a second of a user who is not moved."""
WITHIN = 90.0
"""Seconds that a run may take."""


class Sample(NamedTuple):
    """The result of a run, in seconds."""

    longest_login: float
    generator_lag: float
    loop_lag: float
    """The longest lag of the loop that the director has measured."""
    took: float
    """From the start of the second director to the end of the last kick."""
    turns: Sequence[tuple[float, int, list[str]]]
    """The longest turns of the loop in CPU time, the number of each, and what ran in it (`timed.py`)."""


async def make_store(folder: Path, users: int, host: str, ago: int) -> None:
    """Make a store in which `users` users were assigned to a host `ago` seconds ago."""
    now = int(time.time())
    user_hash = UserHash("%Lu")
    buckets: dict[int, list[User]] = {}
    for number in range(users):
        key = user_hash.key(b"user%d" % number)
        user = User(key, host_id(host), Stamp(now - ago), rounded(now, EXPIRE), 0)
        buckets.setdefault(key >> BUCKET_SHIFT, []).append(user)
    store = open_store("sqlite:///state.db", base_dir=folder)
    await store.open()
    await store.swap_buckets(
        [Swap("users", number, EMPTY_VERSION, pack(sorted(of_it))) for number, of_it in buckets.items()]
    )
    await store.close()


def give(store: Path, director: DirectorProcess) -> None:
    """Give the director, which does not run, a copy of this store for its start."""
    for file in director.folder.glob("state.db*"):
        file.unlink()
    for file in store.glob("state.db*"):
        shutil.copy(file, director.folder)


def metrics(director: DirectorProcess) -> dict[str, float]:
    """Return how many kicks have succeeded, and the longest lag of the loop in seconds since the last
    call."""
    text = director.request("GET", "/metrics")[1].decode()
    names = {"kicks": 'director_kicks_total{result="done"}', "lag": "director_event_loop_lag_seconds"}
    found = {key: re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE) for key, name in names.items()}
    return {key: float(match[1]) if match else 0.0 for key, match in found.items()}


@contextmanager
def kick_channels(*directors: DirectorProcess) -> Iterator[None]:
    """Run the kick channels of the directors in a thread. They have no sessions."""
    ready = threading.Event()
    end: list[Callable[[], object]] = []

    async def serve() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        end.append(lambda: loop.call_soon_threadsafe(over.set))
        fake = FakeIpc(lambda request: HEADER + b"+\n" if request == b"LIST-FULL" else b"+0\n")
        async with AsyncExitStack() as stack:
            for director in directors:
                await stack.enter_async_context(fake.listening(director.run / "ipc"))
            ready.set()
            await over.wait()
        remaining = asyncio.all_tasks() - {asyncio.current_task()}
        if remaining:
            await asyncio.wait(remaining)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        end[0]()
        thread.join()


async def measured(folder: Path, users: int, *, timed: bool = False) -> Sample:
    """Make one run. `timed`: measure the turns of the loop, which costs time."""
    for name, host, ago in (("before", BEFORE, 60), ("after", AFTER, 30)):
        await anyio.Path(folder / name).mkdir()
        await make_store(folder / name, users, host, ago)
    port = free_port()
    servers = [f"{address}:{port}" for address in ADDRESSES]
    program = ("tests.attacks.timed", str(folder / "turns")) if timed else ("director",)
    first = DirectorProcess(folder / "stays", ADDRESSES[0], port, servers, program=program)
    second = DirectorProcess(folder / "goes", ADDRESSES[1], port, servers)
    with Auth(first.auth_path), Auth(second.auth_path), kick_channels(first, second):
        try:
            for director in (first, second):
                give(folder / "before", director)
                director.start()
            for director in (first, second):
                await anyio.to_thread.run_sync(director.wait_whole, 2)
            with Client(first.login) as client:
                await anyio.to_thread.run_sync(client.ask, ["unmoved"])
            second.kill()
            give(folder / "after", second)
            async with Logins({"stays": first.login}, RATE, lambda _: "unmoved") as logins:
                await asyncio.sleep(0.5)
                begun, logged = time.monotonic(), len(first.complete_log())
                second.start()
                lag = 0.0
                while (done := await anyio.to_thread.run_sync(metrics, first))["kicks"] < users:
                    assert time.monotonic() < begun + WITHIN, first.log[-2000:]
                    lag = max(lag, done["lag"])
                    await asyncio.sleep(0.25)
                took = time.monotonic() - begun
                await asyncio.sleep(0.5)
                now = time.monotonic()
                longest = max(login.seconds(now) for login in logins.since(begun))
                assert not any(login.failed for login in logins.all)
            lines = first.complete_log()[logged:].splitlines()
            closed = [line for line in lines if "=warning event=ring_link" in line]
            assert not closed, f"{closed[0]}\nlog of the second director:\n{second.log[-3000:]}"
            turns: list[tuple[float, int, list[str]]] = []
            if timed:
                first.stop()
                turns = json.loads((folder / "turns").read_text())
            return Sample(longest, logins.late, lag, took, turns)
        finally:
            first.close()
            second.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--turns", action="store_true", help="show the longest turns of the loop")
    options = parser.parse_args()
    columns = f"{'longest login: min median max ms':36}{'generator ms':>14}{'loop lag ms':>13}{'s':>7}"
    print(f"{'users':>8}{'':4}{columns}")
    for users in options.users:
        samples = []
        for _ in range(options.runs):
            with tempfile.TemporaryDirectory() as folder:
                samples.append(asyncio.run(measured(Path(folder), users, timed=options.turns)))
            for seconds, number, parts in samples[-1].turns[:10]:
                print(f"{1000 * seconds:.1f} ms, turn {number}:", *parts, sep="\n    ")
        longest = sorted(1000 * sample.longest_login for sample in samples)
        spread = f"{longest[0]:.1f} {median(longest):.1f} {longest[-1]:.1f}"
        late = max(1000 * sample.generator_lag for sample in samples)
        lag = max(1000 * sample.loop_lag for sample in samples)
        took = median(sample.took for sample in samples)
        print(f"{users:>8}{'':4}{spread:36}{late:>14.1f}{lag:>13.1f}{took:>7.1f}", flush=True)


if __name__ == "__main__":
    main()
