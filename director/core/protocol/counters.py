"""Counters for the metrics. They are never reset."""

from __future__ import annotations

import msgspec


class Counters(msgspec.Struct):
    answered_later: int = 0
    conflicts: int = 0
    """Users whose unexpired assignments a merge replaced with another host, although no operator moved
    them."""
    false_departures: int = 0
    """False departures that another director reported: of this director, or of one with a working link to
    it."""
    refused: int = 0
    waiting_refused: int = 0
    """Refused logins that were refused immediately, because too many waited."""
    dropped_early: int = 0
    """Records of users with a single login, dropped because the table was full."""
    claims: int = 0
    isolated: int = 0
    host_changes: int = 0
    near_rounds: int = 0
    """Users near expiry for which the ring was asked."""
    moves_done: int = 0
    moves_superseded: int = 0
    moves_timed_out: int = 0
    """Moves that every director ended by itself after 30 s."""
    programs_done: int = 0
    programs_failed: int = 0
    programs_stopped: int = 0
    """Flush programs that were no longer waited for: most of them hung until the move timed out."""
    kicks_done: int = 0
    kicks_failed: int = 0
    kicks_timed_out: int = 0
    sessions_kicked: int = 0
    stamps_clipped: dict[str, int] = msgspec.field(default_factory=dict)
    """Rows and users with times over an hour ahead, by source."""
    proofs_refused: int = 0
    """Ring links whose other end did not prove that it has the secret."""
    messages_in: dict[str, int] = msgspec.field(default_factory=dict)
