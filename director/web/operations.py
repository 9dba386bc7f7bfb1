"""What the web API asks of the service; `service.operations` has the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from director.records import (
    Change,
    ConfiguredHost,
    Dump,
    MoveInfo,
    Plan,
    ReloadInfo,
    StatusInfo,
    UserInfo,
    UsersChange,
)
from director.service.operations.commands import Commands


class Operations(Commands, Protocol):
    """What only the web API asks, and how."""

    async def status(self) -> StatusInfo: ...

    def plan(self, hosts: Sequence[ConfiguredHost], unresolved: Sequence[ConfiguredHost] = ()) -> Plan:
        """What a start of this director with these hosts in its configuration would change. unresolved: names
        in it that have no address now."""
        ...

    def reload_info(self) -> ReloadInfo:
        """What became of the last reload of this director."""
        ...

    async def reload(self, *, exec: bool, reason: str, dry_run: bool = False) -> ReloadInfo:
        """Read the configuration again; exec: have the program replaced in place, which goes on behind it."""
        ...

    async def dump(self) -> Dump: ...

    def users(self, host: str | None = None, after: str = "") -> AsyncIterator[list[UserInfo]]:
        """Assignments in order of their key, in batches; `after` (16 hex digits) leaves out keys up to it."""
        ...

    async def set_host(
        self,
        address: str,
        tag: str | None,
        weight: int | None,
        *,
        reason: str,
        dry_run: bool = False,
        force: bool = False,
    ) -> Change:
        """force, as of all changes: also where users are left without a host."""
        ...

    async def update_host(
        self, address: str, weight: int, *, reason: str, dry_run: bool = False, force: bool = False
    ) -> Change: ...

    async def remove_host(
        self, address: str, *, reason: str, dry_run: bool = False, force: bool = False
    ) -> Change: ...

    async def flush(
        self,
        host: str | None,
        *,
        tag: str | None = None,
        max_parallel: int | None = None,
        reason: str,
        dry_run: bool = False,
        force: bool = False,
    ) -> UsersChange: ...

    async def set_tag(
        self, address: str, tag: str, *, reason: str, dry_run: bool = False, force: bool = False
    ) -> Change:
        """Give a host another tag; its users of the old one are moved as by a flush."""
        ...

    async def unpin_user(
        self, user: str, tag: str = "", *, numeric_is_hash: bool = True, reason: str, dry_run: bool = False
    ) -> UsersChange:
        """Let a pinned user expire again; `host` says where he stays until then. UnknownName: not pinned."""
        ...

    async def rebalance(
        self, tag: str | None, max_parallel: int | None, *, reason: str, dry_run: bool = False
    ) -> UsersChange:
        """Move users who are not where the hash puts them back there."""
        ...

    async def start_move(
        self,
        user: str,
        host: str,
        tag: str = "",
        *,
        numeric_is_hash: bool = True,
        pin: bool = False,
        new: bool = True,
        reason: str,
    ) -> MoveInfo:
        """`move_user` in the background, as all of `start_…`: what cannot begin is raised at once."""
        ...

    async def start_flush(
        self,
        host: str | None,
        *,
        tag: str | None = None,
        max_parallel: int | None = None,
        reason: str,
        force: bool = False,
    ) -> MoveInfo: ...

    async def start_forget(self, host: str | None, *, reason: str) -> MoveInfo: ...

    async def start_rebalance(
        self, tag: str | None, max_parallel: int | None, *, reason: str
    ) -> MoveInfo: ...

    async def start_set_tag(
        self, address: str, tag: str, *, reason: str, force: bool = False
    ) -> MoveInfo: ...

    def moves(self) -> list[MoveInfo]:
        """Changes of users that are under way or ended lately, the newest first."""
        ...

    def move_info(self, id: str) -> MoveInfo:
        """One of `moves`; raises UnknownName where it is none (any more)."""
        ...

    async def interrupt(self, id: str) -> None:
        """Start no more users; those on the move are finished. Does nothing to one that has ended."""
        ...

    async def metrics(self) -> bytes: ...

    def alive(self) -> bool: ...

    def ready(self) -> tuple[bool, str]: ...
