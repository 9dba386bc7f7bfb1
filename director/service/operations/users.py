"""Operators' changes of users: move, pin, kick, flush, forget.

Each method returns the counts when the whole ring has confirmed the change. Any director can be asked. A
command that is not carried out raises an OperationError, whose text is for the operator.

Common arguments:
    reason: the operator's words, kept in the audit.
    dry_run: change nothing, and return what the change would do.
    follow: return at once, with a MoveInfo to ask `TrackedJobs` for. A command that cannot begin raises an
        error all the same.
"""

from __future__ import annotations

import msgspec

from director.core.checks import wrong_kick
from director.core.director import Director
from director.core.moves.jobs import Flush, Forget, KickSessions, MoveUser, UnpinUser
from director.core.placement.users import BUCKET_SHIFT, PINNED
from director.core.protocol.kicktypes import ByField, ByName, HashOnHosts, KickWhat
from director.core.protocol.messages import HostRow
from director.errors import BadRequest, TryAgain, UnknownName
from director.records import MoveInfo, UsersChange
from director.service.operations.arguments import is_hash, known_host, name_bytes
from director.service.operations.audit import Audit
from director.service.operations.knownusers import KnownUsers
from director.service.operations.pools import Pools, wrong_pool
from director.service.operations.previews import preview, previewed
from director.service.operations.trackedjobs import TrackedJobs, users_change
from director.service.pendingoperations import PendingOperations
from director.service.persistence.unstored import Unstored
from director.types import Address, UserKey


class UserOperations:
    def __init__(
        self,
        director: Director,
        pending_operations: PendingOperations,
        jobs: TrackedJobs,
        known: KnownUsers,
        pools: Pools,
        unstored: Unstored,
        audit: Audit,
    ) -> None:
        self._pending_operations, self._director, self._jobs = pending_operations, director, jobs
        self._known, self._pools, self._unstored, self._audit = known, pools, unstored, audit
        self._hosts, self._users = director.hosts, director.users

    # ---- one user

    async def move(
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
        follow: bool = False,
    ) -> UsersChange | MoveInfo:
        """Move a user, within the pool of `host`.

        Returns when every director has ended the user's old sessions and the kick delay has passed; with
        `early`, before the kick delay. Raises UnknownName for an unknown host, TryAgain while the user is
        being moved.

        Args:
            tag: the user's tag; refused if it is not the host's tag. None, for a client that cannot give a
                tag: refused if the user is assigned in another pool only.
            new: False: raise UnknownName if the user is not assigned.
        """
        row, key, name = self._to_move(user, host, tag, numeric_is_hash, new)
        if dry_run:
            return self._preview_move(key, row)
        what = "pin" if pin else "move"
        event = MoveUser(0, key, Address(row.address), name, pin, early)
        if follow:
            return self._jobs.start(what, user, event, reason)
        done = await self._pending_operations.carry_out(event)
        stored = await self._stored(what, user, key)
        self._audit.add(what, user, reason, f"host={row.address} moved={done.moved}")
        return users_change(done, stored=stored, host=self._known.host_of(key))

    def _to_move(
        self, user: str, host: str, tag: str | None, numeric_is_hash: bool, new: bool
    ) -> tuple[HostRow, UserKey, bytes]:
        """Return the host, the user's key in its pool, and the name; empty for a user given by hash."""
        row = known_host(self._hosts, host)
        if tag not in (None, row.tag):
            raise wrong_pool(row, tag or "")
        if numeric_is_hash and is_hash(user):
            found, name = self._known.key_of_hash(int(user), row.tag), b""
            if found is None:
                raise self._known.without_name(user, new)
            key = found
            its_tag = self._known.tag_of(key)
            if its_tag not in (None, row.tag):
                raise wrong_pool(row, its_tag or "")
        else:
            key, name = self._known.key(user, row.tag), self._known.name(user)
            elsewhere = self._known.tags_of(user) if tag is None and not self._known.knows(key) else []
            if elsewhere:
                raise wrong_pool(row, elsewhere[0])
        if not new:
            self._known.check(user, key)
        return row, key, name

    def _preview_move(self, key: UserKey, row: HostRow) -> UsersChange:
        if self._director.moves.is_moving(key):
            raise TryAgain("the user is being moved already; wait for it to end")
        stays = self._known.host_of(key) == row.address
        return preview(moved=int(not stays), unchanged=int(stays), host=row.address)

    async def unpin(
        self, user: str, tag: str = "", *, numeric_is_hash: bool = True, reason: str, dry_run: bool = False
    ) -> UsersChange:
        """Let the assignment of a pinned user expire again; `host` of the result says where the user stays
        until then. Raises UnknownName if the user is not pinned."""
        by_hash = numeric_is_hash and is_hash(user)
        key = self._known.key_of_hash(int(user), tag) if by_hash else self._known.key(user, tag)
        if by_hash and key is not None and self._known.tag_of(key) not in (None, tag):
            key = None
        record = self._users.get(key) if key is not None else None
        if key is None or record is None or not record.flags & PINNED or self._hosts.host_removed(record):
            elsewhere = self._known.pinned_elsewhere(user, tag, by_hash=by_hash)
            raise UnknownName(f"{user}: not pinned{elsewhere}")
        if dry_run:
            return UsersChange(dry_run=True, host=self._known.host_of(key))
        done = await self._pending_operations.carry_out(UnpinUser(0, key))
        stored = await self._stored("unpin", user, key)
        self._audit.add("unpin", user, reason, f"unpinned={done.moved}")
        return users_change(done, stored=stored, host=self._known.host_of(key))

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
        """End sessions by name, by another field of the session, or by the user's hash; on all directors.

        Args:
            wait: False: raise TryAgain if the allowed number of kicks runs already.
        """
        what: KickWhat
        if user is not None and numeric_is_hash and is_hash(user):
            hash, user = int(user), None
        if user is not None:
            what, target = ByName(name_bytes(user)), user
        elif field is not None and value is not None:
            what, target = ByField(field, name_bytes(value)), f"{field}={value}"
        elif hash is not None:
            what = HashOnHosts(hash, [row.address for row in self._hosts.rows.values()])
            target = str(hash)
        else:
            raise BadRequest("give a user, a field with its value, or a hash")
        problem = wrong_kick(what)
        if problem is not None:
            raise BadRequest(problem)
        known = self._is_assigned(user, hash)
        done = await self._pending_operations.carry_out(KickSessions(0, what, wait, dry_run))
        if dry_run:
            return UsersChange(
                kicked=None if done.not_counted else done.kicked,
                timed_out=None,
                known=known or bool(done.kicked or done.not_counted),
                dry_run=True,
                counted=done.kicked,
                not_counted=done.not_counted,
            )
        self._audit.add("kick", target, reason, f"sessions={done.kicked}")
        found = done.kicked or done.timed_out or done.not_reached
        return msgspec.structs.replace(users_change(done), known=known or bool(found))

    def _is_assigned(self, user: str | None, hash32: int | None) -> bool:
        """Return whether the user is assigned, in any pool. True if the sessions are selected by a field."""
        if hash32 is not None:
            return self._known.knows_hash(hash32)
        return user is None or bool(self._known.tags_of(user))

    async def _stored(self, what: str, user: str, key: UserKey) -> bool:
        """Return whether the store holds the user's record; waits for a moment."""
        return await self._unstored.users_stored(what, user, [key >> BUCKET_SHIFT])

    # ---- many users

    async def flush(
        self,
        host: str | None,
        *,
        tag: str | None = None,
        max_parallel: int | None = None,
        reason: str,
        dry_run: bool = False,
        force: bool = False,
        follow: bool = False,
    ) -> UsersChange | MoveInfo:
        """Move the users of a host to the hosts that the hash selects.

        Args:
            host: None: the users of all hosts, or of all hosts with `tag`.
            force: move them even if users are left without a host.
        """
        target, event = await self._to_flush("flush", host, tag, max_parallel, force=force)
        if dry_run:
            return await previewed(self._director, event.host, tag, everybody=False)
        return await self._jobs.carry_out("flush", target, event, reason, follow=follow)

    async def rebalance(
        self,
        tag: str | None,
        max_parallel: int | None,
        *,
        reason: str,
        dry_run: bool = False,
        follow: bool = False,
    ) -> UsersChange | MoveInfo:
        """Move all users, except pinned users, to the hosts that the hash selects."""
        target, event = await self._to_flush("rebalance", None, tag, max_parallel)
        if dry_run:
            return await previewed(self._director, None, tag, everybody=False)
        return await self._jobs.carry_out("rebalance", target, event, reason, follow=follow)

    async def _to_flush(
        self, what: str, host: str | None, tag: str | None, max_parallel: int | None, *, force: bool = False
    ) -> tuple[str, Flush]:
        """Return the target in words, and the event. Raises BadRequest, UnknownName, Refused."""
        if max_parallel is not None and max_parallel < 1:
            raise BadRequest(f"{max_parallel} users at a time would never end: give 1 or more")
        row = known_host(self._hosts, host) if host is not None else None
        target = row.address if row is not None else "all" if tag is None else f"all of tag {tag!r}"
        event = Flush(0, Address(row.address) if row else None, tag, max_parallel)
        if not force:
            await self._pools.check_flush(event, f"{what} of {target}", can_force=what == "flush")
        return target, event

    async def forget(
        self, host: str | None, *, reason: str, dry_run: bool = False, follow: bool = False
    ) -> UsersChange | MoveInfo:
        """Forget the users of a host (None: of all hosts), and end their sessions."""
        row = known_host(self._hosts, host) if host is not None else None
        event = Forget(0, Address(row.address) if row else None)
        if dry_run:
            return await previewed(self._director, event.host, None, everybody=True)
        target = row.address if row else "all"
        return await self._jobs.carry_out("forget", target, event, reason, follow=follow)
