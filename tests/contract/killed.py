"""The `director` command, killed at its n-th write: `python -m tests.contract.killed N MOMENT ARGUMENTS`.

MOMENT: `during` or `after`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from state.base import Lost, Swap, Swapped
from state.redis import RedisStore
from state.sqlite import SqliteStore

UNDER_WAY = 0.002
"""Seconds after the begin of a write. By then the write may be done, half done, or not begun."""


def kill_at(number: int, moment: str) -> None:
    """End this process with SIGKILL at the n-th call that writes buckets."""
    calls = 0
    for store in (RedisStore, SqliteStore):

        async def swap_buckets(
            self: RedisStore | SqliteStore,
            swaps: Sequence[Swap],
            write=store.swap_buckets,  # type: ignore[no-untyped-def]
        ) -> list[Swapped | Lost]:
            nonlocal calls
            calls += 1
            if calls == number and moment == "during":
                asyncio.get_running_loop().call_later(UNDER_WAY, os.kill, os.getpid(), signal.SIGKILL)
            results: list[Swapped | Lost] = await write(self, swaps)
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return results

        store.swap_buckets = swap_buckets  # type: ignore[method-assign]


if __name__ == "__main__":
    kill_at(int(sys.argv.pop(1)), sys.argv.pop(1))

    from director.cli.main import main

    main()
