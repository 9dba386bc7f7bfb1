"""A small service in memory: what `Operations` promises, for one director without ring and store.

Some names make it fail in the ways a real one can: see the first lines of each method.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import md5
from typing import Any

import anyio
import anyio.lowlevel
import msgspec

from director.errors import BadRequest, Refused, TryAgain, UnknownName
from director.records import (
    Change,
    ConfiguredHost,
    Dump,
    HostInfo,
    MemberInfo,
    MoveInfo,
    Plan,
    PlannedChange,
    Problem,
    ReloadInfo,
    RingInfo,
    SnapshotInfo,
    StatusInfo,
    StoreInfo,
    UnstoredChange,
    UserInfo,
    UsersChange,
    UserStatus,
)

NOW = 1795453314
BATCH = 1000


class FakeOperations:
    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        self.table = {
            "127.0.1.1": HostInfo(address="127.0.1.1", weight=100, up=True, users=2),
            "127.0.1.2": HostInfo(address="127.0.1.2", weight=50, up=False, changed=NOW - 900, users=1),
            "127.0.1.3": HostInfo(address="127.0.1.3", weight=100, up=True, tag="gold"),
        }
        self.assigned: list[UserInfo] = [
            self.assignment("alice", "127.0.1.1"),
            self.assignment("bob", "127.0.1.2"),
            self.assignment("zed", "127.0.1.1", known=False),
        ]
        self.members = [
            MemberInfo(address="127.0.0.11", port=9090, kind="self", status="ring synced", sync_ms=3),
            MemberInfo(
                address="127.0.0.12", port=9090, kind="right", status="synced", sync_ms=0, bytes_in=382,
                bytes_out=1_576_000, buffered=0, buffered_peak=225, last_read=NOW, last_write=NOW,
            ),
        ]  # fmt: skip
        self.synced = True
        self.missing: list[str] = []
        self.stopped: list[str] = []
        self.removed = False
        self.moving = 0
        self.waiting_for: dict[str, int] = {}
        self.store_error: str | None = None
        self.unstored: list[UnstoredChange] = []
        self.snapshot: SnapshotInfo | None = None
        self.stored = True
        self.warning = ""
        self.is_alive = True
        self.not_ready = ""
        self.reasons: list[str] = []
        self.waiting, self.release = anyio.Event(), anyio.Event()
        self.under_way: dict[str, MoveInfo] = {}
        self.not_reached: list[str] = []
        self.superseded_by: str | None = None
        self.stay: set[str] = set()
        """Users whom a flush does not move: they are pinned."""
        self.come_back = 0
        """Users who log in to a flushed host all the same."""
        self.goes_wrong: str | None = None
        """Why background moves end without a result."""
        self.joined = False
        """Another operator has begun the same move before."""
        self.leaving: Callable[[HostInfo], HostInfo] = lambda info: info
        """How a host is shown."""
        self.pace = 1000
        """Users of a background move who are done each time it is asked about."""
        self.polled: set[str] = set()
        """Background moves somebody has asked about."""
        self.planned: list[PlannedChange] = []
        self.plan_known = True
        self.plan_warnings: list[str] = []
        self.unpinned = 0
        """Users who lose their pin when a host is removed."""
        self.asked: list[object] = []
        self.reloaded = ReloadInfo(state="never", version="0.1.0")
        """What the calls that change users were given besides a reason."""

    @staticmethod
    def hash(name: str) -> int:
        return int.from_bytes(md5(name.lower().encode()).digest()[:4], "big")

    def assignment(self, name: str, host: str, *, known: bool = True) -> UserInfo:
        key = md5(name.encode()).hexdigest()[:16]
        return UserInfo(hash=self.hash(name), key=key, host=host, expires=NOW, name=name if known else None)

    async def status(self) -> StatusInfo:
        return StatusInfo(
            version="0.1.0", me="127.0.0.11:9090", started=NOW - 3600, hosts=await self.hosts(),
            users=len(self.assigned), ring=self.ring(),
            store=StoreInfo(
                url="sqlite:////var/lib/director/state.db", shared=False, up=self.store_error is None,
                loaded=True, error=self.store_error, unstored=self.unstored, snapshot=self.snapshot,
            ),
        )  # fmt: skip

    async def hosts(self) -> list[HostInfo]:
        return list(map(self.leaving, self.table.values()))

    def ring(self) -> RingInfo:
        return RingInfo(
            me="127.0.0.11:9090", synced=self.synced, ring=["127.0.0.11:9090", "127.0.0.12:9090"],
            missing=self.missing, waiting_logins=sum(self.waiting_for.values()),
            members=self.members, stopped=self.stopped,
            removed=self.removed, moves_in_progress=self.moving, waiting_for=self.waiting_for,
        )  # fmt: skip

    def plan(self, hosts: Sequence[ConfiguredHost], unresolved: Sequence[ConfiguredHost] = ()) -> Plan:
        self.asked.append([*hosts, *unresolved])
        return Plan(
            me="127.0.0.11:9090", known=self.plan_known, changes=self.planned, warnings=self.plan_warnings
        )

    def reload_info(self) -> ReloadInfo:
        return self.reloaded

    async def reload(self, *, exec: bool, reason: str, dry_run: bool = False) -> ReloadInfo:
        self.asked.append(("reload", exec, reason, dry_run))
        return self.reloaded

    async def dump(self) -> Dump:
        return Dump(
            commands=["director add 127.0.1.1 100", "director add 127.0.1.2 50", "director down 127.0.1.2"]
        )

    def user_status(self, user: str, tag: str = "", numeric_is_hash: bool = True) -> UserStatus:
        if user == "no-format":
            raise TryAgain("no-format: the hash format cannot be expanded")
        if user == "bug":
            raise AssertionError("a secret of the inside")
        hash32 = int(user) if numeric_is_hash and user.isdigit() else self.hash(user)
        found = [one for one in self.assigned if one.hash == hash32 and not tag]
        return UserStatus(
            user=user, tag=tag, hash=hash32, current=found[0].host if found else None,
            expires=found[0].expires if found else None, hashed=None if tag else "127.0.1.1",
            configured=None if tag else "127.0.1.1", pinned=bool(found) and user in self.stay,
        )  # fmt: skip

    async def users(self, host: str | None = None, after: str = "") -> AsyncIterator[list[UserInfo]]:
        kept = sorted(self.assigned, key=lambda one: one.key)
        kept = [one for one in kept if one.key > after and host in (None, one.host)]
        for first in range(0, len(kept), BATCH):
            yield kept[first : first + BATCH]
            await anyio.lowlevel.checkpoint()

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
        old = self.table.get(address) or HostInfo(address=address, weight=100, up=True, tag=tag or "")
        if tag is not None and tag != old.tag:
            raise Refused("host tag can't be changed")
        return self._changed(old, reason, dry_run, weight=old.weight if weight is None else weight)

    async def update_host(
        self, address: str, weight: int, *, reason: str, dry_run: bool = False, force: bool = False
    ) -> Change:
        if address == "127.0.1.3":
            self.waiting.set()
            await self.release.wait()
        return self._changed(self._host(address), reason, dry_run, weight=weight)

    async def set_up(self, address: str, up: bool, *, reason: str, dry_run: bool = False) -> Change:
        if not self.synced:
            raise TryAgain(f"{address}: Ring sync timed out")
        return self._changed(self._host(address), reason, dry_run, up=up, changed=NOW)

    async def remove_host(
        self, address: str, *, reason: str, dry_run: bool = False, force: bool = False
    ) -> Change:
        self._host(address)
        if dry_run:
            users = self._users(moved=self.table[address].users, dry_run=True)
            last = sum(row.tag == self.table[address].tag for row in self.table.values()) == 1
            return Change(
                host=None,
                stored=False,
                dry_run=True,
                users=users,
                without_host=last,
                unpinned=self.unpinned,
            )
        self.reasons.append(reason)
        del self.table[address]
        return Change(host=None, stored=self.stored, unpinned=self.unpinned)

    async def set_tag(
        self, address: str, tag: str, *, reason: str, dry_run: bool = False, force: bool = False
    ) -> Change:
        change = self._changed(self._host(address), reason, dry_run, tag=tag)
        users = self._flushed(address, dry_run=dry_run)
        return msgspec.structs.replace(change, users=users)

    async def move_user(
        self, user: str, host: str, tag: str = "", *, numeric_is_hash: bool = True, pin: bool = False,
        early: bool = False, new: bool = True, reason: str, dry_run: bool = False,
    ) -> UsersChange:  # fmt: skip
        self._host(host)
        self._seen(user, tag, numeric_is_hash, new)
        if user == "moving":
            raise TryAgain("moving: this user is being moved already")
        self.asked.append((user, host, tag, numeric_is_hash, pin))
        if self.superseded_by is not None:
            return self._users(superseded=1, host=self.superseded_by)
        there = self.user_status(user, tag, numeric_is_hash).current
        if there == host:
            return self._users(moved=int(pin), unchanged=int(not pin), host=host, dry_run=dry_run)
        if not dry_run:
            self.reasons.append(reason)
            self.assigned = [one for one in self.assigned if one.name != user]
            self.assigned.append(self.assignment(user, host))
        return self._users(moved=1, kicked=3 if there else 0, host=host, dry_run=dry_run)

    def _seen(self, user: str, tag: str, numeric_is_hash: bool, new: bool) -> None:
        if not new and user != "moving" and self.user_status(user, tag, numeric_is_hash).current is None:
            raise UnknownName(f"{user}: no such user is assigned")

    async def unpin_user(
        self, user: str, tag: str = "", *, numeric_is_hash: bool = True, reason: str, dry_run: bool = False
    ) -> UsersChange:
        self.asked.append((user, tag, numeric_is_hash))
        if user not in self.stay:
            raise UnknownName(f"{user}: not pinned")
        return self._users(unchanged=1, host=self.user_status(user).current, dry_run=dry_run)

    async def flush(
        self, host: str | None, *, tag: str | None = None, max_parallel: int | None = None, reason: str,
        dry_run: bool = False, force: bool = False,
    ) -> UsersChange:  # fmt: skip
        self.asked.append(("flush", host, tag, max_parallel))
        return self._flushed(host, dry_run=dry_run)

    async def forget(self, host: str | None, *, reason: str, dry_run: bool = False) -> UsersChange:
        self.asked.append(("forget", host))
        return self._flushed(host, dry_run=dry_run)

    async def rebalance(
        self, tag: str | None, max_parallel: int | None, *, reason: str, dry_run: bool = False
    ) -> UsersChange:
        self.asked.append(("rebalance", tag, max_parallel))
        return self._flushed(None, dry_run=dry_run)

    async def kick(
        self, *, user: str | None = None, numeric_is_hash: bool = False, field: str | None = None,
        value: str | None = None, hash: int | None = None, wait: bool = True, reason: str,
        dry_run: bool = False,
    ) -> UsersChange:  # fmt: skip
        self.asked.append((user, numeric_is_hash, field, value, hash))
        known = user is None or self.user_status(user, "", numeric_is_hash).current is not None
        if dry_run:
            return self._users(
                kicked=None, counted=2, not_counted=["127.0.0.12:9090"], known=known, dry_run=True
            )
        return self._users(kicked=2 if known else 0, known=known)

    async def start_move(
        self, user: str, host: str, tag: str = "", *, numeric_is_hash: bool = True, pin: bool = False,
        new: bool = True, reason: str,
    ) -> MoveInfo:  # fmt: skip
        self._host(host)
        self._seen(user, tag, numeric_is_hash, new)
        return self._begun("pin" if pin else "move", user, 1)

    async def start_flush(
        self,
        host: str | None,
        *,
        tag: str | None = None,
        max_parallel: int | None = None,
        reason: str,
        force: bool = False,
    ) -> MoveInfo:
        self.asked.append(("flush", host, tag, max_parallel))
        return self._begun("flush", host)

    async def start_forget(self, host: str | None, *, reason: str) -> MoveInfo:
        self.asked.append(("forget", host))
        return self._begun("forget", host)

    async def start_rebalance(self, tag: str | None, max_parallel: int | None, *, reason: str) -> MoveInfo:
        self.asked.append(("rebalance", tag, max_parallel))
        return self._begun("rebalance", None)

    async def start_set_tag(self, address: str, tag: str, *, reason: str, force: bool = False) -> MoveInfo:
        change = self._changed(self._host(address), reason, False, tag=tag)
        return msgspec.structs.replace(self._begun("tag", address), change=change)

    def moves(self) -> list[MoveInfo]:
        return list(reversed(self.under_way.values()))

    def move_info(self, id: str) -> MoveInfo:
        if id not in self.under_way:
            raise UnknownName(f"{id}: no such move")
        self.polled.add(id)
        info = self.under_way[id]
        if info.ended is None:
            moved = min(info.moved + self.pace, info.total or 0)
            info = msgspec.structs.replace(info, moved=moved, kicked=2 * moved)
            if moved == info.total:
                info = self._ended(info)
            self.under_way[id] = info
        return info

    async def interrupt(self, id: str) -> None:
        info = self.move_info(id)
        if info.ended is None:
            self.under_way[id] = self._ended(info)

    async def add_member(
        self, address: str, port: int | None, *, reason: str, dry_run: bool = False
    ) -> RingInfo:
        added = f"{address}:{port or 9090}"
        if dry_run:
            return msgspec.structs.replace(self.ring(), missing=[*self.missing, added])
        self.members.append(MemberInfo(address=address, port=port or 9090))
        self.missing.append(added)
        return self.ring()

    async def remove_member(
        self, address: str, port: int | None, *, reason: str, dry_run: bool = False
    ) -> RingInfo:
        kept = [one for one in self.members if one.address != address or port not in (None, one.port)]
        if kept == self.members:
            raise UnknownName(f"{address}: no such director")
        if dry_run:
            missing = [one for one in self.missing if one != f"{address}:{port or 9090}"]
            return msgspec.structs.replace(self.ring(), missing=missing)
        self.members = kept
        return self.ring()

    def _users(self, **found: Any) -> UsersChange:
        if found.get("dry_run"):
            found |= {"kicked": None, "timed_out": None}
        return UsersChange(**{"not_reached": self.not_reached, "stored": self.stored, **found})

    def _flushed(self, host: str | None, *, dry_run: bool = False) -> UsersChange:
        """All users of the host are moved, those who do not stay."""
        there = [one for one in self.assigned if host in (None, one.host)]
        stay = [one for one in there if one.name in self.stay]
        moved = len(there) - len(stay)
        if not dry_run:
            self.assigned = [one for one in self.assigned if one not in there or one in stay]
            if host is not None:
                self.table[host] = msgspec.structs.replace(self.table[host], users=len(stay) + self.come_back)
        return self._users(moved=moved, pinned=len(stay), kicked=2 * moved, dry_run=dry_run)

    def _begun(self, kind: str, target: str | None, total: int | None = None) -> MoveInfo:
        if total is None:
            if target is not None:
                self._host(target)
            total = len([one for one in self.assigned if target in (None, one.host)])
        number = str(len(self.under_way) + 1)
        info = MoveInfo(id=number, kind=kind, target=target or "all", started=NOW, total=total)
        self.under_way[number] = info
        return msgspec.structs.replace(info, joined=self.joined)

    def _ended(self, info: MoveInfo) -> MoveInfo:
        if self.goes_wrong is not None:
            problem = Problem(title="Service Unavailable", status=503, detail=self.goes_wrong, exit_code=75)
            return msgspec.structs.replace(info, ended=NOW + 1, problem=problem)
        if info.moved < (info.total or 0) or info.kind in ("move", "pin"):
            result = self._users(moved=info.moved, kicked=info.kicked)
        else:
            result = self._flushed(None if info.target == "all" else info.target)
        return msgspec.structs.replace(info, ended=NOW + 1, result=result)

    async def metrics(self) -> bytes:
        return b"# TYPE director_ring_synced gauge\ndirector_ring_synced 1.0\n"

    def alive(self) -> bool:
        return self.is_alive

    def ready(self) -> tuple[bool, str]:
        return (not self.not_ready, self.not_ready)

    def _host(self, address: str) -> HostInfo:
        if address not in self.table:
            raise UnknownName(f"{address}: no such host")
        return self.table[address]

    def _changed(self, host: HostInfo, reason: str, dry_run: bool, **changes: object) -> Change:
        host = msgspec.structs.replace(host, **changes)
        if host.weight > 1000:
            raise BadRequest(f"{host.address}: weight {host.weight} is too large, at most 1000")
        if not dry_run:
            self.reasons.append(reason)
            self.table[host.address] = host
        return Change(host=host, stored=self.stored, dry_run=dry_run, warning=self.warning)
