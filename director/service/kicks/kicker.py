"""Kicks: end sessions that the login processes of this machine proxy, through Dovecot's kick channel.

A kick is one attempt. A failure is reported to the core, which knows whether the kick is still needed.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import anyio
import anyio.abc

from director.core.protocol.events import Event, SessionsListed
from director.core.protocol.kicktypes import Fence, HashOnHosts, KickWhat, OnHost, ProxiedSession
from director.errors import KickError
from director.net.kickline import identity
from director.service.configuration.config import DovecotConfig
from director.service.kicks.channels import Anvil, Channel, Ipc
from director.service.kicks.kickends import KickEnds
from director.service.kicks.timings import (
    KEPT_AS_LONG,
    LATE_EVERY,
    LATE_FIRST,
    LATE_SHARE,
    LATE_UNTIL,
    LISTING_KEPT,
    LISTING_WAIT,
    STARTS_WITHIN,
    TIMEOUT,
)
from director.service.log import Log
from director.wire.sessions import Census, SessionList

WAITING_LIMIT = 10_000
"""Number of kicks that may run. One more fails at once."""


class _Kick(NamedTuple):
    number: int
    what: KickWhat
    deadline: float
    count_only: bool = False


class _Listing:
    """The sessions before a kick. Kicks that begin at about the same time share it."""

    def __init__(self, asked: float) -> None:
        self.asked = asked
        self.census = Census()
        self.ended = anyio.Event()
        self.complete = False
        self.kept_until = asked

    def counts(self, now: float) -> bool:
        """Return whether the listing can count the sessions of a kick that begins now."""
        return not self.ended.is_set() or (self.complete and now <= self.kept_until)

    def done(self, now: float) -> None:
        """Record that all sessions are listed."""
        self.complete = True
        self.kept_until = self.asked + min(LISTING_KEPT, KEPT_AS_LONG * (now - self.asked))


class Kicker:
    """Carries kicks out while `run` runs. Each kick ends within `timeout` seconds, with or without success.

    The core is told of the end of each kick. After kicks by hash or host it is also told of the sessions that
    are listed later, because the kick may have missed some.

    A channel may not count sessions: 2.3 returns the count of one login process only. Then the sessions are
    counted in a listing just before the kick. If the listing takes too long, the channel's own count is used.
    """

    def __init__(
        self,
        config: DovecotConfig,
        log: Log,
        handle: Callable[[Event], None],
        *,
        timeout: float = TIMEOUT,
    ) -> None:
        self._config, self._log, self._handle, self._timeout = config, log, handle, timeout
        self._ends = KickEnds(handle)
        self._ipc, self._anvil = Ipc(config.ipc_socket), Anvil(config.anvil_socket)
        self._logged_channel = ""
        self._seen: tuple[object, object] = (None, None)
        self._both = "ipc"
        """If both sockets exist: the one at which a process listens."""
        self._queue: deque[_Kick | None] = deque()
        """Work to do. None: list the sessions for the core."""
        self._work = anyio.Event()
        self._under_way = 0
        self._listing: _Listing | None = None
        self._late_work = anyio.Event()
        self._late_at = self._late_until = 0.0

    def kick(self, number: int, what: KickWhat) -> None:
        """Start a kick. Its end is reported later, never from within this call."""
        self._queue.append(_Kick(number, what, anyio.current_time() + self._timeout))
        self._work.set()

    def count(self, number: int, what: KickWhat) -> None:
        """Count the sessions of this machine that a kick would end. The count is reported like its end."""
        self._queue.append(_Kick(number, what, anyio.current_time() + self._timeout, count_only=True))
        self._work.set()

    def tell_sessions(self) -> None:
        """Tell the core which sessions are proxied on this machine. `SessionsListed` follows in any case."""
        self._queue.append(None)
        self._work.set()

    async def run(self) -> None:
        """Carry out kicks until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._look_for_stragglers)
                while True:
                    await self._wait_for_work()
                    while self._queue:
                        self._begin(self._queue.popleft(), tasks)
        finally:
            self._ipc.close()
            self._anvil.close()

    async def _list_and_tell(self) -> None:
        """List the sessions and tell the core. If they cannot be listed, log it and tell the core of none."""
        try:
            listed = await self.list_sessions()
        except KickError as exc:
            note = (
                "sessions from before the start are not compared with the assignments; old ones may continue"
            )
            self._log.warning("sessions_not_listed", reason=str(exc), note=note)
            listed = []
        self._handle(SessionsListed(listed))

    async def list_sessions(self) -> list[ProxiedSession]:
        """Return the sessions proxied here, or connecting to their backend. Empty if there is no channel.

        Raises KickError if the listing fails or takes too long.
        """
        channel = self._channel()
        if channel is None:
            return []
        try:
            return await self._listed(channel)
        except KickError:
            if (second := await self._other_than(channel)) is None:
                raise
            return await self._listed(second)

    async def _listed(self, channel: Channel) -> list[ProxiedSession]:
        listed = SessionList()
        try:
            with anyio.fail_after(self._timeout):
                await channel.read(listed)
        except TimeoutError as exc:
            raise self._late(channel) from exc
        return listed.sessions

    async def _other_than(self, failed: Channel) -> Channel | None:
        """Return the channel of a Dovecot 2.3 that is starting: it creates its anvil socket before ipc."""
        if self._config.kick != "auto" or failed is not self._anvil:
            return None
        with anyio.move_on_after(STARTS_WITHIN):
            while self._found() is failed:  # noqa: ASYNC110 - a file has no event
                await anyio.sleep(STARTS_WITHIN / 10)
        channel = self._channel()
        return channel if channel is not failed else None

    async def _wait_for_work(self) -> None:
        while not self._queue:
            self._work = anyio.Event()
            with anyio.move_on_after(LISTING_KEPT):
                await self._work.wait()
                return
            if not self._under_way:
                self._listing = None  # frees its memory, which may be large
                await self._work.wait()

    def _begin(self, kick: _Kick | None, tasks: anyio.abc.TaskGroup) -> None:
        if kick is None:
            tasks.start_soon(self._list_and_tell)
            return
        channel = None if _is_empty(kick.what) else self._channel()
        if channel is None:
            unknown = kick.count_only and not _is_empty(kick.what)
            self._ends.add(kick.number, 0, "no kick channel" if unknown else "")
        elif self._under_way >= WAITING_LIMIT:
            self._ends.add(kick.number, 0, f"{WAITING_LIMIT} kicks are in progress already; try again later")
        else:
            self._under_way += 1
            if kick.count_only:
                tasks.start_soon(self._count, kick, channel)
                return
            listing = None if channel.counts else self._shared_listing(channel, tasks)
            tasks.start_soon(self._carry_out, kick, channel, listing)

    def _shared_listing(self, channel: Channel, tasks: anyio.abc.TaskGroup) -> _Listing:
        listing, now = self._listing, anyio.current_time()
        if listing is None or not listing.counts(now):
            self._listing = listing = _Listing(now)
            tasks.start_soon(self._list, channel, listing)
        return listing

    async def _list(self, channel: Channel, listing: _Listing) -> None:
        try:
            with anyio.move_on_after(self._timeout):
                await channel.read(listing.census)
                listing.done(anyio.current_time())
        except KickError:
            pass  # the kicks that wait for the listing meet the same problem, and report it
        finally:
            listing.ended.set()

    async def _carry_out(self, kick: _Kick, channel: Channel, listing: _Listing | None) -> None:
        sessions, problem = 0, ""
        try:
            with anyio.fail_after(kick.deadline - anyio.current_time()):
                if listing is not None:
                    with anyio.move_on_after(listing.asked + LISTING_WAIT - anyio.current_time()):
                        await listing.ended.wait()
                counted = listing is not None and listing.complete
                sessions = await channel.kick(kick.what)
                if listing is not None and counted:
                    sessions = max(sessions, listing.census.take(kick.what))
        except TimeoutError:
            problem = str(self._late(channel))
        except KickError as exc:
            problem = str(exc)
        self._under_way -= 1
        if isinstance(kick.what, HashOnHosts | OnHost):
            self._expect_stragglers()
        self._ends.add(kick.number, sessions, problem)

    async def _count(self, kick: _Kick, channel: Channel) -> None:
        # A census of its own: a shared census counts each session for one kick only.
        census, sessions, problem = Census(), 0, ""
        try:
            with anyio.fail_after(kick.deadline - anyio.current_time()):
                await channel.read(census)
                sessions = census.take(kick.what)
        except TimeoutError:
            problem = str(self._late(channel))
        except KickError as exc:
            problem = str(exc)
        self._under_way -= 1
        self._ends.add(kick.number, sessions, problem)

    def _expect_stragglers(self) -> None:
        now = anyio.current_time()
        if now >= self._late_until:
            self._late_at = now + LATE_FIRST
        self._late_at = min(self._late_at, now + LATE_FIRST)
        self._late_until = now + LATE_UNTIL
        self._late_work.set()

    async def _look_for_stragglers(self) -> None:
        while True:
            await self._late_work.wait()
            self._late_work = anyio.Event()
            while (began := anyio.current_time()) < self._late_until:
                if began < self._late_at:
                    with anyio.move_on_after(self._late_at - began):
                        await self._late_work.wait()  # a kick may have set an earlier time
                        self._late_work = anyio.Event()
                    continue
                self._late_at = began + LATE_EVERY
                try:
                    listed = await self.list_sessions()
                except KickError:
                    continue  # the next listing or kick reports it
                self._handle(SessionsListed(listed, late=True))
                rest = LATE_SHARE * (anyio.current_time() - began)
                await anyio.sleep(rest)

    def _late(self, channel: Channel) -> KickError:
        return KickError(channel.path, f"no answer within {self._timeout:g} s")

    def _channel(self) -> Channel | None:
        """Return the channel to use now; None: no session is ended. Logs a change of the channel."""
        wanted = self._config.kick
        channel = self._named(wanted) if wanted != "auto" else self._found()
        name = "none" if channel is None else channel.name
        if name != self._logged_channel:
            self._logged_channel = name
            if channel is not None or wanted == "none":
                self._log.info("kick_channel_changed", channel=name, socket=channel.path if channel else None)
            else:
                self._log.warning(
                    "kick_channel_changed",
                    channel=name,
                    problem="neither socket exists: sessions are not ended until Dovecot creates one",
                    ipc=self._config.ipc_socket,
                    anvil=self._config.anvil_socket,
                )
        return channel

    def _named(self, name: str) -> Channel | None:
        channels: tuple[Channel, ...] = (self._ipc, self._anvil)
        return next((channel for channel in channels if channel.name == name), None)

    def _found(self) -> Channel | None:
        """Return the channel whose socket exists; None if there is none.

        Dovecot 2.3 has an anvil socket too, with another protocol. Dovecot 2.4 has no ipc socket, except one
        that 2.3 has left and at which no process listens.
        """
        seen = (identity(self._ipc.path), identity(self._anvil.path))
        if seen != self._seen:
            self._seen = seen
            self._both = "ipc" if seen[1] is None or not _is_refused(self._ipc.path) else "anvil"
        if seen[0] is not None and (seen[1] is None or self._both == "ipc"):
            return self._ipc
        return self._anvil if seen[1] is not None else None


def _is_empty(what: KickWhat) -> bool:
    return isinstance(what, Fence) or (isinstance(what, HashOnHosts) and not what.hosts)


def _is_refused(path: str) -> bool:
    """Return whether no process listens at the socket at `path`. Returns at once."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:  # backlog full, no permission or no free descriptor: a process may listen there
        return False
    return False
