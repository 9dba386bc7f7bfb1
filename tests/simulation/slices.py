"""The effect of large numbers with small ones: a turn of the loop handles a few users instead of hundreds,
so that work is left for the next turn all the time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from director.core.placement.users import RECORD

SMALL = {
    "director.core.reception.PIECE": 2 * RECORD.size,
    "director.core.intake.MERGED": 2,
    "director.core.intake.DISPLACED": 1,
    "director.core.moves.kicks.AT_A_TIME": 3,
    "director.core.moves.kicks.AT_ONCE": 2,
    "director.core.moves.kicks.BEGUN": 1,
    "director.core.moves.kicks.LOOKED_AT": 2,
    "director.core.moves.moves.SLICE": 2,
    "director.core.moves.movingusers.SLICE": 2,
    "director.core.moves.leaderwatch.SLICE": 2,
    "director.core.moves.flushruns.IN_A_TURN": 1,
    "director.core.moves.sessions.SLICE": 1,
    "director.core.moves.jobs.SLICE": 20,
    "director.core.moves.jobs.AT_ONCE": 1,
    "director.core.moves.jobs.SCANNED": 400,
    "director.core.housekeeping.DROPPED": 1,
    "director.core.housekeeping.RECORDS": 1,
    "director.core.moves.nearexpiry.SLICE": 1,
    "director.core.tables.movedhosts.SLICE": 2,
    "director.core.tables.movedhosts.FOLLOWED": 1,
    "director.core.logins.logins.SLICE": 2,
    "director.stored.bucketreader.TURN_BYTES": 2 * RECORD.size,
    "director.stored.bucketwriter.TURN_BYTES": 2 * RECORD.size,
    "director.stored.bucketwriter.WRITE_BUCKETS": 1,
    "director.stored.claims.BATCH": 2,
}
"""Constants of the core, with their small values."""


@contextmanager
def small_slices() -> Iterator[None]:
    with ExitStack() as patches:
        for name, value in SMALL.items():
            patches.enter_context(patch(name, value))
        yield
