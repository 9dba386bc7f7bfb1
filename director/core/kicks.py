"""The kicks this director has under way: sessions that its login processes are to end.

running --Kicked, or KICK_TIMEOUT later--> over. Whoever began one keeps it and looks whether it is over; what
comes after that is ignored, so no counter can leak (director-behaviour I-9, R-9).
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import count

import msgspec

from director.core.addresses import host_id
from director.core.counters import Counters
from director.core.effects import Effect, Kick, Level, Log
from director.core.hosts import HostTable
from director.core.kicktypes import Fence, HashOnHosts, KickWhat, OnHost
from director.core.users import MOVING, User, UserTable
from director.types import Address, HostId, Now

KICK_TIMEOUT = 4.0
"""Seconds after which nobody waits for a kick any longer; it is counted and named."""
AGAIN_AFTER = 1.0
"""Seconds after which a user who may have been on his way to the old host is kicked once more (ring-rules
19)."""
DURATIONS = 1000
"""Ended kicks whose duration is kept for the metrics."""
ON_THE_WAY = 30
"""Seconds after the last login in which he may have been."""


class KickRun(msgspec.Struct):
    """One kick."""

    number: int
    what: KickWhat
    began: float
    deadline: float
    after: frozenset[int] = frozenset()
    """A fence: the kicks it waits for."""
    over: bool = False
    sessions: int = 0
    problem: str = ""


class Kicks:
    def __init__(self, hosts: HostTable, users: UserTable, counters: Counters) -> None:
        self.blind = True
        """We have just started, and do not know yet whose sessions our login processes proxy: a user who
        comes in moving may have some, though nothing is known of him."""
        self.durations: deque[float] = deque(maxlen=DURATIONS)
        """Seconds of the kicks that have ended, or were given up, and were not taken yet by the metrics."""
        self._hosts, self._users, self._counters = hosts, users, counters
        self._numbers = count(1)
        self._running: dict[int, KickRun] = {}
        self._fences: list[KickRun] = []
        self._again: list[tuple[float, int, User]] = []
        self._hosts_again: deque[tuple[float, str]] = deque()
        self._effects: list[Effect] = []

    def __len__(self) -> int:
        """Kicks under way."""
        return len(self._running)

    def start(self, what: KickWhat, now: Now) -> KickRun:
        """Begin one. A fence is over when those under way now are."""
        run = KickRun(next(self._numbers), what, now.mono, now.mono + KICK_TIMEOUT)
        if isinstance(what, Fence):
            run.after = frozenset(self._running)
            run.over = not run.after
            if not run.over:
                self._fences.append(run)
        else:
            self._running[run.number] = run
            self._effects.append(Kick(run.number, what))
        return run

    def elsewhere(self, old: User, new: User, now: Now) -> KickRun | None:
        """End the sessions that a user has on other hosts than his new one. None: he was nowhere."""
        if old.host == new.host or (old.host == 0 and not (self.blind and new.flags & MOVING)):
            return None
        if old.seen + ON_THE_WAY > now.unix:
            heapq.heappush(self._again, (now.mono + AGAIN_AFTER, next(self._numbers), old))
        return self.start(HashOnHosts(old.key >> 32, self._others(old.host, new.host)), now)

    def host(self, address: str, now: Now) -> None:
        """End the sessions to a host that was removed; those still on their way a second later."""
        self.start(OnHost(address), now)
        self._hosts_again.append((now.mono + AGAIN_AFTER, address))

    def _kick_again(self, old: User, now: Now) -> None:
        """By what is known now: he may have been moved back meanwhile."""
        new = self._users.get(old.key)
        if new is not None and new.host != old.host:
            self.start(HashOnHosts(old.key >> 32, self._others(old.host, new.host)), now)

    def _others(self, old: HostId, new: HostId) -> list[str]:
        """The old host, and all others of the pool of the user, but not the new one."""
        tags = {row.tag for row in (self._hosts.row(old), self._hosts.row(new)) if row is not None}
        return [
            row.address
            for row in self._hosts.rows.values()
            if row.tag in tags and host_id(Address(row.address)) != new
        ]

    def ended(self, number: int, sessions: int, problem: str, now: Now) -> list[Effect]:
        """What became of a kick. Of one that nobody waits for any more: nothing."""
        run = self._running.get(number)
        if run is None:
            return []
        self._counters.sessions_kicked += sessions
        if problem:
            self._counters.kicks_failed += 1
        else:
            self._counters.kicks_done += 1
        effects = self._end(run, sessions, problem, now)
        self._review_fences()
        return effects

    def _end(self, run: KickRun, sessions: int, problem: str, now: Now) -> list[Effect]:
        """It is over; a word where something is wrong."""
        del self._running[run.number]
        run.over, run.sessions, run.problem = True, sessions, problem
        self.durations.append(now.mono - run.began)
        for fence in self._fences:
            if run.number in fence.after:
                fence.sessions += sessions
                fence.problem = fence.problem or problem
        if not problem:
            return []
        return [Log(Level.WARNING, "kick_failed", {"what": described(run.what), "reason": problem})]

    def turn(self, now: Now) -> list[Effect]:
        """What is to be kicked."""
        while self._again and self._again[0][0] <= now.mono:
            self._kick_again(heapq.heappop(self._again)[2], now)
        while self._hosts_again and self._hosts_again[0][0] <= now.mono:
            self.start(OnHost(self._hosts_again.popleft()[1]), now)
        self._review_fences()
        effects, self._effects = self._effects, []
        return effects

    def overdue(self, now: Now) -> list[Effect]:
        """End those whose time is over; a word for each."""
        effects: list[Effect] = []
        for run in list(self._running.values()):
            if run.deadline > now.mono:
                break
            self._counters.kicks_timed_out += 1
            effects += self._end(run, 0, f"no answer within {KICK_TIMEOUT:.0f} s", now)
        self._review_fences()
        return effects

    @property
    def has_work(self) -> bool:
        return bool(self._effects)

    def next_deadline(self) -> float | None:
        deadlines = [again[0][0] for again in (self._again, self._hosts_again) if again]
        for run in self._running.values():
            deadlines.append(run.deadline)
            break
        return min(deadlines, default=None)

    def _review_fences(self) -> None:
        for run in self._fences:
            run.over = run.after.isdisjoint(self._running)
        self._fences = [run for run in self._fences if not run.over]


def described(what: KickWhat) -> str:
    """For the log; without user names."""
    if isinstance(what, HashOnHosts):
        return f"hash {what.hash32} on {len(what.hosts)} hosts"
    return type(what).__name__
