"""Garbage collection: full collections are made by a task of their own, when nothing else runs.

Python starts a full collection in the middle of an allocation, so it lengthens the longest turns of the loop
when there is much to do: with 100,000 kicks under way by some milliseconds. Young generations are collected
as always.
"""

from __future__ import annotations

import gc
import time

import anyio

NEVER = 1_000_000_000
DUE_AFTER = 10
"""Collections of the middle generation after which a full collection is due; Python's own value."""
CHECK_EVERY = 0.2
"""Seconds between two checks."""
REST = 100
"""A full collection is followed by a pause of this many times its duration."""


def begin() -> None:
    """Exempt all present objects from collection. From now on `run` makes the full collections."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, NEVER)


def collect_if_due() -> float:
    """Make a full collection if one is due. Returns its duration in seconds."""
    if gc.get_count()[2] < DUE_AFTER:
        return 0.0
    begun = time.monotonic()
    gc.collect()
    return time.monotonic() - begun


async def run() -> None:
    while True:  # noqa: ASYNC110 - the collector has no event
        await anyio.sleep(max(CHECK_EVERY, REST * collect_if_due()))
