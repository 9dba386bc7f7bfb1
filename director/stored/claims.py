"""Settling a user in the shared store when the ring cannot order (architecture, section 5: claim)."""

from __future__ import annotations

from collections.abc import Iterable

from director.core.placement.users import LATEST, RECORD, User, pack, rounded
from director.types import Stamp


def following(candidate: User, old: User | None) -> User:
    """The candidate with stamps that take the place of `old`, which does not bind any more."""
    if old is None:
        return candidate
    decided = Stamp(min(max(candidate.decided, old.decided + 1), LATEST))
    return candidate._replace(decided=decided, seen=max(candidate.seen, old.seen))


def with_candidates(blob: bytes, candidates: Iterable[User], expire: int) -> bytes:
    """The bucket as it is to be stored when these take the places of whatever it holds of their users.

    The caller has seen that no binding record is there. Nothing of this is in memory before the store has
    taken it: who loses the race must take the winner's choice, not merge his own over it.
    """
    records = {blob[at : at + 8]: blob[at : at + RECORD.size] for at in range(0, len(blob), RECORD.size)}
    for candidate in candidates:
        record = pack([candidate._replace(seen=rounded(candidate.seen, expire))])
        records[record[:8]] = record
    return b"".join(records[key] for key in sorted(records))
