"""Buckets may be split in two. This step changes no bucket: directors split each bucket when it is too large.

PREFIX {uTT}BBB, {nTT}BBB    a split bucket holds the word `split` (after its version); its records are in the
                             two buckets below it. Below bucket N are 4096 + 2 N and 4097 + 2 N: the first has
                             the keys whose next bit is 0. BBB is the number in hex, with 3 to 5 digits. TT is
                             that of the bucket of 3 digits above: they all share its slot.

Programs that know only schema 1 would read the word as a damaged bucket. So this step waits until no such
program holds a lease: each lease says in `info` which `schema` its member knows.
"""

from __future__ import annotations

from redis import Redis


def migrate(server: Redis, prefix: str) -> None:
    """Change nothing: the new layout needs no preparation."""
