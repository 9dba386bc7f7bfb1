"""Operators' changes of the list of ring members."""

from __future__ import annotations

import anyio
import msgspec

from director.core.director import Director
from director.core.protocol.events import MemberChange
from director.core.protocol.order import join_member, split_member
from director.errors import BadRequest, Refused, TryAgain, UnknownName
from director.records import RingInfo
from director.service.operations.arguments import as_address, is_ip
from director.service.operations.audit import Audit
from director.service.operations.ringinfo import RingInfos
from director.service.pendingoperations import PendingOperations
from director.service.persistence.unstored import Unstored
from director.service.resolution.namewatch import answer_of
from director.types import Address, MemberId
from state.resolver import Resolver

RESOLVE_WITHIN = 5.0
"""Seconds that the name of a director may take to be resolved."""
LISTS = ("ring", "missing", "stopped")
"""Fields of RingInfo that list directors."""


class RingOperations:
    """Adds and removes ring members. `reason`, `dry_run` and errors: as in `users`."""

    def __init__(
        self,
        director: Director,
        pending_operations: PendingOperations,
        infos: RingInfos,
        unstored: Unstored,
        audit: Audit,
        resolver: Resolver,
    ) -> None:
        self._resolver = resolver
        self._director, self._pending_operations, self._infos = director, pending_operations, infos
        self._unstored, self._audit = unstored, audit

    async def add(self, address: str, port: int | None, *, reason: str, dry_run: bool = False) -> RingInfo:
        """Add a director to the list. All other directors connect to it, whatever their configuration says.

        Args:
            port: None: the port of the director that is asked.

        A director that is listed already is no error.
        """
        if not self._director.identity.secret:
            raise Refused("this director has no ring: set ring.servers and ring.secret_file first")
        member, name = await self._meant(address, port)
        return await self._change(member, name, reason, dry_run)

    async def remove(self, address: str, port: int | None, *, reason: str, dry_run: bool = False) -> RingInfo:
        """Remove a director from the list; it may be the director that is asked.

        The removed director is told and refuses logins from then on.

        Args:
            port: None: the first listed director with that address.
        """
        listed = self._director.members.listed()
        member, name = await self._meant(address, port)
        if port is None and not name:
            same = [
                listed_member
                for listed_member in listed
                if split_member(listed_member)[0] == split_member(member)[0]
            ]
            member = same[0] if same else member
        if member not in listed:
            raise UnknownName(f"{name or member}: no such director")
        if listed == [member]:
            raise Refused(
                f"{name or member} is the only director of the ring: it would refuse all logins; stop it, or "
                "add another one first"
            )
        return await self._change(member, name, reason, dry_run, remove=True)

    async def _change(
        self, member: MemberId, name: str, reason: str, dry_run: bool, *, remove: bool = False
    ) -> RingInfo:
        if dry_run:
            return self._ring_with(member, remove=remove)
        await self._pending_operations.carry_out(MemberChange(0, member, remove, name))
        what = "ring remove" if remove else "ring add"
        stored = await self._unstored.documents_stored(what, name or member)
        self._audit.add(what, name or member, reason, "")
        return msgspec.structs.replace(self._infos.ring(), stored=stored)

    def _ring_with(self, member: MemberId, *, remove: bool) -> RingInfo:
        """Return the ring as it would be listed with the director, or without it."""
        ring = self._infos.ring()
        if remove:
            lists = {name: [server for server in getattr(ring, name) if server != member] for name in LISTS}
            rows = [
                server
                for server in ring.members
                if join_member(Address(server.address), server.port) != member
            ]
            return msgspec.structs.replace(ring, members=rows, **lists)
        if member in (*ring.ring, *ring.missing):
            return ring
        return msgspec.structs.replace(ring, missing=[*ring.missing, member])

    async def _meant(self, host: str, port: int | None) -> tuple[MemberId, str]:
        """Return the director with this address or name, and its `name:port` if `host` is a name.

        Raises UnknownName, BadRequest for a name with several addresses, and TryAgain for a slow resolver.
        """
        own_port = split_member(self._director.me)[1]
        if is_ip(host):
            return join_member(as_address(host), port or own_port), ""
        host = host.rstrip(".").lower()
        for name, member in self._director.members.names.items():
            known, _, known_port = name.rpartition(":")
            if known == host and port in (None, int(known_port)):
                return member, name
        with anyio.move_on_after(RESOLVE_WITHIN):
            answer = await answer_of(host, self._resolver)
            if isinstance(answer, str):
                raise UnknownName(f"{host}: cannot be resolved ({answer}); give an address")
            if len(answer) > 1:
                raise BadRequest(f"{host} has {len(answer)} addresses; give one: {', '.join(answer)}")
            member = join_member(as_address(answer[0]), port or own_port)
            return member, f"{host}:{port or own_port}"
        raise TryAgain(f"{host}: not resolved within {RESOLVE_WITHIN:.0f} s; give an address")
