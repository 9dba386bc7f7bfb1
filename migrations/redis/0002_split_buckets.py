"""Buckets may be split in two. Nothing is changed yet: it is done one by one, where a bucket has grown large.

PREFIX {uTT}BBB, {nTT}BBB    a bucket that was split holds the word `split` (after its version); what belongs
                             into it is in the two below it. Below bucket N are 4096 + 2 N and 4097 + 2 N: the
                             first for keys whose next bit is 0. BBB is the number in hex, of 3 to 5 digits,
                             and TT that of the bucket of 3 digits above: all of them share its slot.

Programs that know only schema 1 would take the word for a damaged bucket, so this waits until none is alive:
each lease says in `info` which `schema` its member knows.
"""

from __future__ import annotations

from redis import Redis


def migrate(server: Redis, prefix: str) -> None:
    """Nothing has to be made for it."""
