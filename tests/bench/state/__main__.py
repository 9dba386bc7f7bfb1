"""Costs and limits of the state layer: `python -m tests.bench.state --help`.

Each measure runs alone, on loopback, on servers of its own. Needs a C compiler and redis-server. Numbers are
seconds, or as the head of a table says; three of them are min / median / max.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

import uvloop

from tests.bench.state import outages, sizes, start, writes
from tests.bench.state.parts import Bench

MILLIONS = [1_000_000, 10_000_000]


def measure(bench: Bench, options: argparse.Namespace) -> None:
    quick: bool = options.quick
    match options.measure:
        case "sizes":
            uvloop.run(sizes.run(bench, [10_000] if quick else options.users or MILLIONS))
        case "start":
            counts = [10_000] if quick else options.users or MILLIONS
            runs = [1 if quick else options.runs or (5 if users <= MILLIONS[0] else 3) for users in counts]
            kinds = options.only or start.KINDS
            uvloop.run(start.run(bench, list(zip(counts, runs, strict=True)), kinds))
        case "writes":
            rates, seconds = ([2000], 1.0) if quick else (options.rate or [100_000, 20_000], options.seconds)
            kinds = options.only or writes.KINDS
            writes.run(bench, rates, seconds, options.rounds, names=options.names, kinds=kinds)
        case "outages":
            rate, seconds = (1000, 2.0) if quick else (options.rate, options.seconds)
            outages.run(bench, rate, seconds, options.only or outages.CASES)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.state",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    quick = argparse.ArgumentParser(add_help=False)
    quick.add_argument(
        "--quick", action="store_true", help="small numbers, to see that the measurement works"
    )
    measures = parser.add_subparsers(dest="measure", required=True)
    measure_ = measures.add_parser("sizes", parents=[quick], help="bytes a user in Redis and SQLite")
    measure_.add_argument("--users", type=int, action="append", help="1 M and 10 M if not given")
    measure_ = measures.add_parser("start", parents=[quick], help="warm start: until ready, answered, loaded")
    measure_.add_argument("--users", type=int, action="append", help="1 M and 10 M if not given")
    measure_.add_argument("--runs", type=int, help="5 for up to 1 M users, 3 for more if not given")
    measure_.add_argument("--only", choices=start.KINDS, action="append", help="these stores only")
    measure_ = measures.add_parser("writes", parents=[quick], help="write-behind: rate, CPU, lag, memory")
    measure_.add_argument(
        "--rate", type=int, action="append", help="new users/s; 100000 and 20000 if not given"
    )
    measure_.add_argument("--seconds", type=float, default=60.0)
    measure_.add_argument("--rounds", type=int, default=1)
    measure_.add_argument("--names", action="store_true", help="with users.remember_names")
    measure_.add_argument("--only", choices=writes.KINDS, action="append", help="these stores only")
    measure_ = measures.add_parser(
        "outages", parents=[quick], help="logins while Redis is unreachable, or slow"
    )
    measure_.add_argument("--rate", type=int, default=5000, help="new users/s")
    measure_.add_argument("--seconds", type=float, default=20.0)
    measure_.add_argument("--only", choices=outages.CASES, action="append", help="these only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench") as name, ExitStack() as stack:
        bench = Bench(Path(name), stack)
        measure(bench, options)


if __name__ == "__main__":
    main()
