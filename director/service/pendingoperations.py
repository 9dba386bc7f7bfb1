"""Operators' commands on their way through the core. Each gets a number and waits for its result."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import msgspec

from director.core.protocol.events import (
    Event,
    Flush,
    Forget,
    HostChange,
    HostsMoved,
    Interrupt,
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
        """Whether an operation runs that ends soon, that is, another than a flush or forget."""
        return any(not operation.lasting for operation in self._operations.values())

    @property
    def last(self) -> int:
        """The highest number in use."""
        return self._numbers

    def go_on_behind(self, last: int) -> None:
        """Number new operations from `last` + 1. A predecessor has used the numbers up to `last`."""
        self._numbers = max(self._numbers, last)

    async def change_host(self, change: HostChange) -> HostRow:
        """Have the whole ring change a host. Returns the resulting row. Raises OperationError."""
        result = await self._operate(change, self.new_operation())
        assert isinstance(result, HostRow)
        return result

    async def move_hosts(self, change: HostsMoved) -> None:
        """Have the whole ring give hosts other addresses. Raises OperationError."""
        await self._operate(change, self.new_operation())

    async def change_member(self, change: MemberChange) -> MemberRow:
        """Have the whole ring change the list of directors. Raises OperationError."""
        result = await self._operate(change, self.new_operation())
        assert isinstance(result, MemberRow)
        return result

    async def change_users(self, change: UsersEvent, number: int | None = None) -> MoveCounts:
        """Have the whole ring move, kick or forget users. Raises OperationError.

        Args:
            number: from `new_operation`, for callers that follow or interrupt the operation.
        """
        result = await self._operate(change, self.new_operation() if number is None else number)
        assert isinstance(result, MoveCounts)
        return result

    def interrupt(self, number: int) -> None:
        """Start no more users of this operation. Moves that have started are finished."""
        self._handle(Interrupt(number))

    def new_operation(self) -> int:
        self._numbers += 1
        return self._numbers

    async def _operate(
        self, change: HostChange | HostsMoved | MemberChange | UsersEvent, number: int
    ) -> Result:
        operation = self._operations[number] = _Operation(isinstance(change, Flush | Forget))
        self._handle(msgspec.structs.replace(change, operation=number))
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
