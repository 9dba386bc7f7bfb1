"""Times of the ring that several parts of the core keep, in seconds."""

from __future__ import annotations

TOKEN_AGAIN = 0.3
"""A token that goes round for agreement, or with a question that a login waits for, is sent again after this.
A lap of a healthy ring takes milliseconds, and new users wait for it."""
TOKEN_AGAIN_LATEST = 2.0
"""The longest pause, where laps have been seen to take long."""
ROUND_AGAIN = 1.5
"""A round of moves or kicks is sent again after this. It waits for kicks, which take up to seconds: sooner,
most repetitions would be in vain."""
NO_NEIGHBOUR = 0.1
"""A round that found no right neighbour is tried again after this: a new link takes about as long."""
STORE_WAIT = 1.0
"""A move, an unpinning or an operator's change waits so long for its record to be stored. A store that is
there takes milliseconds; longer, operators would wait for a store that is away."""
