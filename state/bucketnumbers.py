"""The numbers of the buckets of a store.

Buckets 0 to BUCKETS - 1 of a space exist from the beginning. A bucket that has grown large is split in two,
and these can be split again. The two buckets below bucket `n` are BUCKETS + 2n and BUCKETS + 2n + 1.
"""

from __future__ import annotations

from typing import Final

BUCKETS: Final = 4096
"""The number of buckets of a space that exist from the beginning."""
LEVELS: Final = 5
"""How many times a bucket can be split: the depth of the tree below each of the first BUCKETS."""
NUMBERS: Final = (BUCKETS << LEVELS + 1) - BUCKETS
"""The bucket numbers are 0 to NUMBERS - 1."""


def below(number: int) -> tuple[int, int]:
    """Return the two buckets into which this bucket is split."""
    return BUCKETS + 2 * number, BUCKETS + 2 * number + 1


def above(number: int) -> int:
    """Return the bucket of which this bucket is a half. `number` must be BUCKETS or more."""
    return (number - BUCKETS) // 2


def level(number: int) -> int:
    """Return the number of buckets above this one: 0 to LEVELS."""
    return (number + BUCKETS).bit_length() - BUCKETS.bit_length()


def root_of(number: int) -> int:
    """Return the one of the first BUCKETS that this bucket is, or is below."""
    return (number + BUCKETS >> level(number)) - BUCKETS
