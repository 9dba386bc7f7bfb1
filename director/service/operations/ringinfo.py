"""The ring as operators see it: the directors, their connections, and why logins wait."""

from __future__ import annotations

import time

import msgspec

from director.core.director import Director
from director.core.placement.assign import Wait
from director.core.protocol.order import member_order, split_member
from director.core.ring.link import Neighbour
from director.core.ring.partition import Standing
from director.records import MemberInfo, RingInfo
from director.service.ringsockets import RingSockets
from director.types import MemberId

WAITS = {
    Wait.UNVERIFIED: "memory",
    Wait.RING: "ring",
    Wait.NO_HOST: "host",
    Wait.MOVING: "move",
    Wait.NEAR: "expiry",
    Wait.RETAGGED: "tag",
    Wait.HELD: "expiry",
    Wait.UNREAD: "store",
    Wait.READDRESSED: "address",
}
"""The API's word for the reason why a login waits."""


class RingInfos:
    """Describes the ring as it is now."""

    def __init__(self, director: Director, sockets: RingSockets) -> None:
        self._director, self._sockets = director, sockets

    def ring(self) -> RingInfo:
        director = self._director
        order = sorted(director.ring.servers, key=member_order)
        return RingInfo(
            me=director.me,
            synced=director.synced,
            ring=[m for m in order if m in director.barrier.ring],
            missing=[m for m in order if m not in director.barrier.ring],
            waiting_logins=len(director.pending),
            members=[info for member in order for info in self._member_infos(member)],
            stopped=[m for m in order if self._has_stopped(m)],
            removed=director.ring.removed,
            moves_in_progress=len(director.moves),
            waiting_for=self._waiting_for(),
        )

    def _waiting_for(self) -> dict[str, int]:
        """Return the number of waiting logins by reason (`RingInfo.waiting_for`)."""
        director = self._director
        names = WAITS | {Wait.RING: "majority"} if director.standing is Standing.WAIT else WAITS
        found: dict[str, int] = {}
        for wait, count in director.pending.reasons().items():
            found[names[wait]] = found.get(names[wait], 0) + count
        return found

    def _member_infos(self, member: MemberId) -> list[MemberInfo]:
        director = self._director
        address, port = split_member(member)
        name = director.members.name_of(member).rpartition(":")[0] or None
        failed = int(director.ring.failed_at.get(member, 0))
        if member == director.me:
            status, took = self._own_status(), director.barrier.took_ms
            return [
                MemberInfo(address=address, port=port, name=name, kind="self", status=status, sync_ms=took)
            ]
        links = [n for n in director.ring.links.values() if n.peer == member]
        if not links:
            status = "stopped" if self._has_stopped(member) else ""
            return [MemberInfo(address=address, port=port, name=name, last_failed=failed, status=status)]
        infos = (self._link_info(n, address, port, failed) for n in links)
        return [msgspec.structs.replace(info, name=name) for info in infos]

    def _has_stopped(self, member: MemberId) -> bool:
        """Return whether a listed director has announced its stop and left the ring."""
        director = self._director
        return member in director.ring.departed and member not in director.barrier.ring

    def _own_status(self) -> str:
        barrier = self._director.barrier
        if barrier.synced:
            return "ring synced"
        if barrier.synced_at is None:
            return "ring handshaking"
        return f"ring syncing - last sync {int(time.monotonic() - barrier.synced_at)} secs ago"

    def _link_info(self, neighbour: Neighbour, address: str, port: int, failed: int) -> MemberInfo:
        director, socket = self._director, self._sockets.links.get(neighbour.link)
        if neighbour is director.ring.right:
            kind = "right"
        elif neighbour is director.ring.left:
            kind = "left"
        else:
            kind = "out" if neighbour.dialled else "in"
        if neighbour.state.value == "full":
            status = "synced" if director.synced else "syncing"
        else:
            status = f"handshaking - {neighbour.state.value}"
        return MemberInfo(
            address=address,
            port=port,
            kind=kind,
            last_failed=failed,
            status=status,
            sync_ms=neighbour.ping_ms or 0,
            bytes_in=socket.bytes_in if socket else 0,
            bytes_out=socket.bytes_out if socket else 0,
            buffered=socket.buffered if socket else 0,
            buffered_peak=socket.peak if socket else 0,
            last_read=socket.last_read if socket else 0,
            last_write=socket.last_write if socket else 0,
        )
