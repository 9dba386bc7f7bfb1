"""What this room uses of the daemon's log."""

from __future__ import annotations

from typing import Protocol


class EventLog(Protocol):
    """A log of events with fields."""

    def debug(self, event: str, **fields: object) -> None: ...

    def warning(self, event: str, **fields: object) -> None: ...

    def error(self, event: str, **fields: object) -> None: ...
