"""How many descriptors the process may have open: raised at the start, and enough to work with."""

from __future__ import annotations

import resource
from contextlib import suppress

from director.errors import TooFewDescriptors
from director.net.accept import RESERVE, soft_limit

NEEDED = 64
"""Of a director without clients: loop, listeners, store, log; some 35, and as many again for what comes."""
NEEDED_A_MEMBER = 2
"""Links with a member of the ring, and others on their way."""


def needed(members: int) -> int:
    """How many descriptors a director in a ring of so many members must be allowed to open."""
    return NEEDED + NEEDED_A_MEMBER * members + RESERVE


def raise_limit() -> None:
    """Use all that this process is allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # more than the system's own limit, fs.nr_open
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check(members: int) -> None:
    """Raises TooFewDescriptors."""
    limit = soft_limit()
    if limit < needed(members):
        raise TooFewDescriptors(limit, needed(members))
