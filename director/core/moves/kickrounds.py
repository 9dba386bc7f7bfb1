"""Operators' kicks on all directors: by name, by field, by hash, of a host, or a fence that waits for the
kicks that records have caused. A dry run goes round in the same way and counts the sessions instead of ending
them.

    lap 1 begins the kick on each director --it returns--> lap 2 passes a director when its kick has ended
    --it returns--> the result

At most `max_parallel_kicks` kicks are under way at a time. The others wait in the order in which they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice

import msgspec

from director.core.moves.kicks import KickRun, Kicks
from director.core.protocol.effects import Effect, Send
from director.core.protocol.kicktypes import MOST_COUNTED, Fence, KickWhat
from director.core.protocol.messages import KickRound
from director.core.protocol.ringtimings import NO_NEIGHBOUR, ROUND_AGAIN
from director.core.protocol.view import RingView
from director.types import MemberId, Now

FORGOTTEN = 200
"""Kicks of other directors that a turn of the loop forgets at most."""
LASTS = 30.0
"""Seconds after which a kick ends, whichever directors have not confirmed it, and for which directors
remember it."""
MOST_REMEMBERED = 20_000
"""Kicks of other directors that are remembered at a time."""


class KickResult(msgspec.Struct):
    kicked: int
    late: bool
    """Whether the kick was not done in time on some director."""
    not_reached: set[MemberId]
    not_counted: set[MemberId] = msgspec.field(default_factory=set)
    """Directors that have not counted their sessions, if sessions were only to be counted."""


class _LedKick(msgspec.Struct):
    serial: int
    what: KickWhat
    began: float
    done: Callable[[KickResult], None]
    count_only: bool
    run: KickRun | None = None
    lap: int = 1
    repeat_at: float = 0.0
    passed: frozenset[MemberId] = frozenset()


class _JoinedKick(msgspec.Struct):
    """A kick of another director."""

    run: KickRun
    until: float
    token: KickRound
    """The last token of the kick."""


class KickRounds:
    def __init__(self, me: MemberId, first_serial: int, kicks: Kicks, max_parallel: int) -> None:
        self._me, self._serial, self._kicks, self.max_parallel = me, first_serial, kicks, max_parallel
        self._queue: deque[_LedKick] = deque()
        self._led: dict[int, _LedKick] = {}
        self._joined: dict[tuple[str, int], _JoinedKick] = {}
        """Kicks of other directors, by origin and serial, in the order in which they are forgotten."""
        self._holding: dict[tuple[str, int], _JoinedKick] = {}
        """Those of `_joined` whose tokens wait here."""
        self._at: float | None = None

    def __len__(self) -> int:
        """Return how many kicks of this director's operators have not ended."""
        return len(self._led) + len(self._queue)

    @property
    def full(self) -> bool:
        return len(self._led) >= self.max_parallel

    def begin(
        self, what: KickWhat, done: Callable[[KickResult], None], now: Now, *, count_only: bool = False
    ) -> None:
        """Begin a kick on all directors.

        Args:
            what: the sessions.
            done: called once with the result, within LASTS after the kick has begun.
            count_only: whether the sessions are only counted.
        """
        self._serial += 1
        self._queue.append(_LedKick(self._serial, what, now.mono, done, count_only))
        self._at = now.mono

    def token(self, token: KickRound, now: Now, view: RingView) -> None:
        """Take a token from the left neighbour."""
        self._at = now.mono
        if token.origin == self._me:
            led = self._led.get(token.serial)
            if led is None or led.lap != token.lap:
                return
            led.passed = frozenset(MemberId(member) for member in token.passed)
            if token.lap == 1:
                led.lap, led.repeat_at = 2, now.mono
            else:
                self._second_lap_returned(led, token, view)
            return
        if self._me in token.passed:
            return
        name = token.origin, token.serial
        joined = self._joined.get(name)
        if joined is None and len(self._joined) >= MOST_REMEMBERED:
            return  # the origin repeats the token
        if joined is None:
            run = self._kicks.start(token.count or token.what, now, count_only=token.count is not None)
            joined = self._joined[name] = _JoinedKick(run, now.mono + LASTS, token)
        joined.token = token
        self._holding[name] = joined

    def kicked(self, now: Now) -> None:
        """Note that a kick on this director has ended."""
        if self._led or self._joined:
            self._at = now.mono

    @property
    def has_work(self) -> bool:
        return False  # one turn does everything that is due

    def next_deadline(self) -> float | None:
        return self._at

    def turn(self, now: Now, view: RingView) -> list[Effect]:
        if self._at is None or now.mono < self._at:
            return []
        effects = self._pass_on(now, view)
        while self._queue and not self.full:
            led = self._queue.popleft()
            led.began = led.repeat_at = now.mono
            led.run = self._kicks.start(led.what, now, count_only=led.count_only)
            self._led[led.serial] = led
        for led in list(self._led.values()):
            effects += self._advance(led, now, view)
        for name in [
            name for name, joined in islice(self._joined.items(), FORGOTTEN) if now.mono >= joined.until
        ]:
            del self._joined[name]
        deadlines = [min(led.began + LASTS, self._due(led)) for led in self._led.values()]
        deadlines += [joined.run.deadline for joined in self._holding.values()]
        deadlines += [joined.until for joined in islice(self._joined.values(), 1)]
        self._at = min(deadlines, default=None)
        return effects

    def _due(self, led: _LedKick) -> float:
        """Return when the token is sent (again): in the second lap not before this director's own kick has
        ended."""
        run = led.run
        assert run is not None
        return run.deadline if led.lap == 2 and not run.over else led.repeat_at

    def _advance(self, led: _LedKick, now: Now, view: RingView) -> list[Effect]:
        run = led.run
        assert run is not None
        missing = set(view.listed) - led.passed - {self._me}
        if now.mono >= led.began + LASTS:
            uncounted = self._others(view) | ({self._me} if run.problem or not run.over else set())
            self._end(led, KickResult(run.sessions, True, missing, uncounted))
            return []
        if view.right is None and view.alone:
            led.lap = 2
        if now.mono < self._due(led):
            return []
        led.repeat_at = now.mono + (NO_NEIGHBOUR if view.right is None else ROUND_AGAIN)
        late: list[str] = [self._me] if led.lap == 2 and (run.problem or not run.over) else []
        kicked = run.sessions if led.lap == 2 else 0
        if view.right is not None:
            what, count = (Fence(), led.what) if led.count_only else (led.what, None)
            token = KickRound(
                origin=self._me,
                serial=led.serial,
                lap=led.lap,
                what=what,
                passed=[self._me],
                late=late,
                kicked=kicked,
                count=count,
            )
            return [Send(view.right, [token])]
        if view.alone:
            self._end(led, KickResult(kicked, bool(late), missing, missing | set(map(MemberId, late))))
        return []

    def _second_lap_returned(self, led: _LedKick, token: KickRound, view: RingView) -> None:
        """End a kick whose second lap has returned."""
        missing = set(view.listed) - led.passed
        sessions, uncounted = token.kicked, missing | set(map(MemberId, token.late))
        # a director of an older release has counted nothing, and has dropped `count` from the token
        if led.count_only and token.count is None:
            assert led.run is not None
            sessions, uncounted = led.run.sessions, self._others(view) | (uncounted & {self._me})
        self._end(led, KickResult(sessions, bool(token.late), missing, uncounted))

    def _others(self, view: RingView) -> set[MemberId]:
        return set(view.listed) - {self._me}

    def _pass_on(self, now: Now, view: RingView) -> list[Effect]:
        effects: list[Effect] = []
        for name, joined in list(self._holding.items()):
            token, run = joined.token, joined.run
            if token.lap == 2 and not run.over and now.mono < run.deadline:
                continue
            del self._holding[name]
            if view.right is None:
                continue  # the token is lost; its origin repeats it
            late = [self._me] if token.lap == 2 and (run.problem or not run.over) else []
            kicked = run.sessions if token.lap == 2 else 0
            onward = KickRound(
                origin=token.origin,
                serial=token.serial,
                lap=token.lap,
                what=token.what,
                passed=[*token.passed, self._me],
                late=[*token.late, *late],
                kicked=min(token.kicked + kicked, MOST_COUNTED),
                count=token.count,
            )
            effects.append(Send(view.right, [onward]))
        return effects

    def _end(self, led: _LedKick, result: KickResult) -> None:
        del self._led[led.serial]
        if not led.count_only:
            result.not_counted.clear()
        led.done(result)
