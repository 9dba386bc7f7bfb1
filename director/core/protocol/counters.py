"""Plain numbers for the metrics; never reset."""

from __future__ import annotations

import msgspec


class Counters(msgspec.Struct):
    answered_later: int = 0
    conflicts: int = 0
    """Users whom a merge took from a host where they were still alive, and nobody had moved by hand."""
    false_departures: int = 0
    """Departures that another director made up: of this one, or of one that a link of ours worked with."""
    refused: int = 0
    waiting_refused: int = 0
    """Those of them that were refused at once, because too many waited."""
    dropped_early: int = 0
    """Records of users who logged in once, dropped because the table was full."""
    claims: int = 0
    isolated: int = 0
    host_changes: int = 0
    near_rounds: int = 0
    """Users near expiry whom the ring was asked about."""
    moves_done: int = 0
    moves_superseded: int = 0
    moves_timed_out: int = 0
    """Moves that every member ended by itself after 30 s."""
    programs_done: int = 0
    programs_failed: int = 0
    programs_stopped: int = 0
    """Flush programs that nobody waited for any more: most of them hung until the move timed out."""
    kicks_done: int = 0
    kicks_failed: int = 0
    kicks_timed_out: int = 0
    sessions_kicked: int = 0
    stamps_clipped: dict[str, int] = msgspec.field(default_factory=dict)
    """By source: rows and users whose times were more than an hour ahead."""
    proofs_refused: int = 0
    """Links of the ring whose other end did not show that it has the secret."""
    messages_in: dict[str, int] = msgspec.field(default_factory=dict)
