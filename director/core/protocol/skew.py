"""How far the clock of another director is ahead, from one time that it has told."""

from __future__ import annotations

from director.types import Now


def skew_of(unix: float, since: Now, now: Now, older: float = 0.0) -> tuple[float, float]:
    """Seconds by which another clock is ahead of this one, and by how many that may be wrong.

    Monotonic time stands still while a machine is suspended, so of the two spans since `since` the longer one
    counts.

    Args:
        unix: what the other end told, at a moment between `since` and `now`.
        older: seconds by which it may have told it before `since`.
    """
    took = max(now.mono - since.mono, now.unix - since.unix) + older
    return unix - (now.unix - took / 2), took / 2
