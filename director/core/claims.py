"""Settling a user in the shared store when the ring cannot order (architecture, section 5: claim)."""

from __future__ import annotations

from director.core.users import RECORD, pack, rounded, unpack


def with_candidate(blob: bytes, record: bytes, expire: int) -> bytes:
    """The bucket as it is to be stored when `record` takes the place of whatever it holds of that user.

    The caller has seen that no live record is there. Nothing of this is in memory before the store has taken it: who
    loses the race must take the winner's choice, not merge his own over it.
    """
    (candidate,) = unpack(record)
    stored = candidate._replace(seen=rounded(candidate.seen, expire))
    head = record[:8]
    kept = [blob[at : at + RECORD.size] for at in range(0, len(blob), RECORD.size)]
    return b"".join(sorted([one for one in kept if one[:8] != head] + [pack([stored])]))
