"""The part of the director's log that this package uses."""

from __future__ import annotations

from typing import Protocol


class EventLog(Protocol):
    """A log of events with fields."""

    def debug(self, event: str, **fields: object) -> None: ...

    def warning(self, event: str, **fields: object) -> None: ...

    def error(self, event: str, **fields: object) -> None: ...
