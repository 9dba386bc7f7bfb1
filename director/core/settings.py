"""The settings of an operator that the core depends on."""

from __future__ import annotations

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the core. Times are in seconds."""

    isolation_wait: float = 20.0
    kick_delay: float = 2.0
    max_parallel_moves: int = 100
    max_parallel_kicks: int = 100
    max_users: int = 0
    """Records in the table from which on new users get no record; 0: no limit."""
    flush_program: bool = False
    """Whether a flush program runs for each user who is moved."""
    remember_names: bool = False
    """Whether the names of users are kept with their assignments."""
