"""Helpers of the measurements of the state layer: a director alone, the load, full stores, tables."""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from director.core.placement.addresses import host_id
from director.core.placement.hashing import UserHash
from director.core.placement.names import entry
from director.core.placement.users import BUCKET_SHIFT, BUCKETS, RECORD, rounded
from director.types import Address, UserKey
from state.base import EMPTY_VERSION, StateStore, Swap
from tests.bench.systems import HOSTS, build_tools, fake_auth
from tests.e2e.processes import DirectorProcess
from tests.servers import RedisServer, free_port

EXPIRE = 900
ADDRESS = "127.0.27.1"
TICKS = os.sysconf("SC_CLK_TCK")
BATCH = 64
"""Buckets written at a time when a store is filled."""
PROBES = [f"known{number}" for number in range(64)]
"""Users in each full store whose names are known."""
MB = 1 << 20


@dataclass
class Bench:
    """A folder that contains the tools, and everything that has to be ended with it."""

    folder: Path
    stack: ExitStack
    directors: int = 0

    def __post_init__(self) -> None:
        self.folder.chmod(0o755)
        build_tools(self.folder, "loadgen", "fakeauth")

    def director(
        self, state: str, *, names: bool = True, address: str = "", port: int = 0, **more: Any
    ) -> DirectorProcess:
        """Return a director with an auth service.

        It is not started, and runs alone unless `more` has `servers`.
        """
        self.directors += 1
        director = DirectorProcess(
            self.folder / f"d{self.directors}",
            address or ADDRESS,
            port or free_port(),
            state=state,
            **{"servers": [], "backends": HOSTS} | more,
            settings={"users": f'expire = "{EXPIRE} s"\nremember_names = {str(names).lower()}'},
        )
        fake_auth(self.folder, self.stack, [director.run])
        self.stack.callback(director.close)
        return director

    def redis(self) -> RedisServer:
        return self.stack.enter_context(RedisServer())

    def load(self, director: DirectorProcess, *options: str | int | Path) -> Load:
        return Load([str(self.folder / "loadgen"), *map(str, options), str(director.login)])


class Load:
    """A run of loadgen. It begins at once."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def result(self) -> dict[str, Any]:
        """Wait for the end, and return the result."""
        output, _ = self._process.communicate()
        result: dict[str, Any] = json.loads(output)
        result["failed"] = result["fail"] + result["nohost"] + result["n"] - result["done"]
        return result


class Watch:
    """Reads some changing values again and again, and keeps the largest of each.

    Use it as a context manager.
    """

    EVERY = 0.5

    def __init__(self, **values: Callable[[], float]) -> None:
        self.largest = dict.fromkeys(values, 0.0)
        self.seen: dict[str, list[float]] = {name: [] for name in values}
        self._values = values
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        while not self._over.wait(self.EVERY):
            for name, value in self._values.items():
                self.seen[name].append(value())

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.largest = {name: max(values, default=0.0) for name, values in self.seen.items()}


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def random_blobs(users: int) -> Iterator[tuple[int, bytes]]:
    """Yield the packed records of `users` random users, seen now, bucket by bucket.

    The probes are among them.
    """
    now = int(time.time())
    ids = [host_id(Address(host)) for host in HOSTS]
    probes: dict[int, list[UserKey]] = {}
    for key in map(UserHash("%Lu").key, map(str.encode, PROBES)):
        probes.setdefault(key >> BUCKET_SHIFT, []).append(key)
    seen = rounded(now, EXPIRE)
    for number in range(BUCKETS):
        size = users * (number + 1) // BUCKETS - users * number // BUCKETS
        some = random.getrandbits(BUCKET_SHIFT * size).to_bytes(BUCKET_SHIFT * size // 8 + 1)
        step, mask = BUCKET_SHIFT // 8 + 1, (1 << BUCKET_SHIFT) - 1
        keys = {int.from_bytes(some[at : at + step]) & mask for at in range(0, len(some) - step, step)}
        while len(keys) < size:
            keys.add(random.getrandbits(BUCKET_SHIFT))
        keys = {number << BUCKET_SHIFT | key | 1 << 32 for key in keys} | set(probes.get(number, ()))
        yield number, b"".join(RECORD.pack(key, ids[key & 3], now, seen, 0) for key in sorted(keys))


def names_of(records: bytes) -> bytes:
    """Return a name such as `user1234567@example.com` for each record, as entries."""
    return b"".join(
        entry(UserKey(key), b"user%07d@example.com" % (key % 10_000_000))
        for key, *_ in RECORD.iter_unpack(records)
    )


async def fill(stores: Sequence[StateStore], users: int, *, names: bool = False) -> None:
    """Put random users into stores that are empty and open."""
    swaps: list[Swap] = []
    for number, blob in random_blobs(users):
        swaps.append(Swap("users", number, EMPTY_VERSION, blob))
        if names:
            swaps.append(Swap("names", number, EMPTY_VERSION, names_of(blob)))
        if len(swaps) >= BATCH or number == BUCKETS - 1:
            for store in stores:
                await store.swap_buckets(swaps)
            swaps.clear()


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Return min / median / max, or the value if there is only one."""
    figures = sorted(values)
    if not figures:
        return "-"
    told = figures if len(figures) == 1 else (figures[0], median(figures), figures[-1])
    return " / ".join(f"{value:.{digits}f}" for value in told)


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: the first column is aligned to the left, all others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    print(f"\n{title}")
    for line in lines:
        first, *rest = (
            cell.ljust(w) if not at else cell.rjust(w)
            for at, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join([first, *rest]).rstrip())


@contextmanager
def sampled(pids: dict[str, int]) -> Iterator[dict[str, float]]:
    """Give a dictionary of the CPU seconds that processes use inside the block.

    It is filled at the end of the block.
    """
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    used: dict[str, float] = {}
    yield used
    used.update({name: cpu_seconds(pid) - before[name] for name, pid in pids.items()})
