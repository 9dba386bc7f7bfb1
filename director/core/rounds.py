"""The part of a turn that needs the confirmation of the whole ring: moves, kicks, users near expiry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from director.core.agreement import Agreement
from director.core.intake import Intake
from director.core.logins.logins import Logins
from director.core.logins.startup import Startup
from director.core.moves.jobs import UserJobs
from director.core.moves.kickrounds import KickRounds
from director.core.moves.kicks import Kicks
from director.core.moves.moves import Moves
from director.core.moves.nearexpiry import NearExpiry
from director.core.moves.sessions import SessionReview
from director.core.placement.assign import Assigner, Gate
from director.core.protocol.effects import Effect
from director.core.protocol.events import Kicked
from director.core.protocol.view import RingView
from director.types import HostId, Now


class Rounds:
    def __init__(
        self,
        *,
        assigner: Assigner,
        agreement: Agreement,
        intake: Intake,
        logins: Logins,
        startup: Startup,
        sessions: SessionReview,
        kicks: Kicks,
        moves: Moves,
        near: NearExpiry,
        kick_rounds: KickRounds,
        jobs: UserJobs,
        view: Callable[[], RingView],
    ) -> None:
        """Begin without rounds.

        Args:
            view: returns the ring as the rounds see it.
        """
        self._assigner, self._agreement, self._intake = assigner, agreement, intake
        self._logins, self._startup, self._sessions = logins, startup, sessions
        self._kicks, self._moves, self._near = kicks, moves, near
        self._kick_rounds, self._jobs, self._view = kick_rounds, jobs, view
        self._digest = agreement.digest
        """Of the tables as the moves have seen them."""

    def kicks_ended(self, ends: Sequence[Kicked], now: Now) -> list[Effect]:
        """Take the results of kicks. Moves and rounds that wait for these kicks continue immediately."""
        effects = self._kicks.ended(ends, now)
        self._wake(now)
        return effects

    def _wake(self, now: Now) -> None:
        self._moves.wake(now)
        self._kick_rounds.kicked(now)

    def turn(self, now: Now) -> list[Effect]:
        """Continue moves, kicks and questions that the whole ring has to confirm."""
        overdue: list[Effect] = self._kicks.overdue(now)
        if overdue:
            self._wake(now)
        wanted = self._startup.want(self._logins.unread)
        self._logins.unread = []
        listing = self._sessions.turn(now)
        self._ask_for_logins(now)
        if not self._intake.has_work:  # else users may be moving although their moves are not known yet
            self._jobs.turn(now)
        view = self._view()
        if self._agreement.digest != self._digest:
            self._digest = self._agreement.digest
            self._moves.wake(now)  # the hosts of the moves may have been removed
        effects = [*overdue, *wanted, *listing, *self._near.turn(now, view)]
        effects += self._moves.turn(now, view)
        effects += self._moves.start_programs()
        effects += self._kick_rounds.turn(now, view)
        return effects + self._kicks.turn(now) + self._jobs.ends()

    def _ask_for_logins(self, now: Now) -> None:
        """Ask the ring about users near expiry, and move users whose host has another tag: their logins wait
        for it."""
        near, self._logins.near = self._logins.near, {}
        for key, tag in near.items():
            self._near.ask(key, tag, now)
        retagged, self._logins.retagged = self._logins.retagged, {}
        if self._assigner.gate is not Gate.OPEN and not self._logins.claiming:
            return  # their logins are tried again when the gate opens
        for key, tag in retagged.items():
            if not self._moves.is_moving(key):
                backend = self._assigner.place(key >> 32, tag)
                self._moves.begin(key, backend.id if backend else HostId(0), None, now)
