"""The rules of the original as an admin client sees them, without ring and sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from itertools import groupby

import anyio
import msgspec

from director.core.placement.addresses import address_order
from director.core.placement.hashing import UserHash
from director.core.placement.vhosts import Circle
from director.errors import BadRequest, Refused, TryAgain, UnknownName
from director.records import Change, HostInfo, MemberInfo, RingInfo, UserInfo, UsersChange, UserStatus
from director.types import Address

EXPIRE = 900
DEFAULT_WEIGHT = 100
MAX_WEIGHT = 1000
UINT32_MAX = 0xFFFFFFFF


class FakeOperations:
    """`busy` addresses are being changed by somebody else; `synced` False: no change gets round the ring.

    `hold`, where set, keeps changes waiting for the ring. A user who was moved is `moving` from then on.
    """

    def __init__(
        self,
        hosts: Iterable[HostInfo],
        users: Iterable[tuple[str, str]] = (),
        members: Iterable[MemberInfo] = (),
        clock: Callable[[], int] = lambda: 1_795_452_414,
    ) -> None:
        """hosts: the configured ones. users: (name, address of the host) of untagged users."""
        self.busy: set[str] = set()
        self.synced = True
        self.hashable = True
        self.hold: anyio.Event | None = None
        self.moving: set[int] = set()
        self.kicking = False
        """Whether as many kicks are under way as may be."""
        self.overtaken = False
        """Whether another operator's move wins from now on."""
        self.not_reached: list[str] = []
        self.kicked: list[tuple[str | None, str | None, str | None]] = []
        self._hosts = {host.address: host for host in hosts}
        self._configured = dict(self._hosts)
        self._hash = UserHash()
        self._clock = clock
        self._users = {("", self._number(name)): (address, clock() + EXPIRE) for name, address in users}
        self._members = list(members)

    async def hosts(self) -> list[HostInfo]:
        counts = {address: 0 for address in self._hosts}
        for address, _ in self._users.values():
            counts[address] += 1
        ordered = sorted(self._hosts.values(), key=lambda host: address_order(host.address))
        return [msgspec.structs.replace(host, users=counts[host.address]) for host in ordered]

    def removed_hosts(self) -> list[str]:
        return sorted(self._configured.keys() - self._hosts.keys(), key=address_order)

    def ring(self) -> RingInfo:
        addresses = [member.address for member in self._members]
        me = addresses[0] if addresses else ""
        return RingInfo(
            me=me, synced=self.synced, ring=addresses, missing=[], waiting_logins=0, members=self._members
        )

    def user_status(self, user: str, tag: str = "", numeric_is_hash: bool = True) -> UserStatus:
        if not self.hashable:
            raise TryAgain("username_hash has an unknown variable")
        number = self._number(user) if numeric_is_hash else self._hash.hash(user.encode())
        current, expires = self._users.get((tag, number), (None, None))
        return UserStatus(
            user=user,
            tag=tag,
            hash=number,
            current=current,
            expires=expires,
            hashed=_circle(self._hosts.values(), tag).host(number),
            configured=_circle(self._configured.values(), tag).host(number),
        )

    async def users(self, host: str | None = None) -> AsyncIterator[list[UserInfo]]:
        rows = [
            UserInfo(hash=number, key=f"{number << 32:016x}", host=address, expires=expires)
            for (_, number), (address, expires) in sorted(self._users.items())
            if host in (None, address)
        ]
        for _, batch in groupby(enumerate(rows), key=lambda item: item[0] // 5000):
            yield [row for _, row in batch]

    async def set_host(
        self, address: str, tag: str | None, weight: int | None, *, reason: str, dry_run: bool = False
    ) -> Change:
        _check_weight(weight)
        host = self._hosts.get(address)
        if host is None:
            host = HostInfo(address=address, tag=tag or "", weight=DEFAULT_WEIGHT, up=True)
        return await self._set(host, tag, weight)

    async def update_host(
        self, address: str, weight: int, *, reason: str, dry_run: bool = False, tag: str | None = None
    ) -> Change:
        _check_weight(weight)
        return await self._set(self._known(address), tag, weight)

    async def set_up(self, address: str, up: bool, *, reason: str, dry_run: bool = False) -> Change:
        host = self._known(address)
        if host.up == up:
            return Change(host=host, stored=True)
        return await self._keep(msgspec.structs.replace(host, up=up, changed=self._clock()))

    async def remove_host(self, address: str, *, reason: str, dry_run: bool = False) -> Change:
        del self._hosts[self._known(address).address]
        self._users = {user: kept for user, kept in self._users.items() if kept[0] != address}
        return Change(host=None, stored=True)

    async def move_user(
        self,
        user: str,
        host: str,
        tag: str | None = "",
        *,
        numeric_is_hash: bool = True,
        pin: bool = False,
        early: bool = False,
        reason: str,
        dry_run: bool = False,
    ) -> UsersChange:
        pool, number = self._known(host).tag, self._number(user)
        before, _ = self._users.get((pool, number), (None, 0))
        if number in self.moving and before != host:
            raise TryAgain("user is being moved already")
        if self.overtaken:
            return UsersChange(superseded=1, host="127.0.1.4")
        self._users[pool, number] = host, self._clock() + EXPIRE
        if before == host:
            return UsersChange(unchanged=1, host=host)
        self.moving.add(number)
        return UsersChange(moved=1, host=host, not_reached=self.not_reached)

    async def flush(
        self,
        host: str | None,
        *,
        tag: str | None = None,
        max_parallel: int | None = None,
        reason: str,
        dry_run: bool = False,
    ) -> UsersChange:
        flushed = self._hosts.values() if host is None else [self._known(host)]
        moved = 0
        for one in list(flushed):
            circle = _circle(self._hosts.values(), one.tag)
            for (pool, number), (address, expires) in list(self._users.items()):
                wanted = circle.host(number)
                if address == one.address and wanted not in (None, address):
                    self._users[pool, number] = str(wanted), expires
                    moved += 1
        return UsersChange(moved=moved, not_reached=self.not_reached)

    async def forget(self, host: str | None, *, reason: str, dry_run: bool = False) -> UsersChange:
        wanted = None if host is None else self._known(host).address
        kept = {user: at for user, at in self._users.items() if wanted not in (None, at[0])}
        forgotten, self._users = len(self._users) - len(kept), kept
        return UsersChange(moved=forgotten)

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
        if self.kicking and not wait:
            raise TryAgain("too many kicks are under way")
        self.kicked.append((user, field, value))
        return UsersChange(kicked=1)

    async def add_member(
        self, address: str, port: int | None, *, reason: str, dry_run: bool = False
    ) -> RingInfo:
        port = port or self._members[0].port
        if not any((one.address, one.port) == (address, port) for one in self._members):
            self._members.append(MemberInfo(address=address, port=port))
        return self.ring()

    async def remove_member(
        self, address: str, port: int | None, *, reason: str, dry_run: bool = False
    ) -> RingInfo:
        found = [one for one in self._members if one.address == address and port in (None, one.port)]
        if not found:
            raise UnknownName(f"{address} is no director")
        self._members.remove(found[0])
        return self.ring()

    async def _set(self, host: HostInfo, tag: str | None, weight: int | None) -> Change:
        if tag and tag != host.tag:
            raise Refused("host tag can't be changed")
        return await self._keep(
            msgspec.structs.replace(host, weight=host.weight if weight is None else weight)
        )

    async def _keep(self, host: HostInfo) -> Change:
        if host.address in self.busy:
            raise TryAgain("host is already being updated - try again later")
        if not self.synced:
            raise TryAgain("Ring sync timed out")
        if self.hold is not None:
            await self.hold.wait()
        self._hosts[host.address] = host
        return Change(host=host, stored=True)

    def _known(self, address: str) -> HostInfo:
        try:
            return self._hosts[address]
        except KeyError:
            raise UnknownName(f"{address} is no host") from None

    def _number(self, user: str) -> int:
        # A number that does not fit into a hash is a name
        if user.isascii() and user.isdigit() and int(user) <= UINT32_MAX:
            return int(user)
        return self._hash.hash(user.encode("utf-8", "surrogateescape"))


def placed(names: Iterable[str], hosts: Iterable[HostInfo]) -> list[tuple[str, str]]:
    """(name, host) of untagged users who log in for the first time."""
    circle, user_hash = _circle(hosts, ""), UserHash()
    return [(name, circle.host(user_hash.hash(name.encode())) or "") for name in names]


def _check_weight(weight: int | None) -> None:
    if weight is not None and weight > MAX_WEIGHT:
        raise BadRequest("vhost count too large")


def _circle(hosts: Iterable[HostInfo], tag: str) -> Circle:
    return Circle([(Address(host.address), host.weight) for host in hosts if host.up and host.tag == tag])
