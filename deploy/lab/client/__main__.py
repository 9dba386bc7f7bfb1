"""`client`: log users in through the load balancer until stopped. `client report`: print the results."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

import anyio
import msgspec

from . import traffic
from .events import Event, Journal, read
from .report import report, still_open, table
from .settings import Settings, from_environment

TABLE_EVERY = 10.0
LONG_AGO = 1e9
"""`--since` above this is a Unix time; below this it is a number of seconds ago."""


def main() -> int:
    settings = from_environment(os.environ)
    parser = argparse.ArgumentParser(prog="client", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("run", "report"), default="run")
    parser.add_argument(
        "--since", type=float, default=60.0, help="report: seconds ago, or a Unix time (60 by default)"
    )
    parser.add_argument("--json", action="store_true", help="report: one JSON document instead of a table")
    given = parser.parse_args()
    if given.what == "report":
        return _report(settings, given.since, as_json=given.json)
    anyio.run(_run, settings)
    return 0


def _report(settings: Settings, since: float, *, as_json: bool) -> int:
    now = time.time()
    found = report(list(read(settings.events)), since if since > LONG_AGO else now - since, now)
    print(msgspec.json.encode(found).decode() if as_json else table(found), end="\n" if as_json else "")
    return 0


async def _run(settings: Settings) -> None:
    recent: list[Event] = []
    with Journal(settings.events) as journal:

        def write(event: Event) -> None:
            journal.write(event)
            recent.append(event)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(traffic.run, settings, write)
            tasks.start_soon(_tables, recent)
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    tasks.cancel_scope.cancel()


async def _tables(recent: list[Event]) -> None:
    since = time.time()
    while True:
        await anyio.sleep(TABLE_EVERY)
        until = time.time()
        sys.stdout.write(table(report(recent, since, until)))
        sys.stdout.flush()
        recent[:] = still_open(recent)
        since = until


if __name__ == "__main__":
    sys.exit(main())
