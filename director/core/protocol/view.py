"""What the rounds need to know of the ring at the moment."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from director.core.protocol.writers import Writers
from director.types import LinkId, MemberId


class RingView(msgspec.Struct, frozen=True):
    right: LinkId | None
    """The link that tokens go out on; None: there is none now."""
    alone: bool
    """Nobody is linked with us, and nobody else lives or can be reached: what we have done, all have done."""
    ring: Sequence[MemberId]
    """The members of the ring, us included (docs/ring.md, rule 11)."""
    listed: Sequence[MemberId]
    """All directors there should be."""
    held_until: float
    """Until then no round counts as finished: somebody has only just gone silent (docs/ring.md, rule 14)."""
    writers: Writers
