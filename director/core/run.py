"""This run of the director: whether it has started."""

from __future__ import annotations

import msgspec


class Run(msgspec.Struct):
    started: bool = False
    """Whether `Started` was handled. Before that, all that the store has is merged at once, no change is
    logged, and the ring does not have to agree."""
