"""Times of the ring, in seconds, that several parts of the core use."""

from __future__ import annotations

TOKEN_AGAIN = 0.3
"""Pause before a token is repeated, for agreement or for a question that a login waits for. A lap of a
healthy ring takes milliseconds, and new users wait for it."""
TOKEN_AGAIN_LATEST = 2.0
"""The longest such pause, if laps have been seen to take long."""
ROUND_AGAIN = 1.5
"""Pause before a round of moves or kicks is repeated. It waits for kicks, which may take seconds: after a
shorter pause most repetitions would be in vain."""
NO_NEIGHBOUR = 0.1
"""Pause before a round without a right neighbour is tried again. A new link takes about as long."""
STORE_WAIT = 1.0
"""How long a move, an unpin or an operator's change waits for its record to be stored. A reachable store
takes milliseconds. With a longer wait, operators would wait for an unreachable store."""
