"""The two kick channels: how Dovecot 2.3 and 2.4 list and end the sessions that login processes proxy.

All methods raise KickError. No method has a time-out: the kicker sets it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

import anyio

from director.core.protocol.kicktypes import HashOnHosts, KickWhat, parts
from director.errors import KickError
from director.net.anvil import AnvilConnection, ProcessConnection
from director.net.ipc import IpcConnection
from director.net.kickline import Connections
from director.service.kicks.timings import (
    FIRST_PAUSE,
    LOOK_SHARE,
    LOOK_WAIT,
    PATIENCE,
    PATIENCE_WITH_PROCESSES,
)
from director.wire import anvil, ipc
from director.wire.anvil import Session, Sessions, kick_one
from director.wire.sessions import Listing

HOSTS = 1000
"""Hosts of a kick whose lines are written in one turn of the loop."""


class Channel(Protocol):
    """How one release of Dovecot lists and ends sessions. Its methods raise KickError."""

    @property
    def name(self) -> str:
        """The value of `dovecot.kick` that selects this channel."""

    @property
    def path(self) -> str: ...

    @property
    def counts(self) -> bool:
        """Whether `kick` returns the number of ended sessions of all login processes together."""

    async def kick(self, what: KickWhat) -> int:
        """End these sessions. Returns a number of ended sessions; see `counts`."""

    async def read(self, listing: Listing) -> None:
        """Add the sessions that are proxied, or about to be, to `listing`."""

    def close(self) -> None: ...


class Ipc:
    """The kick channel of Dovecot 2.3, with the sessions of all login processes."""

    name = "ipc"
    counts = False
    """Its answer contains the count of one login process only."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._connections = Connections(path, IpcConnection)

    async def kick(self, what: KickWhat) -> int:
        """End these sessions. Returns how many of them one login process ended."""
        return await _ask(self._connections, map(ipc.kick_requests, parts(what, HOSTS)))

    async def read(self, listing: Listing) -> None:
        """Add the sessions to `listing`."""
        async with self._connections.connection() as connection:
            await connection.ask([ipc.LIST], ipc.ListingRows(listing).add)

    def close(self) -> None:
        """Close idle connections."""
        self._connections.close()


async def _ask(
    connections: Connections[IpcConnection] | Connections[AnvilConnection], requests: Iterable[list[bytes]]
) -> int:
    """Return the sum of the answers. Each list of requests is made when the list before it was answered."""
    ended = 0
    for some in requests:
        if some:
            async with connections.connection() as connection:
                ended += await connection.ask(some)
    return ended


class _ListRequest:
    """A requested listing. All kicks that ask before it begins share it."""

    def __init__(self) -> None:
        self.taken = Sessions()
        self.problem: KickError | None = None
        self.ended = anyio.Event()


class Anvil:
    """The kick channel of Dovecot 2.4, with the sessions of all login processes.

    anvil counts the sessions that it has told login processes to end. The count is wrong for a login process
    that serves one connection only (`restart_request_count`). So a kick is done only when a listing does not
    contain its sessions any more. Sessions that remain are ended at the socket of their login process, which
    root may open. If that fails too, the kick fails, and its error says what to do.
    """

    name = "anvil"
    counts = True
    """Its kicks return the number of sessions that they ended."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._connections = Connections(path, AnvilConnection)
        self._next: _ListRequest | None = None
        self._turn = anyio.Lock()
        self._look_from = 0.0

    async def kick(self, what: KickWhat) -> int:
        """End these sessions. Returns how many there were."""
        # The logins of a user given by hash wait for the kick, so no session of the user can begin meanwhile.
        # Other users may log in again at once, so only sessions from before the kick are checked after it.
        listed = Sessions() if isinstance(what, HashOnHosts) else await self._list()
        before = listed.of(what)
        requests = (anvil.kick_requests(part, listed) for part in parts(what, HOSTS))
        ended = await _ask(self._connections, requests)
        if not ended and not before:
            return 0
        ids = {session.id for session in before}
        remaining = await self._remaining(what, ids, PATIENCE)
        if remaining:
            for session in remaining:
                await self._end(session)
            remaining = await self._remaining(what, ids, PATIENCE_WITH_PROCESSES)
        if remaining:
            raise KickError(self.path, _stay_text(remaining))
        return max(ended, len(before))

    async def read(self, listing: Listing) -> None:
        """Add the sessions to `listing`."""
        async with self._connections.connection() as connection:
            await connection.ask([anvil.LIST], anvil.SessionRows(listing).add)

    def close(self) -> None:
        """Close idle connections."""
        self._connections.close()

    async def _remaining(self, what: KickWhat, ids: set[bytes], patience: float) -> list[Session]:
        """Return the sessions that remain after `patience` seconds, or an empty list as soon as none remains.

        Args:
            ids: the sessions to check; empty: all.
        """
        until = anyio.current_time() + patience
        pause = FIRST_PAUSE
        while True:
            last = anyio.current_time() >= until
            remaining = [s for s in (await self._list()).of(what) if not ids or s.id in ids]
            if last or not remaining:
                return remaining
            await anyio.sleep(min(pause, max(0.0, until - anyio.current_time())))
            pause *= 2

    async def _list(self) -> Sessions:
        """Return the sessions as of a moment within this call."""
        request = self._next
        if request is None:
            request = self._next = _ListRequest()
            await self._carry_out(request)
        else:
            await request.ended.wait()
        if request.problem is not None:
            raise request.problem
        return request.taken

    async def _carry_out(self, request: _ListRequest) -> None:
        try:
            async with self._turn:
                await anyio.sleep(max(0.0, self._look_from - anyio.current_time()))
                self._next = None
                began = anyio.current_time()
                await self.read(request.taken)
                ended = anyio.current_time()
                self._look_from = ended + min(LOOK_WAIT, LOOK_SHARE * (ended - began))
        except KickError as exc:
            request.problem = exc
        except BaseException:  # the kick that began the listing is cancelled; other kicks still wait for it
            request.problem = KickError(self.path, "the sessions were not listed in time")
            raise
        finally:
            if self._next is request:
                self._next = None
            request.ended.set()

    async def _end(self, session: Session) -> None:
        """End one session at its own login process, if the director may open that socket."""
        path = os.path.join(os.path.dirname(self.path), f"srv.{session.service}", str(session.pid))
        with suppress(KickError):  # the caller checks whether the session has ended
            async with Connections(path, ProcessConnection).connection() as connection:
                await connection.ask([kick_one(session)])
                connection.close("done")


def _stay_text(sessions: list[Session]) -> str:
    """Return why the sessions have not ended, and what to do."""
    if unmarked := [session for session in sessions if not session.key]:
        return (
            f"{len(unmarked)} sessions without user_dirkey continue: their logins did not ask the director; "
            "only a director that runs as root can end them"
        )
    services = ", ".join(
        f"{number} of {service}" for service, number in sorted(Counter(s.service for s in sessions).items())
    )
    return (
        f"anvil reported the sessions as ended, but some continue: {services}; set restart_request_count = "
        "unlimited for these services in dovecot.conf, or run the director as root"
    )
