"""A small service in memory: what `Operations` promises, for one director without ring and store.

Some names make it fail in the ways a real one can: see the first lines of each method.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import md5

import anyio
import anyio.lowlevel
import msgspec

from director.errors import BadRequest, Refused, TryAgain, UnknownName
from director.records import (
    Change,
    Dump,
    HostInfo,
    MemberInfo,
    RingInfo,
    StatusInfo,
    StoreInfo,
    UserInfo,
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
        self.store_error: str | None = None
        self.stored = True
        self.is_alive = True
        self.not_ready = ""
        self.reasons: list[str] = []
        self.waiting, self.release = anyio.Event(), anyio.Event()

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
                loaded=True, error=self.store_error,
            ),
        )  # fmt: skip

    async def hosts(self) -> list[HostInfo]:
        return list(self.table.values())

    def ring(self) -> RingInfo:
        return RingInfo(
            me="127.0.0.11:9090", synced=self.synced, ring=["127.0.0.11:9090", "127.0.0.12:9090"],
            missing=self.missing, waiting_logins=0, members=self.members,
        )  # fmt: skip

    def dump(self) -> Dump:
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
            configured=None if tag else "127.0.1.1",
        )  # fmt: skip

    async def users(self, host: str | None = None, after: str = "") -> AsyncIterator[list[UserInfo]]:
        kept = sorted(self.assigned, key=lambda one: one.key)
        kept = [one for one in kept if one.key > after and host in (None, one.host)]
        for first in range(0, len(kept), BATCH):
            yield kept[first : first + BATCH]
            await anyio.lowlevel.checkpoint()

    async def set_host(
        self, address: str, tag: str | None, weight: int | None, *, reason: str, dry_run: bool = False
    ) -> Change:
        old = self.table.get(address) or HostInfo(address=address, weight=100, up=True, tag=tag or "")
        if tag is not None and tag != old.tag:
            raise Refused("host tag can't be changed")
        return self._changed(old, reason, dry_run, weight=old.weight if weight is None else weight)

    async def update_host(self, address: str, weight: int, *, reason: str, dry_run: bool = False) -> Change:
        if address == "127.0.1.3":
            self.waiting.set()
            await self.release.wait()
        return self._changed(self._host(address), reason, dry_run, weight=weight)

    async def set_up(self, address: str, up: bool, *, reason: str, dry_run: bool = False) -> Change:
        if not self.synced:
            raise TryAgain(f"{address}: Ring sync timed out")
        return self._changed(self._host(address), reason, dry_run, up=up, changed=NOW)

    async def remove_host(self, address: str, *, reason: str, dry_run: bool = False) -> Change:
        self._host(address)
        if not dry_run:
            self.reasons.append(reason)
            del self.table[address]
        return Change(host=None, stored=self.stored, dry_run=dry_run)

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
        return Change(host=host, stored=self.stored, dry_run=dry_run)
