"""Kicks: sessions that the login processes of this machine proxy are ended through Dovecot's kick channel.

A kick is one attempt. What it could not do is told to the core, which knows whether it is still wanted.
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
"""Kicks under way. One more ends at once, with a problem."""


class _Kick(NamedTuple):
    number: int
    what: KickWhat
    deadline: float
    count_only: bool = False


class _Listing:
    """The sessions as they are before the kicks that share it."""

    def __init__(self, asked: float) -> None:
        self.asked = asked
        self.census = Census()
        self.ended = anyio.Event()
        self.complete = False
        self.kept_until = asked

    def counts(self, now: float) -> bool:
        """Whether it is to count a kick that begins now."""
        return not self.ended.is_set() or (self.complete and now <= self.kept_until)

    def done(self, now: float) -> None:
        """All sessions are listed."""
        self.complete = True
        self.kept_until = self.asked + min(LISTING_KEPT, KEPT_AS_LONG * (now - self.asked))


class Kicker:
    """Carries kicks out while `run` runs; each ends within `timeout` seconds, however it ends.

    The core is told of the end of each kick, and of the sessions some time after kicks by hash, which may not
    have seen everybody. Where the channel does not count sessions (2.3 tells the count of one login process
    only), they are counted in a listing just before the kick; where that cannot be had in time, its count is
    all there is.
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
        """Where both sockets are there: which of them somebody answers at."""
        self._queue: deque[_Kick | None] = deque()
        """What is to be done; None: list the sessions for the core."""
        self._work = anyio.Event()
        self._under_way = 0
        self._listing: _Listing | None = None
        self._late_work = anyio.Event()
        self._late_at = self._late_until = 0.0

    def kick(self, number: int, what: KickWhat) -> None:
        """Start a kick. Its end is told later, never from within this call."""
        self._queue.append(_Kick(number, what, anyio.current_time() + self._timeout))
        self._work.set()

    def count(self, number: int, what: KickWhat) -> None:
        """Count the sessions of this machine that a kick would end. The count is told like the end of one."""
        self._queue.append(_Kick(number, what, anyio.current_time() + self._timeout, count_only=True))
        self._work.set()

    def tell_sessions(self) -> None:
        """Tell the core what is proxied on this machine: `SessionsListed` follows, whatever comes of it."""
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
        """Where they cannot be listed, the login processes are taken to proxy nobody: it is logged."""
        try:
            listed = await self.list_sessions()
        except KickError as exc:
            note = "sessions from before the start are not compared with what is known"
            self._log.warning("sessions_not_listed", reason=str(exc), note=note)
            listed = []
        self._handle(SessionsListed(listed))

    async def list_sessions(self) -> list[ProxiedSession]:
        """The sessions that are proxied here, or connecting to their backend. None where there is no channel.

        Raises KickError where they cannot be had in time.
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
        """The channel of a Dovecot 2.3 that is just starting: it makes its anvil socket before ipc."""
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
                self._listing = None  # it may be large
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
            self._ends.add(kick.number, 0, f"{WAITING_LIMIT} kicks are under way already")
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
            pass  # the kicks that wait for it meet the same problem, and tell it
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
        census, sessions, problem = Census(), 0, ""  # of its own: in a shared one nobody is counted twice
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
                        await self._late_work.wait()  # the next look may be due earlier now
                        self._late_work = anyio.Event()
                    continue
                self._late_at = began + LATE_EVERY
                try:
                    listed = await self.list_sessions()
                except KickError:
                    continue  # at the next look, or kick, it is told
                self._handle(SessionsListed(listed, late=True))
                rest = LATE_SHARE * (anyio.current_time() - began)
                await anyio.sleep(rest)

    def _late(self, channel: Channel) -> KickError:
        return KickError(channel.path, f"no answer within {self._timeout:g} s")

    def _channel(self) -> Channel | None:
        """The channel to use now; None: nothing is ended. Says so where it is another than before."""
        wanted = self._config.kick
        channel = self._named(wanted) if wanted != "auto" else self._found()
        name = "none" if channel is None else channel.name
        if name != self._logged_channel:
            self._logged_channel = name
            if channel is not None or wanted == "none":
                self._log.info("kick_channel", channel=name, socket=channel.path if channel else None)
            else:
                self._log.warning(
                    "kick_channel",
                    channel=name,
                    problem="neither socket is there: sessions are not ended",
                    ipc=self._config.ipc_socket,
                    anvil=self._config.anvil_socket,
                )
        return channel

    def _named(self, name: str) -> Channel | None:
        channels: tuple[Channel, ...] = (self._ipc, self._anvil)
        return next((channel for channel in channels if channel.name == name), None)

    def _found(self) -> Channel | None:
        """2.3 has an anvil socket too, of another protocol; 2.4 has no ipc, but for one left by a 2.3."""
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
    """Whether nobody listens at the socket at `path`. Returns at once."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:  # full for the moment, not ours to open, no descriptor left: somebody may be there
        return False
    return False
