"""Tables of state machines, and the check of each change of state."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

S = TypeVar("S", bound=Enum)


class WrongTransition(RuntimeError):
    """A bug of the core: its table does not permit the change of state."""


def check(table: Mapping[S, frozenset[S]], before: S, after: S) -> None:
    """Raise WrongTransition unless `table` permits the change from `before` to `after`."""
    if after not in table[before]:
        raise WrongTransition(f"{type(before).__name__}: {before.name} -> {after.name}")
