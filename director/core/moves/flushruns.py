"""Runs of the flush program, one for each user who has left a host: which are to start, and which are under
way."""

from __future__ import annotations

from collections.abc import Iterator

from director.core.moves.movestate import LedMove, Stage
from director.core.protocol.counters import Counters
from director.core.protocol.effects import Effect, RunFlush, StopFlush
from director.core.tables.hosts import HostTable

IN_A_TURN = 3
"""Flush programs that start in one turn of the loop. Each takes the operating system a millisecond."""


class FlushRuns:
    def __init__(self, serials: Iterator[int], hosts: HostTable, counters: Counters) -> None:
        """Begin without runs.

        Args:
            serials: gives the runs their numbers.
            hosts: the backend hosts.
            counters: count what became of the programs.
        """
        self._serials, self._hosts, self._counters = serials, hosts, counters
        self._to_start: list[LedMove] = []
        self._under_way: dict[int, LedMove] = {}

    @property
    def has_work(self) -> bool:
        """Whether programs are left for the next turn of the loop."""
        return bool(self._to_start)

    def add(self, led: LedMove) -> None:
        """Let the program of a move start soon."""
        self._to_start.append(led)

    def start(self) -> list[Effect]:
        """Start the next programs, except those of moves that do not wait for them any more."""
        effects: list[Effect] = []
        to_start, self._to_start = self._to_start[:IN_A_TURN], self._to_start[IN_A_TURN:]
        for led in to_start:
            if led.stage is Stage.FLUSHING and led.number not in self._under_way:
                led.number = next(self._serials)
                self._under_way[led.number] = led
                new = self._hosts.row(led.target)
                effects.append(RunFlush(led.number, led.key >> 32, led.old_row, new))
        return effects

    def ended(self, number: int, *, ok: bool) -> LedMove | None:
        """Return the move that has waited for a program; None: no move waits for it any more.

        Args:
            number: of the run of the program.
            ok: whether the program says that nothing of the user is left on the old host.
        """
        led = self._under_way.pop(number, None)
        if led is None or led.stage is not Stage.FLUSHING:
            return None
        if ok:
            self._counters.programs_done += 1
        else:
            self._counters.programs_failed += 1
        return led

    def stop(self, led: LedMove) -> list[Effect]:
        """Stop the program of a move, if it runs."""
        if self._under_way.pop(led.number, None) is None:
            return []
        self._counters.programs_stopped += 1
        return [StopFlush(led.number)]
