"""The part of the ring's state that the rounds need."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from director.core.protocol.writers import Writers
from director.types import LinkId, MemberId


class RingView(msgspec.Struct, frozen=True):
    right: LinkId | None
    """The link for tokens to the right; None: there is none now."""
    alone: bool
    """Whether no director is linked with this one, and no other holds a lease or can be reached. Then what
    this director has done, all have done."""
    ring: Sequence[MemberId]
    """The directors of the ring, this one included (docs/ring.md, rule 11)."""
    listed: Sequence[MemberId]
    """All directors that should be in the ring."""
    held_until: float
    """Monotonic time before which no round counts as finished, because a director has stopped answering only
    recently (docs/ring.md, rule 14)."""
    writers: Writers
