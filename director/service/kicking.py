"""Kicks: sessions that the login processes of this machine proxy are ended through Dovecot's kick channel.

A kick is one attempt. What it could not do is told to its owner, who knows whether it is still wanted.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import anyio

from director.core.kicktypes import KickWhat, ProxiedSession
from director.errors import KickError
from director.net.ipc import Answer, Ipc, IpcConnection
from director.service.config import DovecotConfig
from director.service.log import Log
from director.wire.kick import LIST, Census, SessionList, kick_requests

TIMEOUT = 4.0
"""Seconds after which a kick or a listing that is not done has failed."""
LISTING_KEPT = 0.25
"""Seconds for which one listing counts the sessions of all kicks."""
WAITING_LIMIT = 10_000
"""Kicks under way. One more ends at once, with a problem."""


class _Kick(NamedTuple):
    number: int
    what: KickWhat
    deadline: float


class _Listing(NamedTuple):
    """The sessions as they were before the kicks that share it."""

    connection: IpcConnection
    answer: Answer
    census: Census
    asked: float


class Kicker:
    """Carries kicks out while `run` runs; each ends within `timeout` seconds, however it ends.

    ended: is told of the end of each kick: its number, how many sessions it ended, and the problem (empty:
    done). The sessions are those of a listing just before the kick, since the channel tells the count of one
    login process only; where it cannot be had, that count is all there is.
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
                        kick = self._queue.popleft()
                        if self._under_way >= WAITING_LIMIT:
                            self._ended(kick.number, 0, f"{WAITING_LIMIT} kicks are under way already")
                        else:
                            self._under_way += 1
                            tasks.start_soon(self._carry_out, kick)
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
                connection = await self._ipc.connection()
                await _all_of(connection, [connection.ask(LIST, listed.add)])
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

    async def _carry_out(self, kick: _Kick) -> None:
        sessions, problem = 0, ""
        try:
            with anyio.fail_after(kick.deadline - anyio.current_time()):
                sessions = await self._end_sessions(kick.what)
        except TimeoutError:
            problem = str(self._late())
        except KickError as exc:
            problem = str(exc)
        self._under_way -= 1
        self._ended(kick.number, sessions, problem)

    async def _end_sessions(self, what: KickWhat) -> int:
        """How many were ended. Raises KickError."""
        requests = kick_requests(what)
        if not requests or not self._has_channel():
            return 0
        connection = await self._ipc.connection()
        listing = self._listed(connection)
        answers = [connection.ask(request) for request in requests]
        try:
            told = await _all_of(connection, answers)
        finally:
            if not connection.open:  # else it would be kept for the listing alone
                listing.answer.drop()
                connection.retire()
        try:
            await listing.answer.count()  # asked before the kick, so it has ended
        except KickError:
            return told
        return max(listing.census.take(what), told)

    def _listed(self, connection: IpcConnection) -> _Listing:
        """The listing that counts for a kick that is sent now."""
        now, kept = anyio.current_time(), self._listing
        if (
            kept is None
            or kept.connection is not connection
            or (kept.answer.ended and now > kept.asked + LISTING_KEPT)
        ):
            census = Census()
            kept = _Listing(connection, connection.ask(LIST, census.add), census, now)
            self._listing = kept
        return kept

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


async def _all_of(connection: IpcConnection, answers: list[Answer]) -> int:
    """The sum of their numbers. Raises KickError. Whoever gives up leaves a connection to nobody else."""
    try:
        return sum([await answer.count() for answer in answers])
    finally:
        for answer in answers:
            answer.drop()
        if not all(answer.ended for answer in answers):
            connection.retire()
