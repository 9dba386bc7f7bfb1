"""Operators' commands on their way through the core. Each gets a number and waits for its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

import anyio
import msgspec

from director.core.moves.jobs import Flush, Forget
from director.core.protocol.events import (
    Event,
    HostChange,
    HostsMoved,
    InterruptFlush,
    MemberChange,
    UsersEvent,
)
from director.core.protocol.messages import HostRow, MemberRow
from director.errors import OperationError
from director.records import MoveCounts

Result = HostRow | MemberRow | MoveCounts


class _Operation:
    """A running change. lasting: a flush or forget, which may take long."""

    def __init__(self, lasting: bool) -> None:
        self.lasting = lasting
        self.finished = anyio.Event()
        self.result: Result | None = None
        self.error: OperationError | None = None


class PendingOperations:
    def __init__(self, handle: Callable[[Event], None]) -> None:
        self._handle = handle
        self._operations: dict[int, _Operation] = {}
        self._numbers = 0

    @property
    def busy(self) -> bool:
        """Whether an operation other than a flush or forget is in progress. Such an operation ends soon."""
        return any(not operation.lasting for operation in self._operations.values())

    @property
    def last(self) -> int:
        """The highest number in use."""
        return self._numbers

    def go_on_behind(self, last: int) -> None:
        """Number new operations from `last` + 1. A predecessor has used the numbers up to `last`."""
        self._numbers = max(self._numbers, last)

    def interrupt(self, number: int) -> None:
        """Start no more users of this operation. Moves that have started are finished."""
        self._handle(InterruptFlush(number))

    def new_operation(self) -> int:
        self._numbers += 1
        return self._numbers

    @overload
    async def carry_out(self, order: HostChange) -> HostRow: ...

    @overload
    async def carry_out(self, order: MemberChange) -> MemberRow: ...

    @overload
    async def carry_out(self, order: UsersEvent, number: int | None = None) -> MoveCounts: ...

    @overload
    async def carry_out(self, order: HostsMoved) -> Result: ...

    async def carry_out(
        self, order: HostChange | HostsMoved | MemberChange | UsersEvent, number: int | None = None
    ) -> Result:
        """Have the whole ring carry out an order, and return what it results in. Raises OperationError.

        Args:
            order: its `operation` is replaced by a new number.
            number: from `new_operation`, for callers that follow or interrupt the operation.
        """
        number = self.new_operation() if number is None else number
        operation = self._operations[number] = _Operation(isinstance(order, Flush | Forget))
        self._handle(msgspec.structs.replace(order, operation=number))
        await operation.finished.wait()
        if operation.error is not None:
            raise operation.error
        assert operation.result is not None
        return operation.result

    def done(self, number: int, result: Result) -> None:
        operation = self._operations.pop(number, None)
        if operation is not None:
            operation.result = result
            operation.finished.set()

    def failed(self, number: int, error: type[OperationError], reason: str) -> None:
        operation = self._operations.pop(number, None)
        if operation is not None:
            operation.error = error(reason)
            operation.finished.set()
