"""The limit of open descriptors: raised at the start, and checked against the need of the ring."""

from __future__ import annotations

import resource
from contextlib import suppress

from director.errors import TooFewDescriptors
from director.net.descriptors import RESERVE, soft_limit

NEEDED = 64
"""Descriptors of a director without clients: 35 for loop, listeners, store and log, and some spare."""
NEEDED_A_MEMBER = 2
"""Descriptors for each ring member: its link, and a connection that is being made."""


def needed(members: int) -> int:
    """Return how many descriptors a director in a ring of so many members must be allowed to open."""
    return NEEDED + NEEDED_A_MEMBER * members + RESERVE


def raise_limit() -> None:
    """Raise the soft limit to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # the hard limit is above the system's own limit, fs.nr_open
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check(members: int) -> None:
    """Raise TooFewDescriptors if the limit is too low for a ring of so many members."""
    limit = soft_limit()
    if limit < needed(members):
        raise TooFewDescriptors(limit, needed(members))
