"""Commands of the admin protocol of Dovecot 2.3's director, and the replies."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from director.core.tables.hosts import MAX_WEIGHT
from director.errors import BadRequest, OperationError, TryAgain, UnknownName
from director.records import UsersChange
from director.service.log import Log
from director.service.operations.operations import Operations
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

HostCommand = HostSet | HostUpdate | HostUp | HostDown | HostRemove | DirectorAdd | DirectorRemove
UserCommand = HostFlush | HostResetUsers | UserMove | UserKick | UserKickAlt

REASON = "doveadm"
"""The reason in the audit for every change made here. The protocol has no field for a reason."""


class AdminHandler:
    """Called with a command, yields the reply in pieces, byte for byte as Dovecot 2.3's director writes it.

    A change is answered when every director has it. Failures are logged, except for unknown hosts and users.
    """

    def __init__(self, operations: Operations, log: Log) -> None:
        self._operations, self._log = operations, log

    async def __call__(self, command: Command) -> AsyncGenerator[bytes, None]:
        match command:
            case HostList():
                yield admin.host_list(await self._operations.queries.hosts())
            case HostListRemoved():
                yield admin.removed_hosts(self._operations.queries.removed_hosts())
            case DirectorList():
                yield admin.director_list(self._operations.queries.ring().members)
            case UserLookup():
                yield self._look_up(command)
            case UserList():
                async for rows in self._user_rows(command.host):
                    yield rows
            case _:
                yield await self._changed(command)

    async def _user_rows(self, host: str | None) -> AsyncGenerator[bytes, None]:
        try:
            async for users in self._operations.queries.users(host):
                yield admin.user_rows(users)
        except UnknownName:
            pass  # Dovecot 2.3's director lists no users for an unknown host
        yield admin.END_OF_LIST

    def _look_up(self, command: UserLookup) -> bytes:
        try:
            status = self._operations.queries.user_status(command.user, command.tag, numeric_is_hash=True)
        except OperationError as exc:
            self._not_done(command, exc)
            return admin.TRY_AGAIN
        return admin.user_lookup(status)

    async def _changed(self, command: ChangeCommand) -> bytes:
        try:
            if isinstance(command, UserCommand):
                await self._change_users(command)
            else:
                await self._change(command)
        except UnknownName:
            return admin.NOT_FOUND
        except OperationError as exc:
            self._not_done(command, exc)
            if isinstance(exc, TryAgain) and _has_word_for_later(command):
                return admin.TRY_AGAIN
            return admin.refusal(_for_doveadm(str(exc)))
        return admin.OK

    def _not_done(self, command: Command, reason: OperationError) -> None:
        self._log.warning("admin_command_failed", command=type(command).__name__, reason=str(reason))

    async def _change(self, command: HostCommand) -> None:
        hosts, ring = self._operations.hosts, self._operations.ring
        match command:
            case HostSet(weight=int(weight)) | HostUpdate(weight=weight) if weight > MAX_WEIGHT:
                raise BadRequest(admin.WEIGHT_TOO_LARGE)
            case HostSet():
                await hosts.set(command.address, command.tag, command.weight, reason=REASON)
            case HostUpdate():
                await hosts.update(command.address, command.weight, reason=REASON, tag=command.tag)
            case HostUp():
                await hosts.set_up(command.address, up=True, reason=REASON)
            case HostDown():
                await hosts.set_up(command.address, up=False, reason=REASON)
            case HostRemove():
                await hosts.remove(command.address, reason=REASON)
            case DirectorAdd():
                await ring.add(command.address, command.port, reason=REASON)
            case DirectorRemove():
                await ring.remove(command.address, command.port, reason=REASON)

    async def _change_users(self, command: UserCommand) -> None:
        users = self._operations.users
        match command:
            case HostFlush():
                done = await users.forget(command.address, reason=REASON)
            case HostResetUsers():
                done = await users.flush(command.address, max_parallel=command.max_parallel, reason=REASON)
            case UserMove():
                # Early, because with Dovecot 2.3's director doveadm does not wait for the kick delay.
                done = await users.move(command.user, command.host, None, early=True, reason=REASON)
            case UserKick():
                done = await users.kick(user=command.user, wait=command.wait, reason=REASON)
            case UserKickAlt():
                done = await users.kick(
                    field=command.field, value=command.value, wait=command.wait, reason=REASON
                )
        assert isinstance(done, UsersChange)
        if done.superseded and isinstance(command, UserMove):
            raise TryAgain(f"another operator has moved the user to {done.host}")
        if done.not_reached:
            # The protocol has no reply for it.
            self._log.warning(
                "admin_command_unconfirmed",
                command=type(command).__name__,
                not_reached=",".join(done.not_reached),
                note="sessions there end when these directors are back; run director ring status",
            )


def _for_doveadm(text: str) -> str:
    """Return a refusal that says which options it means: doveadm does not have the options of `director`."""
    return f"{text}: doveadm has no such option; use the command `director`" if " --" in text else text


def _has_word_for_later(command: ChangeCommand) -> bool:
    """Return whether clients know the reply TRYAGAIN to this command."""
    match command:
        case UserMove():
            return True
        case UserKick(wait=wait) | UserKickAlt(wait=wait):
            return not wait
    return False
