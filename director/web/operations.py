"""What the web API asks of the service; `director.service.operations.Operations` is the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from director.records import (
    Change,
    Dump,
    HostInfo,
    MoveInfo,
    RingInfo,
    StatusInfo,
    UserInfo,
    UsersChange,
    UserStatus,
)


class Operations(Protocol):
    """Reading answers at once from memory; a change returns when every director has it.

    dry_run: changes nothing, answers what would be. reason: kept in the audit.
    Whatever is not carried out raises an OperationError whose text is for the operator.
    """

    async def status(self) -> StatusInfo: ...

    async def hosts(self) -> list[HostInfo]: ...

    def ring(self) -> RingInfo: ...

    async def dump(self) -> Dump: ...

    def user_status(self, user: str, tag: str = "", numeric_is_hash: bool = True) -> UserStatus: ...

    def users(self, host: str | None = None, after: str = "") -> AsyncIterator[list[UserInfo]]:
        """Assignments in order of their key, in batches; `after` (16 hex digits) leaves out keys up to it."""
        ...

    async def set_host(
        self, address: str, tag: str | None, weight: int | None, *, reason: str, dry_run: bool = False
    ) -> Change: ...

    async def update_host(
        self, address: str, weight: int, *, reason: str, dry_run: bool = False
    ) -> Change: ...

    async def set_up(self, address: str, up: bool, *, reason: str, dry_run: bool = False) -> Change: ...

    async def remove_host(self, address: str, *, reason: str, dry_run: bool = False) -> Change: ...

    async def set_tag(self, address: str, tag: str, *, reason: str, dry_run: bool = False) -> Change:
        """Give a host another tag; its users of the old one are moved as by a flush."""
        ...

    async def move_user(
        self,
        user: str,
        host: str,
        tag: str = "",
        *,
        numeric_is_hash: bool = True,
        pin: bool = False,
        early: bool = False,
        reason: str,
        dry_run: bool = False,
    ) -> UsersChange:
        """Move a user, within the pool of `host`; a `tag` that is not the host's is refused.

        Returns when every director has ended his old sessions and the kick delay is over; early: without
        the kick delay. Raises UnknownName for the host, TryAgain while he is being moved already.
        """
        ...

    async def unpin_user(
        self, user: str, tag: str = "", *, numeric_is_hash: bool = True, reason: str, dry_run: bool = False
    ) -> UsersChange:
        """Let a pinned user expire again; `host` says where he stays until then. UnknownName: not pinned."""
        ...

    async def flush(
        self,
        host: str | None,
        *,
        tag: str | None = None,
        max_parallel: int | None = None,
        reason: str,
        dry_run: bool = False,
    ) -> UsersChange:
        """Move the users of a host (None: of all, or of all with this tag) to where the hash puts them."""
        ...

    async def forget(self, host: str | None, *, reason: str, dry_run: bool = False) -> UsersChange:
        """Forget the users of a host (None: of all) and end their sessions."""
        ...

    async def rebalance(
        self, tag: str | None, max_parallel: int | None, *, reason: str, dry_run: bool = False
    ) -> UsersChange:
        """Move users who are not where the hash puts them back there."""
        ...

    async def kick(
        self,
        *,
        user: str | None = None,
        field: str | None = None,
        value: str | None = None,
        hash: int | None = None,
        wait: bool = True,
        reason: str,
        dry_run: bool = False,
    ) -> UsersChange:
        """End the sessions of a user, said in one way. wait=False: TryAgain where no kick is free now."""
        ...

    async def start_move(
        self,
        user: str,
        host: str,
        tag: str = "",
        *,
        numeric_is_hash: bool = True,
        pin: bool = False,
        reason: str,
    ) -> MoveInfo:
        """`move_user` in the background, as all of `start_…`: what cannot begin is raised at once."""
        ...

    async def start_flush(
        self, host: str | None, *, tag: str | None = None, max_parallel: int | None = None, reason: str
    ) -> MoveInfo: ...

    async def start_forget(self, host: str | None, *, reason: str) -> MoveInfo: ...

    async def start_rebalance(
        self, tag: str | None, max_parallel: int | None, *, reason: str
    ) -> MoveInfo: ...

    async def start_set_tag(self, address: str, tag: str, *, reason: str) -> MoveInfo: ...

    def moves(self) -> list[MoveInfo]:
        """Changes of users that are under way or ended lately, the newest first."""
        ...

    def move_info(self, id: str) -> MoveInfo:
        """One of `moves`; raises UnknownName where it is none (any more)."""
        ...

    async def interrupt(self, id: str) -> None:
        """Start no more users; those on the move are finished. Does nothing to one that has ended."""
        ...

    async def add_member(
        self, address: str, port: int | None, *, reason: str, dry_run: bool = False
    ) -> RingInfo:
        """List a director; port None: the asked one's. One that is listed already is no error."""
        ...

    async def remove_member(
        self, address: str, port: int | None, *, reason: str, dry_run: bool = False
    ) -> RingInfo:
        """Take a director off the list, the asked one too; port None: the first with that address."""
        ...

    async def metrics(self) -> bytes: ...

    def alive(self) -> bool: ...

    def ready(self) -> tuple[bool, str]: ...
