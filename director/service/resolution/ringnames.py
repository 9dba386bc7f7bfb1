"""Names of ring members whose addresses change while the director runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from director.core.protocol.events import Event, MembersListed
from director.service.configuration.servers import Endpoint, director_name, is_local
from director.service.log import Log
from director.service.resolution.namewatch import Answer
from director.types import Address, MemberId

Members = tuple[MemberId, ...]
Names = Mapping[str, MemberId]
"""The director that each name, `name:port`, stands for."""


class RingNames:
    """Reports changed addresses of names in `ring.servers`, and of directors that operators added by name.

    A name that cannot be resolved, or has an unusable address, keeps its last address.
    """

    def __init__(
        self,
        servers: Sequence[Endpoint],
        names: Sequence[tuple[str, Endpoint | None]],
        me: Endpoint,
        handle: Callable[[Event], None],
        moved: Callable[[Endpoint], None],
        log: Log,
        local: Callable[[Address], bool] = is_local,
    ) -> None:
        """
        Args:
            servers: as in `RingConfig`.
            names: as in `RingConfig`.
            handle: called with `MembersListed` when an address has changed.
            moved: called when this director itself has another address.
        """
        named = {endpoint for _, endpoint in names}
        self._fixed = [server for server in servers if server not in named]
        self._me, self._handle, self._moved = me, handle, moved
        self._log, self._local = log, local
        self._ports: dict[str, tuple[str, int]] = {}
        self._now: dict[str, Endpoint | None] = {}
        """By `name:port`; the names of the file first."""
        for entry, endpoint in names:
            host, port = director_name(entry) or (entry, 0)
            self._ports[f"{host}:{port}"] = host, port
            self._now[f"{host}:{port}"] = endpoint
        self._listed = list(self._now)
        self._unresolved = {name for name, endpoint in self._now.items() if endpoint is None}
        self._logged = False

    @property
    def own_name(self) -> str | None:
        """The `name:port` that lists this director; None: its address lists it."""
        return next((name for name in self._listed if self._now[name] == self._me), None)

    def hosts(self, added: Iterable[str]) -> list[str]:
        """Return the names to resolve. added: further names, `name:port`."""
        for name in added:
            if name not in self._ports:
                host, _, port = name.rpartition(":")
                self._ports[name] = host, int(port)
                self._now[name] = None
        return [host for host, _ in self._ports.values()]

    @property
    def members(self) -> Members:
        """The directors of the file whose addresses are known."""
        named = [self._now[name] for name in self._listed]
        found = [*self._fixed, *(endpoint for endpoint in named if endpoint is not None)]
        return tuple(endpoint.member for endpoint in found)

    @property
    def names(self) -> Names:
        return {name: endpoint.member for name, endpoint in self._now.items() if endpoint is not None}

    def answered(self, answers: Mapping[str, Answer]) -> None:
        """Take the answers of the name service, by host name."""
        before, now = (self.members, self.names), dict(self._now)
        own_name = self.own_name
        problems: dict[str, str] = {}
        for name, (host, port) in self._ports.items():
            answer = answers.get(host, "it was not resolved in this round")
            if isinstance(answer, str):
                problems[name] = answer
            elif len(answer) > 1:
                problems[name] = f"it has {len(answer)} addresses: {', '.join(answer)}"
            elif (":" in answer[0]) != (":" in self._me.address):
                problems[name] = f"{answer[0]} is of another address family than this director's address"
            elif name == own_name:
                self._look_at_own(Endpoint(answer[0], port))
            else:
                now[name] = Endpoint(answer[0], port)
        self._drop_clashes(now, problems)
        self._now = now
        self._tell(problems)
        if (set(self.members), self.names) != (set(before[0]), before[1]):
            self._log.info("ring_names_changed", members=" ".join(self.members))
            self._handle(MembersListed(self.members, self.names))

    def _look_at_own(self, now: Endpoint) -> None:
        if now == self._me or not self._local(now.address) or self._local(self._me.address):
            return
        if self._local(now.address):  # again: the old address may have failed for want of a free descriptor
            self._moved(now)

    def _drop_clashes(self, now: dict[str, Endpoint | None], problems: dict[str, str]) -> None:
        """Resolve conflicts: two entries cannot be the same director.

        An entry that could not be resolved loses its address to the other entry. Otherwise the entry that has
        got the address in this round keeps its former address.
        """
        while True:
            count = Counter([*self._fixed, *(address for address in now.values() if address is not None)])
            clashes = [name for name, address in now.items() if address is not None and count[address] > 1]
            fresh = [name for name in clashes if now[name] != self._now[name]]
            if not fresh:
                return
            stale = [name for name in clashes if name in problems and now[name] != self._me]
            for name in stale or fresh:
                problems.setdefault(name, f"{now[name]} is also the address of another entry")
                now[name] = None if name in stale else self._now[name]

    def _tell(self, problems: Mapping[str, str]) -> None:
        """Log a name when it cannot be resolved any more, and when it can be again."""
        for name, endpoint in self._now.items():
            if name in problems and name not in self._unresolved:
                note = (
                    f"its address stays {endpoint}; retrying every 5 s"
                    if endpoint is not None
                    else "the ring continues without the director of this name; retrying every 5 s"
                )
                self._log.warning("name_unresolved", name=name, reason=problems[name], note=note)
            elif name not in problems and name in self._unresolved and endpoint is not None:
                self._log.info("name_resolved", name=name, member=endpoint.member)
        self._unresolved = set(problems)
