"""Changes of users and of the ring that this service does not carry out yet."""

from __future__ import annotations

from director.errors import NotOffered, UnknownName
from director.records import Change, MoveInfo, RingInfo, UsersChange

FLUSH = "flushing hosts is not supported by this director yet"
MOVE = "moving users is not supported by this director yet"
KICK = "kicking users is not supported by this director yet"
RING = "changing the ring is not supported by this director yet"


class NotYet:
    """Refuses them all; the promises are in `web/operations.py`."""

    async def set_tag(self, address: str, tag: str, *, reason: str, dry_run: bool = False) -> Change:
        raise NotOffered(FLUSH)

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
        raise NotOffered(MOVE)

    async def unpin_user(
        self, user: str, tag: str = "", *, numeric_is_hash: bool = True, reason: str, dry_run: bool = False
    ) -> UsersChange:
        raise NotOffered(MOVE)

    async def flush(
        self,
        host: str | None,
        *,
        tag: str | None = None,
        max_parallel: int | None = None,
        reason: str,
        dry_run: bool = False,
    ) -> UsersChange:
        raise NotOffered(FLUSH)

    async def forget(self, host: str | None, *, reason: str, dry_run: bool = False) -> UsersChange:
        raise NotOffered(FLUSH)

    async def rebalance(
        self, tag: str | None, max_parallel: int | None, *, reason: str, dry_run: bool = False
    ) -> UsersChange:
        raise NotOffered(FLUSH)

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
        raise NotOffered(KICK)

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
        raise NotOffered(MOVE)

    async def start_flush(
        self, host: str | None, *, tag: str | None = None, max_parallel: int | None = None, reason: str
    ) -> MoveInfo:
        raise NotOffered(FLUSH)

    async def start_forget(self, host: str | None, *, reason: str) -> MoveInfo:
        raise NotOffered(FLUSH)

    async def start_rebalance(self, tag: str | None, max_parallel: int | None, *, reason: str) -> MoveInfo:
        raise NotOffered(FLUSH)

    async def start_set_tag(self, address: str, tag: str, *, reason: str) -> MoveInfo:
        raise NotOffered(FLUSH)

    def moves(self) -> list[MoveInfo]:
        return []

    def move_info(self, id: str) -> MoveInfo:
        raise UnknownName(f"{id}: no such move")

    async def interrupt(self, id: str) -> None:
        raise UnknownName(f"{id}: no such move")

    async def add_member(
        self, address: str, port: int | None, *, reason: str, dry_run: bool = False
    ) -> RingInfo:
        raise NotOffered(RING)

    async def remove_member(
        self, address: str, port: int | None, *, reason: str, dry_run: bool = False
    ) -> RingInfo:
        raise NotOffered(RING)
