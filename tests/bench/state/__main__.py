"""What the state layer costs and gives: `python -m tests.bench.state --help`.

Each measure runs alone, on loopback, on servers of its own. Needs a C compiler and redis-server. Numbers are
seconds, or as the head of a table says; three of them are min / median / max.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.bench.state import writes
from tests.bench.state.parts import Bench


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.state",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    quick = argparse.ArgumentParser(add_help=False)
    quick.add_argument("--quick", action="store_true", help="small numbers: whether it works at all")
    measures = parser.add_subparsers(dest="measure", required=True)
    one = measures.add_parser("writes", parents=[quick], help="write-behind: rate, CPU, lag, memory")
    one.add_argument("--rate", type=int, action="append", help="new users/s; 100000 and 20000 if not given")
    one.add_argument("--seconds", type=float, default=60.0)
    one.add_argument("--rounds", type=int, default=1)
    one.add_argument("--names", action="store_true", help="with users.remember_names")
    one.add_argument("--only", choices=writes.KINDS, action="append", help="these stores only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench") as name, ExitStack() as stack:
        bench = Bench(Path(name), stack)
        kinds = options.only or list(writes.KINDS)
        if options.quick:
            writes.run(bench, [2000], 1.0, 1, names=options.names, kinds=kinds)
        else:
            rates = options.rate or [100_000, 20_000]
            writes.run(bench, rates, options.seconds, options.rounds, names=options.names, kinds=kinds)


if __name__ == "__main__":
    main()
