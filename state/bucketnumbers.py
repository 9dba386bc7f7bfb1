"""The numbers of the buckets of a store.

Buckets 0 to BUCKETS - 1 of a space are there from the beginning. A bucket that has grown large is split in
two, and these again: those below bucket `n` are BUCKETS + 2n and BUCKETS + 2n + 1.
"""

from __future__ import annotations

from typing import Final

BUCKETS: Final = 4096
"""Buckets of a space that are there from the beginning."""
LEVELS: Final = 5
"""Times that a bucket can be split in two, one after the other."""
NUMBERS: Final = (BUCKETS << LEVELS + 1) - BUCKETS
"""All numbers: 0 to NUMBERS - 1."""


def below(number: int) -> tuple[int, int]:
    """The two buckets that this one is split into."""
    return BUCKETS + 2 * number, BUCKETS + 2 * number + 1


def above(number: int) -> int:
    """The bucket that this one is a part of; it must be none of the first BUCKETS."""
    return (number - BUCKETS) // 2


def level(number: int) -> int:
    """How many buckets are above this one."""
    return (number + BUCKETS).bit_length() - BUCKETS.bit_length()


def root_of(number: int) -> int:
    """The bucket of the first BUCKETS that this one is, or is below of."""
    return (number + BUCKETS >> level(number)) - BUCKETS
