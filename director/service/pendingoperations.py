"""Operators' commands on their way through the core: given a number, waited for, answered."""

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
    """A change under way."""

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
        """Whether anything is under way that ends soon: not the users of a host being moved, or of all."""
        return any(not operation.lasting for operation in self._operations.values())

    @property
    def last(self) -> int:
        """The last number that was given."""
        return self._numbers

    def go_on_behind(self, last: int) -> None:
        """Numbers up to this one have been given by a predecessor."""
        self._numbers = max(self._numbers, last)

    async def change_host(self, change: HostChange) -> HostRow:
        """Have a change carried out by the whole ring. Returns what holds then. Raises OperationError."""
        result = await self._operate(change, self.new_operation())
        assert isinstance(result, HostRow)
        return result

    async def move_hosts(self, change: HostsMoved) -> None:
        """The same for hosts that have other addresses."""
        await self._operate(change, self.new_operation())

    async def change_member(self, change: MemberChange) -> MemberRow:
        """The same for the list of directors."""
        result = await self._operate(change, self.new_operation())
        assert isinstance(result, MemberRow)
        return result

    async def change_users(self, change: UsersEvent, number: int | None = None) -> MoveCounts:
        """Have users moved, kicked or forgotten by the whole ring. Raises OperationError.

        number: from `new_operation`, for those who want to follow or interrupt it."""
        result = await self._operate(change, self.new_operation() if number is None else number)
        assert isinstance(result, MoveCounts)
        return result

    def interrupt(self, number: int) -> None:
        """Begin with no more users of this operation; what is under way is finished."""
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
