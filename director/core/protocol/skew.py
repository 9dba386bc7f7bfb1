"""How far another director's clock is ahead, measured from a time that it has sent."""

from __future__ import annotations

from director.types import Now


def skew_of(unix: float, since: Now, now: Now, older: float = 0.0) -> tuple[float, float]:
    """Return the seconds by which another clock is ahead of this one, and the seconds by which that may be
    wrong.

    Monotonic time stops while a machine is suspended, so the longer of the monotonic and the Unix time since
    `since` counts.

    Args:
        unix: the other clock at a moment between `since` and `now`.
        since: the earliest moment.
        now: the latest moment.
        older: seconds by which the moment may have been before `since`.
    """
    took = max(now.mono - since.mono, now.unix - since.unix) + older
    return unix - (now.unix - took / 2), took / 2
