"""The kicks of this director: sessions that its login processes have to end.

waiting --begun--> running --KicksEnded, or KICK_TIMEOUT later--> ended. The part that began a kick keeps it
and asks whether it has ended. A result that comes later is ignored, so no counter can leak (docs/ring.md,
defect I-9 and regression R-9).

Many users may change hosts at once. So the kick channel gets at most AT_A_TIME kicks, at most AT_ONCE of them
younger than YOUNG, and at most BEGUN more in a turn of the loop. Kicks that a move or an operator waits for
go first. All other kicks wait as the user's former record, and become kicks when their turn comes.
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
from director.core.protocol.kicktypes import ByField, ByName, Fence, HashOnHosts, KickWhat, OnHost
from director.core.tables.hosts import HostTable
from director.types import Now

KICK_FAILED_NOTE = "these sessions may continue; run `director doctor` on this proxy"
KICK_TIMEOUT = 4.0
"""Seconds after which a kick is no longer waited for. It is counted and logged."""
AT_A_TIME = 128
"""Most kicks that the kick channel has at a time."""
AT_ONCE, YOUNG = 32, 0.05
"""At most so many kicks may have begun within the last so many seconds. A fast kick channel answers all its
kicks in one turn of the loop, and more kicks would not make it faster. A slow one gets more meanwhile."""
BEGUN = 25
"""Most kicks that begin in one turn of the loop."""
USUAL_HOSTS = 50
"""Hosts for which a kick counts as one more kick, because the kick channel gets a command for each host."""
LOOKED_AT = 500
"""Users looked at in one turn of the loop to decide whether a kick begins or is given up."""
AGAIN_AFTER = 1.0
"""Seconds until a second kick of a user who may have been connecting to the old host (docs/ring.md, rule
19)."""
DURATIONS = 1000
"""Ended kicks whose durations are kept for the metrics."""
ON_THE_WAY = 30
"""Seconds after the last login during which a user may still be connecting."""


class KickRun(msgspec.Struct, gc=False):
    """A kick whose result a move or an operator waits for, or a kick in progress."""

    number: int
    what: KickWhat
    began: float
    deadline: float
    over: bool = False
    sessions: int = 0
    problem: str = ""
    count_only: bool = False
    """Whether its sessions are only counted."""


class _Later(msgspec.Struct, gc=False):
    """A kick that has not begun, and whose result no move and no operator waits for."""

    number: int
    what: KickWhat | None
    old: bytes = b""
    """The user's packed record from before the change of host; empty: `what` says it. When the kick begins,
    the sessions to end are found from it."""
    twice: bool = False
    """Whether a second kick follows."""


class Kicks:
    def __init__(self, hosts: HostTable, users: UserTable, counters: Counters) -> None:
        self.blind = True
        """Whether this director has just started and does not know its login processes' sessions yet. A user
        whose record comes in with MOVING may then have sessions here, even if no former record is known."""
        self.durations: deque[float] = deque(maxlen=DURATIONS)
        """Seconds of the kicks that have ended or were given up, and that the metrics have not taken yet."""
        self._hosts, self._users, self._counters = hosts, users, counters
        self._numbers = count(1)
        self._clock_unsure_until = float("-inf")
        self._running: dict[int, KickRun] = {}
        """Kicks that the kick channel has. They are in the order of their deadlines, except those that waited
        long."""
        self._awaited: deque[KickRun] = deque()
        """Kicks that have not begun, in the order of their deadlines."""
        self._later: deque[_Later] = deque()
        self._fences: list[KickRun] = []
        self._again: deque[tuple[float, bytes, bool]] = deque()
        """For each second kick: its monotonic time, the user's former record, whether a move waits for it."""
        self._hosts_again: deque[tuple[float, str]] = deque()
        self._begun_at: deque[float] = deque(maxlen=AT_ONCE)
        """Monotonic times at which the last AT_ONCE kicks began."""
        self._first_deadline = float("inf")
        """Monotonic time before which no running kick is overdue."""
        self._to_begin, self._to_look_at = BEGUN, LOOKED_AT
        """How many kicks may begin, and users be looked at, in the rest of this turn of the loop."""
        self._unfinished = False
        """Whether something is left for the next turn of the loop."""

    def __len__(self) -> int:
        """Return how many kicks are under way."""
        return len(self._running) + len(self._awaited) + len(self._later)

    def new_turn(self) -> None:
        """Begin a turn of the loop: its limits of work are unused."""
        self._to_begin, self._to_look_at = BEGUN, LOOKED_AT

    def start(self, what: KickWhat, now: Now, *, count_only: bool = False) -> KickRun:
        """Begin a kick whose result a move or an operator waits for.

        A fence ends when all kicks that are under way now have ended.

        Args:
            what: the sessions.
            count_only: whether the sessions are only counted.
        """
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
        """Queue a kick whose result no move and no operator waits for."""
        self._later.append(_Later(next(self._numbers), what))

    def elsewhere(self, old: User, new: User, now: Now) -> KickRun | None:
        """End the sessions of a user on all hosts but the new one.

        Returns:
            The kick; None: there are no sessions, or nothing waits for the kick because the user is not
            moving.
        """
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
        """Note that the clock has stepped: another clock gave the times of recent logins."""
        self._clock_unsure_until = now.mono + ON_THE_WAY

    def host(self, address: str, now: Now) -> None:
        """End the sessions on a host that was removed, and a second later those that were still
        connecting."""
        self.start(OnHost(address), now)
        self._hosts_again.append((now.mono + AGAIN_AFTER, address))

    def _elsewhere_now(self, record: bytes) -> KickWhat | None:
        """Return which sessions of a user on former hosts are to be ended now; None: none.

        The user may have been moved to the old host again meanwhile, or the record may have been dropped.

        Args:
            record: the user's former record, packed.
        """
        (old,) = unpack(record)
        new = self._users.get(old.key)
        if new is None or new.host == old.host:
            return None
        return HashOnHosts(old.key >> 32, self._hosts.other_addresses(old.host, new.host))

    def ended(self, ends: Iterable[Kicked], now: Now) -> list[Effect]:
        """Take the results of kicks. The result of a kick that is no longer waited for is ignored."""
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
        """Count the result for the metrics."""
        self._counters.sessions_kicked += end.sessions
        if end.problem:
            self._counters.kicks_failed += 1
        else:
            self._counters.kicks_done += 1

    def _end(self, run: KickRun, sessions: int, problem: str, now: Now) -> list[Effect]:
        """End a kick. Returns a log event if there was a problem."""
        self._running.pop(run.number, None)
        run.over, run.sessions, run.problem = True, sessions, problem
        if run.count_only:
            note = "the dry run of a kick names this director and counts without its sessions"
            fields = {"what": described(run.what), "reason": problem, "note": note}
            return [LogEvent(Level.WARNING, "sessions_not_counted", fields)] if problem else []
        self.durations.append(now.mono - run.began)
        for fence in self._fences:
            if run.number < fence.number:
                fence.sessions += sessions
                fence.problem = fence.problem or problem
        if not problem:
            return []
        fields = {"what": described(run.what), "reason": problem, "note": KICK_FAILED_NOTE}
        return [LogEvent(Level.WARNING, "kick_failed", fields)]

    def turn(self, now: Now) -> list[Effect]:
        """Return the kicks that the kick channel gets in this turn of the loop."""
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
        """Whether this turn may give the kick channel another kick."""
        room_at = self._room_at()
        return self._to_begin > 0 and room_at is not None and room_at <= now.mono

    def _room_at(self) -> float | None:
        """Return when the kick channel may get another kick, in monotonic seconds; 0: now; None: when a kick
        has ended."""
        if len(self._running) < AT_ONCE:
            return 0.0
        return self._begun_at[0] + YOUNG if len(self._running) < AT_A_TIME else None

    def _run(self, run: KickRun, now: Now) -> Effect:
        """Return the effect that gives a kick to the kick channel."""
        self._running[run.number] = run
        self._begun_at.append(now.mono)
        self._first_deadline = min(self._first_deadline, run.deadline)
        self._to_begin -= 1 + (len(run.what.hosts) // USUAL_HOSTS if isinstance(run.what, HashOnHosts) else 0)
        return (CountSessions if run.count_only else Kick)(run.number, run.what)

    def overdue(self, now: Now) -> list[Effect]:
        """End the kicks whose time-out has passed, and log each.

        A kick that has not begun by then is still done later.
        """
        effects: list[Effect] = []
        while self._awaited and self._awaited[0].deadline <= now.mono and self._to_look_at > 0:
            run = self._awaited.popleft()
            self._to_look_at -= 1
            effects += self._end(
                run,
                0,
                f"not begun within {KICK_TIMEOUT:.0f} s: too many kicks at once; it is done later",
                now,
            )
            if not run.count_only:
                self._counters.kicks_timed_out += 1
                self.later(run.what)
        if self._first_deadline <= now.mono:
            for run in [run for run in self._running.values() if run.deadline <= now.mono]:
                self._counters.kicks_timed_out += not run.count_only
                effects += self._end(
                    run, 0, f"the kick channel did not answer within {KICK_TIMEOUT:.0f} s", now
                )
            deadlines = (run.deadline for run in self._running.values())
            self._first_deadline = min(deadlines, default=float("inf"))
        self._fences = [run for run in self._fences if run.deadline > now.mono]
        self._review_fences()
        return effects

    @property
    def has_work(self) -> bool:
        """Whether the next turn of the loop can begin something."""
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
        """Return the number of the oldest kick under way."""
        first = min(self._running, default=float("inf"))
        waiting = [queue[0].number for queue in (self._awaited, self._later) if queue]
        return min([first, *waiting])


def described(what: KickWhat) -> str:
    """Return a description for the log, without user names."""
    if isinstance(what, HashOnHosts):
        return f"hash {what.hash32} on {len(what.hosts)} hosts"
    match what:
        case OnHost(host):
            return f"all sessions on {host}"
        case ByField(field):
            return f"a value of {field}"
        case ByName():
            return "a user's name"
        case Fence():
            return "no session"
