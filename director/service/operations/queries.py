"""Queries of a running director. They are answered from memory, without asking the ring or the store."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import anyio.lowlevel

from director.core.director import Director
from director.core.placement.assign import Gate
from director.core.placement.names import entries_in
from director.core.placement.users import BUCKET_SHIFT, BUCKETS, PINNED, User, unpack
from director.core.placement.vhosts import Circle
from director.core.ring.partition import Standing
from director.core.tables.hosts import BackendSetting
from director.records import (
    Alarm,
    ConfiguredHost,
    Dump,
    HostInfo,
    Plan,
    RingInfo,
    StatusInfo,
    UserInfo,
    UserStatus,
)
from director.service.clock import unix_time
from director.service.lifecycle.credentials import Credentials
from director.service.lifecycle.replacement import Replacement
from director.service.operations.alarms import reload_alarms, ring_alarms
from director.service.operations.arguments import as_address, is_hash, name_bytes
from director.service.operations.dump import host_commands, pin_command
from director.service.operations.hostinfo import HostInfos
from director.service.operations.knownusers import KnownUsers
from director.service.operations.plans import planned
from director.service.operations.ringinfo import RingInfos
from director.service.persistence.persist import Persistence
from director.types import Address
from director.version import VERSION

COUNTED = 64
"""Buckets searched for pins in one turn of the loop."""
BATCH = 1000
"""Users in one batch of a listing."""
BLIP = 5.0
"""Seconds without sync after which a director is not ready. Assigned users are answered meanwhile."""


class Queries:
    def __init__(
        self,
        director: Director,
        persistence: Persistence,
        infos: HostInfos,
        ring_infos: RingInfos,
        known: KnownUsers,
        *,
        started: float,
        sockets_kept_by: Callable[[], str],
        credentials: Credentials | None,
        reloads: Replacement,
    ) -> None:
        """started: Unix seconds. sockets_kept_by: as in StatusInfo."""
        self._director, self._persistence = director, persistence
        self._hosts, self._users = director.hosts, director.users
        self._infos, self._ring_infos, self._known, self._started = infos, ring_infos, known, started
        self._sockets_kept_by, self._credentials, self._reloads = sockets_kept_by, credentials, reloads
        self._circles: tuple[Mapping[Address, BackendSetting], dict[str, Circle]] = {}, {}
        """The circles of the hosts in the configuration file, by tag, and the hosts they were made from."""

    # ---- the director

    async def status(self) -> StatusInfo:
        hosts = await self.hosts()
        return StatusInfo(
            version=VERSION,
            me=self._director.me,
            started=int(self._started),
            hosts=hosts,
            users=sum(host.users for host in hosts),
            ring=self.ring(),
            store=self._persistence.info(),
            alarms=self.alarms(),
            sockets_kept_by=self._sockets_kept_by(),
        )

    def ring(self) -> RingInfo:
        return self._ring_infos.ring()

    def alarms(self) -> list[Alarm]:
        """Return the alarms of files, of a failed reload, and of directors that differ from this director."""
        files = self._credentials.alarms() if self._credentials else []
        return [*files, *reload_alarms(self._reloads.info()), *ring_alarms(self._director)]

    def alive(self) -> bool:
        return True

    def ready(self) -> tuple[bool, str]:
        """Return whether logins can be answered; if not, also why."""
        director = self._director
        barrier = director.barrier
        if director.ring.removed:
            return False, (
                f"removed from the ring: logins are refused; run `director ring add {director.me}` on "
                "another director to add it again"
            )
        if director.assigner.gate is Gate.CLOSED:
            return False, "the assignments in memory are not compared with the ring or the store yet"
        if director.standing is Standing.WAIT:
            return False, "on the minority side of a partition: new users wait"
        if not barrier.synced and barrier.waiting_since is not None:
            waited = time.monotonic() - barrier.waiting_since
            if waited > BLIP:
                return False, f"the ring is not in sync for {waited:.0f} s: new users wait"
        return True, "ready"

    # ---- hosts

    async def hosts(self) -> list[HostInfo]:
        """Return all hosts in the order of their addresses."""
        return await self._infos.all()

    def removed_hosts(self) -> list[str]:
        """Return the hosts of the configuration file that an operator has removed."""
        return [str(address) for address in self._hosts.removed()]

    def plan(self, hosts: Sequence[ConfiguredHost], unresolved: Sequence[ConfiguredHost] = ()) -> Plan:
        """Return what a start of this director with these hosts in its configuration would change.

        Args:
            unresolved: names in the configuration that have no address now.
        """
        settings = [BackendSetting(as_address(h.address), h.hostname, h.tag, h.weight) for h in hosts]
        unknown = [BackendSetting(Address(""), h.hostname, h.tag, h.weight) for h in unresolved]
        return self.plan_settings(settings, unknown)

    def plan_settings(self, settings: Sequence[BackendSetting], unresolved: Sequence[BackendSetting]) -> Plan:
        """Return the same as `plan`, for hosts in the form of the configuration."""
        applied = self._persistence.documents.applied
        return planned(self._director.me, self._hosts, applied, settings, unresolved, int(unix_time()))

    async def dump(self) -> Dump:
        """Return the commands that rebuild hosts and pins. The users are read in slices."""
        commands = host_commands(self._hosts)
        for number in range(BUCKETS):
            pinned = [user for user in unpack(self._users.bucket(number)) if user.flags & PINNED]
            names = dict(entries_in(self._director.names.bucket(number))) if pinned else {}
            for user in pinned:
                row, name = self._known.live_host(user), names.get(user.key)
                if row is not None:
                    tag = self._known.tag_of(user.key) or ""
                    commands.append(pin_command(user.key, name, row.address, tag))
            if number % COUNTED == 0:
                await anyio.lowlevel.checkpoint()
        return Dump(commands=commands)

    # ---- users

    def user_status(self, user: str, tag: str = "", numeric_is_hash: bool = True) -> UserStatus:
        """Return the user's host, and the hosts that the hash selects.

        Args:
            numeric_is_hash: a number is the user's hash, not the name.
        """
        if numeric_is_hash and is_hash(user):
            hash32 = int(user)
            record = self._known.live_by_hash(hash32, tag)
        else:
            key = self._known.key(user, tag)
            hash32 = key >> 32
            record = self._users.get(key)
        row = self._known.live_host(record)
        host = row.address if row is not None else None
        hashed = self._director.assigner.place(hash32, name_bytes(tag))
        return UserStatus(
            user=user,
            tag=tag,
            hash=hash32,
            current=host,
            expires=record.seen + self._users.expire if record is not None and host is not None else None,
            hashed=hashed.address if hashed else None,
            configured=self._configured_circle(tag).host(hash32),
            pinned=host is not None and record is not None and bool(record.flags & PINNED),
        )

    async def users(self, host: str | None = None, after: str = "") -> AsyncIterator[list[UserInfo]]:
        """Yield assignments in batches, in the order of their keys.

        Args:
            host: yield assignments to this host only.
            after: 16 hex digits; keys up to and including this key are left out.
        """
        wanted = as_address(host) if host else None
        start = int(after, 16) + 1 if after else 0
        batch: list[UserInfo] = []
        for number in range(start >> BUCKET_SHIFT, BUCKETS):
            records = [user for user in unpack(self._users.bucket(number)) if user.key >= start]
            if records:
                names = self._director.names.names(number)
                for record in records:
                    row = self._known.live_host(record)
                    if row is not None and wanted in (None, row.address):
                        name = names.get(record.key)
                        batch.append(_user_info(record, row.address, self._users.expire, name))
            if len(batch) >= BATCH:
                yield batch
                batch = []
            if number % 2 == 0:
                await anyio.lowlevel.checkpoint()
        if batch:
            yield batch

    def _configured_circle(self, tag: str) -> Circle:
        """Return the circle of the hosts in the configuration file; kept until the file changes."""
        configured, circles = self._circles
        if configured is not self._hosts.configured:
            self._circles = configured, circles = self._hosts.configured, {}
        if tag not in circles:
            settings = configured.values()
            circles[tag] = Circle([(s.address, s.weight) for s in settings if s.tag == tag])
        return circles[tag]


def _user_info(record: User, host: str, expire: int, name: str | None) -> UserInfo:
    return UserInfo(
        hash=record.key >> 32,
        key=f"{record.key:016x}",
        host=host,
        expires=record.seen + expire,
        name=name,
        pinned=bool(record.flags & PINNED),
    )
