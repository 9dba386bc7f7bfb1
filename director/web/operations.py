"""What the web API asks of the service; `director.service.operations.Operations` is the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from director.records import Change, Dump, HostInfo, RingInfo, StatusInfo, UserInfo, UserStatus


class Operations(Protocol):
    """Reading answers at once from memory; a change returns when every director has it.

    Whatever is not carried out raises an OperationError whose text is for the operator.
    """

    async def status(self) -> StatusInfo: ...

    async def hosts(self) -> list[HostInfo]: ...

    def ring(self) -> RingInfo: ...

    def dump(self) -> Dump: ...

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

    async def metrics(self) -> bytes: ...

    def alive(self) -> bool: ...

    def ready(self) -> tuple[bool, str]: ...
