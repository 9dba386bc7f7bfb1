"""The kicks this director has under way: sessions that its login processes are to end.

waiting --begun--> running --KicksEnded, or KICK_TIMEOUT later--> over. Whoever began one keeps it and looks
whether it is over; what comes after that is ignored, so no counter can leak (docs/ring.md, defect I-9 and
regression R-9).

Many users may change hosts at once. The kick channel has AT_A_TIME kicks at most, AT_ONCE of them younger
than YOUNG, and gets BEGUN more in a turn of the loop. Kicks that a move or an operator waits for go first.
The others, which nothing waits for, are kept as the record of the user before, and become kicks when it is
their turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import count

import msgspec

from director.core.placement.users import MOVING, RECORD, User, UserTable, unpack
from director.core.protocol.counters import Counters
from director.core.protocol.effects import CountSessions, Effect, Kick, Level, LogEvent
from director.core.protocol.events import Kicked
from director.core.protocol.kicktypes import Fence, HashOnHosts, KickWhat, OnHost
from director.core.tables.hosts import HostTable
from director.types import Now

KICK_TIMEOUT = 4.0
"""Seconds after which nobody waits for a kick any longer; it is counted and named."""
AT_A_TIME = 128
"""Kicks that the kick channel is given at a time."""
AT_ONCE, YOUNG = 32, 0.05
"""So many of these may have begun within the last so many seconds. A fast kick channel answers all that it
was given in one turn of the loop, and is no faster with more of them; a slow one gets more meanwhile."""
BEGUN = 25
"""Kicks begun in one turn of the loop."""
USUAL_HOSTS = 50
"""A kick on so many more hosts counts for one more: the kick channel is told each of them."""
LOOKED_AT = 500
"""Users in one turn of the loop who are looked at whether they are to be kicked, or given up waiting for."""
AGAIN_AFTER = 1.0
"""Seconds after which a user who may have been on his way to the old host is kicked once more (docs/ring.md,
rule 19)."""
DURATIONS = 1000
"""Ended kicks whose duration is kept for the metrics."""
ON_THE_WAY = 30
"""Seconds after the last login in which he may have been."""


class KickRun(msgspec.Struct, gc=False):
    """One kick that something waits for, or that runs."""

    number: int
    what: KickWhat
    began: float
    deadline: float
    over: bool = False
    sessions: int = 0
    problem: str = ""
    count_only: bool = False
    """Its sessions are counted, not ended."""


class _Later(msgspec.Struct, gc=False):
    """A kick that nothing waits for and that has not begun."""

    number: int
    what: KickWhat | None
    old: bytes = b""
    """The packed record of a user before the change of hosts that is the reason; what is to be ended is
    decided when it begins."""
    twice: bool = False
    """A second one follows."""


class Kicks:
    def __init__(self, hosts: HostTable, users: UserTable, counters: Counters) -> None:
        self.blind = True
        """We have just started, and do not know yet whose sessions our login processes proxy: a user who
        comes in moving may have some, though nothing is known of him."""
        self.durations: deque[float] = deque(maxlen=DURATIONS)
        """Seconds of the kicks that have ended, or were given up, and were not taken yet by the metrics."""
        self._hosts, self._users, self._counters = hosts, users, counters
        self._numbers = count(1)
        self._clock_unsure_until = float("-inf")
        self._running: dict[int, KickRun] = {}
        """Given to the kick channel, in the order of their deadlines but for those that waited long."""
        self._awaited: deque[KickRun] = deque()
        """Not begun, in the order of their deadlines."""
        self._later: deque[_Later] = deque()
        self._fences: list[KickRun] = []
        self._again: deque[tuple[float, bytes, bool]] = deque()
        """When a user is kicked once more, the record before, and whether a move waits for it."""
        self._hosts_again: deque[tuple[float, str]] = deque()
        self._begun_at: deque[float] = deque(maxlen=AT_ONCE)
        """When the last AT_ONCE kicks were given to the kick channel."""
        self._first_deadline = float("inf")
        """Before it none of the running ones is overdue."""
        self._to_begin, self._to_look_at = BEGUN, LOOKED_AT
        """Kicks, and users, that this turn of the loop has room for."""
        self._unfinished = False
        """Something was left over for the next turn."""

    def __len__(self) -> int:
        """Kicks under way."""
        return len(self._running) + len(self._awaited) + len(self._later)

    def new_turn(self) -> None:
        """What one turn of the loop may do starts anew."""
        self._to_begin, self._to_look_at = BEGUN, LOOKED_AT

    def start(self, what: KickWhat, now: Now, *, count_only: bool = False) -> KickRun:
        """Begin a kick that something waits for. A fence is over when those under way now are.

        count_only: end nothing."""
        deadline = now.mono + KICK_TIMEOUT
        run = KickRun(next(self._numbers), what, now.mono, deadline, count_only=count_only)
        if isinstance(what, Fence):
            run.over = not len(self)
            if not run.over:
                self._fences.append(run)
        else:
            self._awaited.append(run)
        return run

    def later(self, what: KickWhat) -> None:
        """Begin a kick that nothing waits for, when its turn comes."""
        self._later.append(_Later(next(self._numbers), what))

    def elsewhere(self, old: User, new: User, now: Now) -> KickRun | None:
        """End the sessions that a user has on other hosts than the new one. None: there are none, or nothing
        waits for that, because the user is settled."""
        if old.host == new.host or (old.host == 0 and not (self.blind and new.flags & MOVING)):
            return None
        twice = old.seen + ON_THE_WAY > now.unix or now.mono < self._clock_unsure_until
        if not new.flags & MOVING:
            self._later.append(_Later(next(self._numbers), None, RECORD.pack(*old), twice))
            return None
        if twice:
            self._again.append((now.mono + AGAIN_AFTER, RECORD.pack(*old), True))
        return self.start(HashOnHosts(old.key >> 32, self._hosts.other_addresses(old.host, new.host)), now)

    def clock_stepped(self, now: Now) -> None:
        """Users that have just logged in were seen by another clock."""
        self._clock_unsure_until = now.mono + ON_THE_WAY

    def host(self, address: str, now: Now) -> None:
        """End the sessions to a host that was removed; those still on their way a second later."""
        self.start(OnHost(address), now)
        self._hosts_again.append((now.mono + AGAIN_AFTER, address))

    def _elsewhere_now(self, record: bytes) -> KickWhat | None:
        """What is to be ended of a user who was on another host, by what is known now: the user may have been
        moved back meanwhile, or be gone."""
        (old,) = unpack(record)
        new = self._users.get(old.key)
        if new is None or new.host == old.host:
            return None
        return HashOnHosts(old.key >> 32, self._hosts.other_addresses(old.host, new.host))

    def ended(self, ends: Iterable[Kicked], now: Now) -> list[Effect]:
        """What became of kicks. Of one that nobody waits for any more: nothing."""
        effects: list[Effect] = []
        for end in ends:
            run = self._running.get(end.kick)
            if run is None:
                continue
            if not run.count_only:
                self._count(end)
            effects += self._end(run, end.sessions, end.problem, now)
        self._review_fences()
        return effects

    def _count(self, end: Kicked) -> None:
        """For the metrics."""
        self._counters.sessions_kicked += end.sessions
        if end.problem:
            self._counters.kicks_failed += 1
        else:
            self._counters.kicks_done += 1

    def _end(self, run: KickRun, sessions: int, problem: str, now: Now) -> list[Effect]:
        """It is over; a word where something is wrong."""
        self._running.pop(run.number, None)
        run.over, run.sessions, run.problem = True, sessions, problem
        if run.count_only:
            fields = {"what": described(run.what), "reason": problem}
            return [LogEvent(Level.WARNING, "sessions_not_counted", fields)] if problem else []
        self.durations.append(now.mono - run.began)
        for fence in self._fences:
            if run.number < fence.number:
                fence.sessions += sessions
                fence.problem = fence.problem or problem
        if not problem:
            return []
        return [LogEvent(Level.WARNING, "kick_failed", {"what": described(run.what), "reason": problem})]

    def turn(self, now: Now) -> list[Effect]:
        """Give the kick channel the kicks it has room for."""
        while self._again and self._again[0][0] <= now.mono and self._to_look_at > 0:
            _, record, awaited = self._again.popleft()
            self._to_look_at -= 1
            self._kick_again(record, now, awaited=awaited)
        self._unfinished = bool(self._again) and self._again[0][0] <= now.mono
        while self._hosts_again and self._hosts_again[0][0] <= now.mono:
            self.start(OnHost(self._hosts_again.popleft()[1]), now)
        effects = self._begin(now)
        self._review_fences()
        return effects

    def _kick_again(self, record: bytes, now: Now, *, awaited: bool) -> None:
        if not awaited:
            self._later.append(_Later(next(self._numbers), None, record))
        elif (what := self._elsewhere_now(record)) is not None:
            self.start(what, now)

    def _begin(self, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        while self._awaited and self._has_room(now):
            effects.append(self._run(self._awaited.popleft(), now))
        while self._later and self._to_look_at > 0 and self._has_room(now):
            later = self._later.popleft()
            self._to_look_at -= 1
            what = self._elsewhere_now(later.old) if later.old else later.what
            if what is not None:
                if later.twice:
                    self._again.append((now.mono + AGAIN_AFTER, later.old, False))
                run = KickRun(later.number, what, now.mono, now.mono + KICK_TIMEOUT)
                effects.append(self._run(run, now))
        return effects

    def _has_room(self, now: Now) -> bool:
        """Whether this turn may give the kick channel one more."""
        room_at = self._room_at()
        return self._to_begin > 0 and room_at is not None and room_at <= now.mono

    def _room_at(self) -> float | None:
        """When the kick channel may be given one more; 0: now; None: when one has ended."""
        if len(self._running) < AT_ONCE:
            return 0.0
        return self._begun_at[0] + YOUNG if len(self._running) < AT_A_TIME else None

    def _run(self, run: KickRun, now: Now) -> Effect:
        """Give one to the kick channel."""
        self._running[run.number] = run
        self._begun_at.append(now.mono)
        self._first_deadline = min(self._first_deadline, run.deadline)
        self._to_begin -= 1 + (len(run.what.hosts) // USUAL_HOSTS if isinstance(run.what, HashOnHosts) else 0)
        return (CountSessions if run.count_only else Kick)(run.number, run.what)

    def overdue(self, now: Now) -> list[Effect]:
        """End those whose time is over; a word for each. What has not begun by then is begun later all the
        same."""
        effects: list[Effect] = []
        while self._awaited and self._awaited[0].deadline <= now.mono and self._to_look_at > 0:
            run = self._awaited.popleft()
            self._to_look_at -= 1
            effects += self._end(run, 0, f"not begun within {KICK_TIMEOUT:.0f} s: too many at once", now)
            if not run.count_only:
                self._counters.kicks_timed_out += 1
                self.later(run.what)
        if self._first_deadline <= now.mono:
            for run in [run for run in self._running.values() if run.deadline <= now.mono]:
                self._counters.kicks_timed_out += not run.count_only
                effects += self._end(run, 0, f"no answer within {KICK_TIMEOUT:.0f} s", now)
            deadlines = (run.deadline for run in self._running.values())
            self._first_deadline = min(deadlines, default=float("inf"))
        self._fences = [run for run in self._fences if run.deadline > now.mono]
        self._review_fences()
        return effects

    @property
    def has_work(self) -> bool:
        """Whether the next turn of the loop has something to begin."""
        may_begin = self._room_at() == 0.0 and bool(self._awaited or self._later)
        return may_begin or self._unfinished

    def next_deadline(self) -> float | None:
        deadlines = [again[0][0] for again in (self._again, self._hosts_again) if again]
        if self._running:
            deadlines.append(self._first_deadline)
        if self._awaited:
            deadlines.append(self._awaited[0].deadline)
        if (self._awaited or self._later) and (room_at := self._room_at()) is not None:
            deadlines.append(room_at)
        return min(deadlines, default=None)

    def _review_fences(self) -> None:
        if self._fences:
            first = self._first_number()
            for run in self._fences:
                run.over = run.number < first
            self._fences = [run for run in self._fences if not run.over]

    def _first_number(self) -> float:
        """That of the first of the kicks under way."""
        first = min(self._running, default=float("inf"))
        waiting = [queue[0].number for queue in (self._awaited, self._later) if queue]
        return min([first, *waiting])


def described(what: KickWhat) -> str:
    """For the log; without user names."""
    if isinstance(what, HashOnHosts):
        return f"hash {what.hash32} on {len(what.hosts)} hosts"
    return type(what).__name__
