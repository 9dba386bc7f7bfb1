"""A cut ring: its halves, which cannot talk, get logins of the same new users at once.

They would place users differently, each has backends that the other has not: Redis settles it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.bench.state.parts import Bench, spread, table
from tests.e2e.processes import until
from tests.servers import free_port

HALVES = ("127.0.27.11", "127.0.27.12")
BACKENDS = ("127.0.3.1-127.0.3.4", "127.0.3.3-127.0.3.6")
SECRETS = ("one secret of a ring, of 32 bytes", "another secret, so they are cut off")
CONNECTIONS, WINDOW = 4, 64


def hosts(file: Path) -> dict[str, str]:
    return {user: host for user, host, _ in (line.split("\t") for line in file.read_text().splitlines())}


def run(bench: Bench, users: int, runs: int) -> None:
    redis = bench.redis()
    port = free_port()
    servers = [f"{address}:{port}" for address in HALVES]
    halves = [
        bench.director(
            redis.url, names=False, address=address, port=port, servers=servers, backends=some, secret=secret
        )
        for address, some, secret in zip(HALVES, BACKENDS, SECRETS, strict=True)
    ]
    for half in halves:
        half.start()
    for half in halves:
        half.wait_ready()
        until(partial(half.logged, "gate", "standing=claim"), what=half.log)
    seen: list[Sequence[dict[str, float]]] = []
    twice = answered = 0
    for number in range(runs):
        files = [bench.folder / f"hosts{at}" for at in range(2)]
        options = ("-n", users, "-p", f"r{number}-", "-c", CONNECTIONS, "-w", WINDOW)
        loads = [bench.load(half, *options, "-o", file) for half, file in zip(halves, files, strict=True)]
        seen.append([load.result() for load in loads])
        one, other = map(hosts, files)
        answered += len(one.keys() & other.keys())
        twice += sum(one[user] != other[user] for user in one.keys() & other.keys())
        print(f"claims: run {number + 1} of {runs}", file=sys.stderr)
    rows = [
        (
            "both" if len(part) > 1 else f"half {at}",
            spread((sum(one["rate"] for one in some) for some in part_of(seen, part)), 0),
            spread((max(one["p99_ms"] for one in some) for some in part_of(seen, part)), 1),
            spread((max(one["max_ms"] for one in some) for some in part_of(seen, part)), 1),
            str(round(sum(one["failed"] for some in part_of(seen, part) for one in some))),
        )
        for at, part in enumerate(([0], [1], [0, 1]), start=1)
    ]
    title = f"{users} new users on both halves of a cut ring, {runs} runs"
    table(title, ("logins", "claims/s", "p99 ms", "slowest ms", "failed"), rows)
    print(f"{answered} users answered by both, {twice} of them on two backends")


def part_of(seen: Sequence[Sequence[dict[str, float]]], part: Sequence[int]) -> list[list[dict[str, float]]]:
    """Of each run, what some of the halves have seen."""
    return [[run[at] for at in part] for run in seen]
