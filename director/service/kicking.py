"""Kicks: sessions that the login processes of this machine proxy are ended through Dovecot's kick channel.

A kick is one attempt. What it could not do is told to its owner, who knows whether it is still wanted.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import anyio
import anyio.abc

from director.core.kicktypes import KickWhat, ProxiedSession
from director.errors import KickError
from director.net.ipc import Ipc
from director.service.config import DovecotConfig
from director.service.log import Log
from director.wire.kick import LIST, Census, SessionList, kick_requests

TIMEOUT = 4.0
"""Seconds after which a kick or a listing that is not done has failed."""
LISTING_KEPT = 0.25
"""Seconds for which one listing counts the sessions of all kicks, at most."""
KEPT_AS_LONG = 10
"""So many times as long as it took a listing is kept: it does not know the sessions begun since. One that is
had in no time is soon had anew, and many kicks one by one still spend a tenth of the time on listings."""
LISTING_WAIT = 0.25
"""Seconds after which a kick does not wait any more for the listing that counts it."""
WAITING_LIMIT = 10_000
"""Kicks under way. One more ends at once, with a problem."""


class _Kick(NamedTuple):
    number: int
    what: KickWhat
    deadline: float


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

    ended: is told of the end of each kick: its number, how many sessions it ended, and the problem (empty:
    done). The sessions are counted in a listing just before the kick, since the channel tells the count of
    one login process only; where the listing cannot be had in time, that count is all there is.
    """

    def __init__(
        self,
        config: DovecotConfig,
        log: Log,
        ended: Callable[[int, int, str], None],
        *,
        timeout: float = TIMEOUT,
    ) -> None:
        self._config, self._log, self._ended, self._timeout = config, log, ended, timeout
        self._ipc = Ipc(config.ipc_socket)
        self._channel = ""
        self._queue: deque[_Kick] = deque()
        self._work = anyio.Event()
        self._under_way = 0
        self._listing: _Listing | None = None

    def kick(self, number: int, what: KickWhat) -> None:
        """Start a kick. Its end is told later, never from within this call."""
        self._queue.append(_Kick(number, what, anyio.current_time() + self._timeout))
        self._work.set()

    async def run(self) -> None:
        """Carry out kicks until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                while True:
                    await self._wait_for_work()
                    while self._queue:
                        self._begin(self._queue.popleft(), tasks)
        finally:
            self._ipc.close()

    async def list_sessions(self) -> list[ProxiedSession]:
        """The sessions that are proxied here, or connecting to their backend. None where there is no channel.

        Raises KickError where they cannot be had in time.
        """
        if not self._has_channel():
            return []
        listed = SessionList()
        try:
            with anyio.fail_after(self._timeout):
                async with self._ipc.connection() as connection:
                    await connection.ask([LIST], listed.add)
        except TimeoutError as exc:
            raise self._late() from exc
        return listed.sessions

    async def _wait_for_work(self) -> None:
        while not self._queue:
            self._work = anyio.Event()
            with anyio.move_on_after(LISTING_KEPT):
                await self._work.wait()
                return
            if not self._under_way:
                self._listing = None  # it may be large
                await self._work.wait()

    def _begin(self, kick: _Kick, tasks: anyio.abc.TaskGroup) -> None:
        requests = kick_requests(kick.what)
        if not requests or not self._has_channel():
            self._ended(kick.number, 0, "")
        elif self._under_way >= WAITING_LIMIT:
            self._ended(kick.number, 0, f"{WAITING_LIMIT} kicks are under way already")
        else:
            listing, now = self._listing, anyio.current_time()
            if listing is None or not listing.counts(now):
                self._listing = listing = _Listing(now)
                tasks.start_soon(self._list, listing)
            self._under_way += 1
            tasks.start_soon(self._carry_out, kick, requests, listing)

    async def _list(self, listing: _Listing) -> None:
        try:
            with anyio.move_on_after(self._timeout):
                async with self._ipc.connection() as connection:
                    await connection.ask([LIST], listing.census.add)
                    listing.done(anyio.current_time())
        except KickError:
            pass  # the kicks that wait for it meet the same problem, and tell it
        finally:
            listing.ended.set()

    async def _carry_out(self, kick: _Kick, requests: list[bytes], listing: _Listing) -> None:
        sessions, problem = 0, ""
        try:
            with anyio.fail_after(kick.deadline - anyio.current_time()):
                with anyio.move_on_after(listing.asked + LISTING_WAIT - anyio.current_time()):
                    await listing.ended.wait()
                counted = listing.complete
                async with self._ipc.connection() as connection:
                    sessions = await connection.ask(requests)
                if counted:
                    sessions = max(sessions, listing.census.take(kick.what))
        except TimeoutError:
            problem = str(self._late())
        except KickError as exc:
            problem = str(exc)
        self._under_way -= 1
        self._ended(kick.number, sessions, problem)

    def _late(self) -> KickError:
        return KickError(self._ipc.path, f"no answer within {self._timeout:g} s")

    def _has_channel(self) -> bool:
        wanted = self._config.kick
        there = wanted == "ipc" or (wanted == "auto" and os.path.exists(self._config.ipc_socket))
        channel = "ipc" if there else "none"
        if channel != self._channel:
            self._channel = channel
            write = self._log.warning if wanted == "auto" and not there else self._log.info
            write(
                "kick_channel", channel=channel, socket=self._config.ipc_socket if wanted != "none" else None
            )
        return there
