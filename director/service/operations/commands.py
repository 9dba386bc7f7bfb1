"""What every door of the service lets operators do: the original's admin protocol and the web API alike."""

from __future__ import annotations

from typing import Protocol

from director.records import Change, HostInfo, RingInfo, UsersChange, UserStatus


class Commands(Protocol):
    """`director.service.operations.operations.Operations` is the real one.

    Reading answers at once from memory; a change returns when every director has it.
    dry_run: changes nothing, answers what would be. reason: kept in the audit.
    Whatever is not carried out raises an OperationError whose text is for the operator.
    """

    async def hosts(self) -> list[HostInfo]: ...

    def ring(self) -> RingInfo: ...

    def user_status(self, user: str, tag: str = "", numeric_is_hash: bool = True) -> UserStatus: ...

    async def set_host(
        self, address: str, tag: str | None, weight: int | None, *, reason: str, dry_run: bool = False
    ) -> Change: ...

    async def set_up(self, address: str, up: bool, *, reason: str, dry_run: bool = False) -> Change: ...

    async def remove_host(self, address: str, *, reason: str, dry_run: bool = False) -> Change: ...

    async def move_user(
        self,
        user: str,
        host: str,
        tag: str | None = "",
        *,
        numeric_is_hash: bool = True,
        pin: bool = False,
        early: bool = False,
        new: bool = True,
        reason: str,
        dry_run: bool = False,
    ) -> UsersChange:
        """Move a user, within the pool of `host`; a `tag` that is not the host's is refused. tag=None, for a
        client that cannot give one: refused where the user is known in another pool only. new=False:
        UnknownName for a user that nobody has seen.

        Returns when every director has ended his old sessions and the kick delay is over; early: without
        the kick delay. Raises UnknownName for the host, TryAgain while he is being moved already.
        """
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

    async def kick(
        self,
        *,
        user: str | None = None,
        numeric_is_hash: bool = False,
        field: str | None = None,
        value: str | None = None,
        hash: int | None = None,
        wait: bool = True,
        reason: str,
        dry_run: bool = False,
    ) -> UsersChange:
        """End the sessions of a user, said in one way. wait=False: TryAgain where no kick is free now."""
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
