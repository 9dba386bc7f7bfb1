"""When garbage is collected: full collections are made by a task of their own, in the middle of nothing else.

Python begins a full collection in the middle of whatever allocates, so that it makes the longest turns longer
still, just when there is much to do: with 100,000 kicks under way it takes some milliseconds. The young
generations are collected as always.
"""

from __future__ import annotations

import gc
import time

import anyio

NEVER = 1_000_000_000
DUE_AFTER = 10
"""Collections of the middle generation after which a full one is due, as Python has it."""
LOOK = 0.2
"""Seconds between two looks."""
REST = 100
"""A full collection is followed by a pause of so many times its length."""


def begin() -> None:
    """What there is now stays: no collection looks at it again. `run` makes the full ones from now on."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, NEVER)


def collect_if_due() -> float:
    """Make a full collection, if one is due. Returns how long it took, in seconds."""
    if gc.get_count()[2] < DUE_AFTER:
        return 0.0
    begun = time.monotonic()
    gc.collect()
    return time.monotonic() - begun


async def run() -> None:
    while True:  # noqa: ASYNC110  # it looks now and then
        await anyio.sleep(max(LOOK, REST * collect_if_due()))
