"""Faults of operators' commands, between the operations and the core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import msgspec

from director.core.protocol.events import Event
from director.errors import OperationError
from director.records import MoveCounts
from director.service.pendingoperations import PendingOperations


class Faults(PendingOperations):
    """Records each command. Without a fault the core runs it."""

    def __init__(self, handle: Callable[[Event], None]) -> None:
        super().__init__(handle)
        self.asked: list[Any] = []
        """The commands, as events without a number."""
        self.hold: anyio.Event | None = None
        """Commands wait for this event, as for a ring that is not in sync."""
        self.errors: dict[type, OperationError] = {}
        """The errors with which commands fail, by the class of the event."""
        self.counts: dict[str, object] = {}
        """The counts that other directors add to a change of users."""

    async def carry_out(self, change: Any, number: int | None = None) -> Any:
        self.asked.append(change)
        if self.hold is not None:
            await self.hold.wait()
        if type(change) in self.errors:
            raise self.errors[type(change)]
        result = await super().carry_out(change, number)
        return msgspec.structs.replace(result, **self.counts) if isinstance(result, MoveCounts) else result
