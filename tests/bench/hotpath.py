"""CPU time of the hot path, compiled and in plain Python: `python -m tests.bench.hotpath`.

For one login line and for one look-up in the table of users, with 100,000 users in it. The twins take turns,
round by round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

from director.core.placement.addresses import host_id
from director.core.placement.assign import Assigner, Backend, Gate
from director.core.placement.hashing import UserHash
from tests.twins import PURE, HotPath, compiled

USERS = 100_000
NOW = 1_000_000
CALLS = {"compiled": 40_000, "pure": 20_000}
LINE = b"OK\t%d\tuser=user%d@example.com\tproxy\tproxy_refresh=300\tpass=secret\n"
OTHER = b"FAIL\t%d\tuser=user%d@example.com\n"
AT_A_TIME = 100

Work = Callable[[int], object]
"""Called with a number that counts up."""


def assigner_of(twin: HotPath) -> Assigner:
    hosts = [f"127.0.1.{number}" for number in (1, 2, 3, 4)]
    assigner = twin.Assigner(twin.UserTable(900), UserHash())
    assigner.set_backends(
        Backend(host_id(host), host, hostname=None, tag="", weight=100, up=True, since=0) for host in hosts
    )
    assigner.gate, assigner.unix = Gate.OPEN, NOW
    for first in range(0, USERS, 1000):
        twin.rewrite(assigner, b"".join(LINE % (i, i) for i in range(first, first + 1000)), False)
    assert len(assigner.users) == USERS
    return assigner


def works(twin: HotPath) -> dict[str, tuple[Work, int]]:
    """Return what is measured, with the number of lines or look-ups in a call."""
    assigner, user_hash = assigner_of(twin), UserHash()
    assigned = [LINE % (i, i * 7) for i in range(1000)]
    others = [OTHER % (i, i * 7) for i in range(1000)]
    many = [b"".join(assigned[i : i + AT_A_TIME]) for i in range(0, 1000, AT_A_TIME)]
    keys = [user_hash.key(b"user%d@example.com" % (i * 7)) for i in range(1000)]
    strangers = [user_hash.key(b"stranger%d" % i) for i in range(1000)]
    fresh = iter(range(USERS, 100 * USERS))

    def new(_: int) -> object:
        number = next(fresh)
        return twin.rewrite(assigner, LINE % (number, number), False)

    return {
        "line of an assigned user": (lambda i: twin.rewrite(assigner, assigned[i % 1000], False), 1),
        f"the same, {AT_A_TIME} lines at a time": (
            lambda i: twin.rewrite(assigner, many[i % len(many)], False),
            AT_A_TIME,
        ),
        "line of an unassigned user": (new, 1),
        "line that is passed on": (lambda i: twin.rewrite(assigner, others[i % 1000], False), 1),
        "look-up of an assigned user": (lambda i: assigner.users.get(keys[i % 1000]), 1),
        "look-up of an unassigned user": (lambda i: assigner.users.get(strangers[i % 1000]), 1),
    }


def microseconds(work: Work, calls: int, each: int) -> float:
    calls = max(1, calls // each)
    begun = time.process_time()
    for number in range(calls):
        work(number)
    return (time.process_time() - begun) / (calls * each) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    rounds: int = parser.parse_args().rounds
    measured = {name: works(twin) for name, twin in (("compiled", compiled()), ("pure", PURE))}
    figures: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for twin, rows in measured.items():
            for what, (work, each) in rows.items():
                figures.setdefault((what, twin), []).append(microseconds(work, CALLS[twin], each))
    print(f"Microseconds of CPU time, {USERS} users, {rounds} rounds: min / median / max\n")
    print(f"{'':34}{'compiled':>24}{'pure':>27}")
    for what in measured["pure"]:
        cells = ""
        for twin in measured:
            of = figures[what, twin]
            cells += f"   {min(of):7.2f} {median(of):7.2f} {max(of):7.2f}"
        print(f"{what:34}{cells}")


if __name__ == "__main__":
    main()
