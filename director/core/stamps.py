"""Stamps: the hybrid times of decisions, and how they grow.

A stamp is a Unix second in 32 bits, later than the stamp it replaces (docs/ring.md, rule 3). Arithmetic
with stamps saturates at `LATEST`: a stamp that no decision can exceed must not end a director, or a link.
"""

from __future__ import annotations

from director.core.users import LATEST


def after(stamp: int, replaced: int, apart: int = 1) -> int:
    """The stamp of a decision made at `stamp` that takes the place of one with the stamp `replaced`.

    Args:
        apart: seconds that it is later than `replaced` at least.
    """
    return min(max(stamp, replaced + apart), LATEST)
