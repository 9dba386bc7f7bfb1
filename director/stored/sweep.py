"""Sweeps: what may be deleted from a stored bucket that no director writes any more (docs/ring.md, rule 18).

Directors drop long expired records from memory, and so from the buckets that they write. Records that no
director has in memory stay in the store, and no writer looks at them. So one director has to go through the
store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from director.core.placement.names import LONGEST_NAME, entries_in, entry
from director.core.placement.users import MOVING, PINNED, RECORD, has_long_expired, pack, rounded, unpack
from director.types import UserKey

LATER = 120
"""Seconds for which the store keeps a record after directors may drop it from memory. By then every director
has dropped it, and does not write it again."""


class Swept(NamedTuple):
    blob: bytes
    """The content to store instead; unchanged if nothing may be deleted."""
    dropped: int
    """How many entries were deleted."""
    due: int | None
    """Unix seconds before which nothing more may be deleted from the content as it is; None: nothing ever
    may."""


def sweep_users(blob: bytes, unix: int, expire: int) -> Swept:
    """Return a bucket of users without the records that have long expired.

    A move that has not ended is kept, so that it can be finished.

    Content that is no multiple of the record size is no bucket of users, or a damaged one: it is left alone.
    """
    if len(blob) % RECORD.size:
        return Swept(blob, 0, None)
    users = list(unpack(blob))
    kept = [user for user in users if user.flags & MOVING or not has_long_expired(user, unix - LATER, expire)]
    mortal = [user.seen for user in kept if not user.flags & (PINNED | MOVING)]
    due = rounded(min(mortal), expire) + 2 * expire + LATER if mortal else None
    dropped = len(users) - len(kept)
    return Swept(pack(kept) if dropped else blob, dropped, due)


def sweep_names(entries: bytes, known: Callable[[UserKey], bool]) -> Swept:
    """Return a bucket of names without names of users who have no record, and without names that are too
    long. Damaged entries are left alone."""
    try:
        names = list(entries_in(entries))
    except ValueError:
        return Swept(entries, 0, None)
    kept = [(key, name) for key, name in names if known(key) and len(name) <= LONGEST_NAME]
    dropped = len(names) - len(kept)
    return Swept(b"".join(entry(key, name) for key, name in kept) if dropped else entries, dropped, 0)
