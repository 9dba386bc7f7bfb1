"""What the commands of the original's admin protocol do here, and what they answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from director.errors import NotOffered, OperationError, UnknownName
from director.records import Change, HostInfo, RingInfo, UserInfo, UserStatus
from director.service.log import Log
from director.wire import admin
from director.wire.admin import (
    ChangeCommand,
    Command,
    DirectorAdd,
    DirectorList,
    DirectorRemove,
    HostDown,
    HostFlush,
    HostList,
    HostListRemoved,
    HostRemove,
    HostResetUsers,
    HostSet,
    HostUp,
    HostUpdate,
    UserKick,
    UserKickAlt,
    UserList,
    UserLookup,
    UserMove,
)

REASON = "doveadm"
"""Kept in the audit for every change made here: this protocol has no room for the operator's own words."""


class AdminOperations(Protocol):
    """The part of Operations these commands need."""

    async def hosts(self) -> list[HostInfo]: ...

    def removed_hosts(self) -> list[str]: ...

    def ring(self) -> RingInfo: ...

    def user_status(self, user: str, tag: str = "", numeric_is_hash: bool = True) -> UserStatus: ...

    def users(self, host: str | None = None) -> AsyncIterator[list[UserInfo]]: ...

    async def set_host(
        self, address: str, tag: str | None, weight: int | None, *, reason: str, dry_run: bool = False
    ) -> Change: ...

    async def update_host(
        self, address: str, weight: int, *, reason: str, dry_run: bool = False, tag: str | None = None
    ) -> Change: ...

    async def set_up(self, address: str, up: bool, *, reason: str, dry_run: bool = False) -> Change: ...

    async def remove_host(self, address: str, *, reason: str, dry_run: bool = False) -> Change: ...


class AdminHandler:
    """Call it with a command: yields the reply, byte for byte the original's, in pieces.

    A change is answered when every director has it. What the operator asked for and did not get is logged.
    """

    def __init__(self, operations: AdminOperations, log: Log) -> None:
        self._operations, self._log = operations, log

    async def __call__(self, command: Command) -> AsyncGenerator[bytes, None]:
        match command:
            case HostList():
                yield admin.host_list(await self._operations.hosts())
            case HostListRemoved():
                yield admin.removed_hosts(self._operations.removed_hosts())
            case DirectorList():
                yield admin.director_list(self._operations.ring().members)
            case UserLookup():
                yield self._look_up(command)
            case UserList():
                async for rows in self._user_rows(command.host):
                    yield rows
            case _:
                yield await self._changed(command)

    async def _user_rows(self, host: str | None) -> AsyncGenerator[bytes, None]:
        try:
            async for users in self._operations.users(host):
                yield admin.user_rows(users)
        except UnknownName:
            pass  # 2.3 lists no users for a host it does not know
        yield admin.END_OF_LIST

    def _look_up(self, command: UserLookup) -> bytes:
        try:
            status = self._operations.user_status(command.user, command.tag, numeric_is_hash=True)
        except OperationError as exc:
            self._not_done(command, exc)
            return admin.TRY_AGAIN
        return admin.user_lookup(status)

    async def _changed(self, command: ChangeCommand) -> bytes:
        try:
            await self._change(command)
        except UnknownName:
            return admin.NOT_FOUND
        except OperationError as exc:
            self._not_done(command, exc)
            return admin.refusal(str(exc))
        return admin.OK

    def _not_done(self, command: Command, reason: OperationError) -> None:
        self._log.warning("admin_command_failed", command=type(command).__name__, reason=str(reason))

    async def _change(self, command: ChangeCommand) -> None:
        operations = self._operations
        match command:
            case HostSet():
                await operations.set_host(command.address, command.tag, command.weight, reason=REASON)
            case HostUpdate():
                await operations.update_host(command.address, command.weight, reason=REASON, tag=command.tag)
            case HostUp():
                await operations.set_up(command.address, up=True, reason=REASON)
            case HostDown():
                await operations.set_up(command.address, up=False, reason=REASON)
            case HostRemove():
                await operations.remove_host(command.address, reason=REASON)
            case HostFlush() | HostResetUsers():
                raise NotOffered("flushing hosts is not supported by this director yet")
            case UserMove():
                raise NotOffered("moving users is not supported by this director yet")
            case UserKick() | UserKickAlt():
                raise NotOffered("kicking users is not supported by this director yet")
            case DirectorAdd() | DirectorRemove():
                raise NotOffered("changing the ring is not supported by this director yet")
