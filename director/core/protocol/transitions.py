"""Tables of the states a thing can change between, and what happens to those who leave the table."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

S = TypeVar("S", bound=Enum)


class WrongTransition(RuntimeError):
    """A bug of the core: a change of state that its table does not have."""


def check(table: Mapping[S, frozenset[S]], before: S, after: S) -> None:
    """Raise WrongTransition unless `table` has a way from `before` to `after`."""
    if after not in table[before]:
        raise WrongTransition(f"{type(before).__name__}: {before.name} -> {after.name}")
