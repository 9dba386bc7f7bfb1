"""What may go from a stored bucket that nobody writes any more (docs/ring.md, rule 18).

Directors drop who is gone from memory, and so from the buckets they write. Left over is what no memory has,
and no writer looks at: somebody has to go through the store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from director.core.placement.names import LONGEST_NAME, entries_in, entry
from director.core.placement.users import MOVING, PINNED, RECORD, is_gone, pack, rounded, unpack
from director.types import UserKey

LATER = 120
"""Seconds after which who is gone is swept out of the store: whoever has him in memory has dropped him by
then, and does not write him again."""


class Swept(NamedTuple):
    blob: bytes
    """What is to be stored instead; the same where nothing may go."""
    dropped: int
    """How many of it are left out."""
    due: int | None
    """Unix seconds before which nothing (more) may go of it as it is; None: nothing ever may."""


def sweep_users(blob: bytes, unix: int, expire: int) -> Swept:
    """A bucket of users without those who are gone. A move that has not ended is kept: it is to be finished.

    What is no whole number of records is no bucket of users, or a damaged one: it is left as it is.
    """
    if len(blob) % RECORD.size:
        return Swept(blob, 0, None)
    users = list(unpack(blob))
    kept = [user for user in users if user.flags & MOVING or not is_gone(user, unix - LATER, expire)]
    mortal = [user.seen for user in kept if not user.flags & (PINNED | MOVING)]
    due = rounded(min(mortal), expire) + 2 * expire + LATER if mortal else None
    dropped = len(users) - len(kept)
    return Swept(pack(kept) if dropped else blob, dropped, due)


def sweep_names(entries: bytes, known: Callable[[UserKey], bool]) -> Swept:
    """A bucket of names without those of unknown users, and those that are too long. Damaged entries are left
    as they are."""
    try:
        names = list(entries_in(entries))
    except ValueError:
        return Swept(entries, 0, None)
    kept = [(key, name) for key, name in names if known(key) and len(name) <= LONGEST_NAME]
    dropped = len(names) - len(kept)
    return Swept(b"".join(entry(key, name) for key, name in kept) if dropped else entries, dropped, 0)
