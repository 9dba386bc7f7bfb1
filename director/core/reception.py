"""Reception of what neighbours send: greetings are handled at once, all other messages in order, as many as a
turn of the loop has room for. Each message goes to the part of the core that it concerns."""

from __future__ import annotations

from collections.abc import Callable

from director.core import checks
from director.core.agreement import Agreement
from director.core.intake import Intake
from director.core.moves.kickrounds import KickRounds
from director.core.moves.moves import Moves
from director.core.moves.nearexpiry import NearExpiry
from director.core.ownclock import OwnClock
from director.core.protocol.counters import Counters
from director.core.protocol.effects import Effect, Send, SetReading
from director.core.protocol.events import Received
from director.core.protocol.messages import (
    Digests,
    ExchangeDone,
    Hosts,
    KickRound,
    Leaving,
    Linked,
    Members,
    MoveRound,
    Names,
    NearRound,
    Present,
    Proof,
    Redirect,
    RingMessage,
    Summaries,
    Token,
    Users,
)
from director.core.protocol.view import RingView
from director.core.ring.barrier import Barrier
from director.core.ring.link import LinkState, Neighbour
from director.core.ring.ring import Ring
from director.core.shares import PIECE, cost, head
from director.types import LinkId, MemberId, Now


class Reception:
    def __init__(
        self,
        *,
        ring: Ring,
        barrier: Barrier,
        agreement: Agreement,
        intake: Intake,
        moves: Moves,
        near: NearExpiry,
        kick_rounds: KickRounds,
        clock: OwnClock,
        counters: Counters,
        view: Callable[[], RingView],
    ) -> None:
        """Begin without links.

        Args:
            ring: the links.
            barrier: takes its tokens.
            agreement: takes rows of hosts and directors.
            intake: takes users and names.
            moves: takes the rounds of moves.
            near: takes the questions about users near expiry.
            kick_rounds: takes the rounds of kicks.
            clock: learns which clocks agree with it.
            view: returns the ring as the rounds see it.
        """
        self._ring, self._barrier, self._agreement, self._intake = ring, barrier, agreement, intake
        self._moves, self._near, self._kick_rounds = moves, near, kick_rounds
        self._clock, self._counters, self._view = clock, counters, view

    def received(self, event: Received, now: Now) -> list[Effect]:
        neighbour = self._ring.links.get(event.link)
        if neighbour is None:
            return []
        for message in event.messages:
            kind = type(message).__name__
            self._counters.messages_in[kind] = self._counters.messages_in.get(kind, 0) + 1
        if not neighbour.live:
            return self._greeted(neighbour, event, now)
        if event.plain:
            return neighbour.close("a frame behind its proof is not sealed")
        neighbour.heard = now.mono
        for message in event.messages:
            if isinstance(message, Users) and len(message.records) > PIECE and not checks.wrong(message):
                starts = range(0, len(message.records), PIECE)
                neighbour.inbox.extend(Users(message.records[start : start + PIECE]) for start in starts)
            else:
                neighbour.inbox.append(message)
        return self._read(neighbour, now)

    def _greeted(self, neighbour: Neighbour, event: Received, now: Now) -> list[Effect]:
        """Handle a frame of the handshake at once: the next frame may be sealed."""
        if len(event.messages) > 1 and any(isinstance(message, Proof) for message in event.messages):
            return neighbour.close("its proof is not alone in its frame, which is not sealed")
        effects: list[Effect] = []
        neighbour.heard = now.mono
        for message in event.messages:
            effects += self._take(neighbour, message, now, event.plain)
            if neighbour.state is LinkState.CLOSED:
                self._counters.proofs_refused += neighbour.disproved
                break
        return effects

    def _read(self, neighbour: Neighbour, now: Now) -> list[Effect]:
        """Handle what has come from a neighbour, as much as this turn of the loop has room for."""
        effects: list[Effect] = []
        inbox = neighbour.inbox
        # a greeting depends on no earlier message
        while inbox and (self._intake.has_room or not neighbour.live):
            message, rest = head(inbox.popleft())
            if rest is not None:
                inbox.appendleft(rest)
            self._intake.spend(cost(message))
            effects += self._take(neighbour, message, now)
            if neighbour.state is LinkState.CLOSED:
                inbox.clear()
        if neighbour.reading is bool(inbox):
            neighbour.reading = not inbox
            effects.append(SetReading(neighbour.link, neighbour.reading))
        return effects

    def _take(self, neighbour: Neighbour, message: RingMessage, now: Now, plain: bytes = b"") -> list[Effect]:
        before = neighbour.state
        answers = neighbour.handle(message, now, plain)
        effects = self._from_neighbour(neighbour, message, now) if answers is None else answers
        if neighbour.agreed_since is not None:
            effects += self._clock.agreed(now, since=neighbour.agreed_since)
            neighbour.agreed_since = None
        if neighbour.state is not before and neighbour.state is not LinkState.CLOSED:
            if neighbour.state is LinkState.EXCHANGING:
                effects.append(Send(neighbour.link, self._agreement.all_rows()))
                effects += self._ring.presence.introduce(neighbour)
            effects += self._ring.greeted(neighbour, now)
        return effects

    def read_rest(self, link: LinkId, now: Now) -> list[Effect]:
        """Handle the messages that came over a closed link. All count, except tokens, which are repeated."""
        neighbour = self._ring.links.get(link)
        effects: list[Effect] = []
        while neighbour is not None and neighbour.inbox:
            message = neighbour.inbox.popleft()
            if isinstance(message, Users) and neighbour.live and checks.wrong(message) is None:
                self._intake.keep(message.records)
            elif isinstance(message, Hosts | Members | Leaving) and neighbour.live:
                effects += self._from_neighbour(neighbour, message, now)
        return effects

    def turn(self, now: Now) -> list[Effect]:
        """Handle the messages that earlier turns have left, beginning with the neighbour that has waited
        longest."""
        effects = self._intake.turn(now)
        for neighbour in sorted(self._ring.links.values(), key=lambda link: link.read_at):
            if neighbour.inbox:
                neighbour.heard = now.mono  # meanwhile nothing more is read from it, so it is not silent
                if self._intake.has_room:
                    neighbour.read_at = now.mono
                    effects += self._read(neighbour, now)
        return effects

    def _from_neighbour(self, neighbour: Neighbour, message: RingMessage, now: Now) -> list[Effect]:
        problem = checks.wrong(message)
        if problem is not None:
            return neighbour.close(problem)
        if neighbour.rightward and isinstance(message, Token | MoveRound | NearRound | KickRound):
            return []  # tokens come from the left: a token from the right has not passed all directors
        match message:
            case Users(records):
                return self._intake.merge(records, neighbour, now)
            case Hosts(rows):
                return self._agreement.merge_hosts(rows, neighbour, now)
            case Members(member_rows):
                effects = self._agreement.merge_members(member_rows, neighbour, now)
                return effects + self._ring.dismiss(neighbour, now)
            case Token():
                return self._token(message, now)
            case MoveRound():
                self._moves.token(message, now, self._view())
            case NearRound():
                return self._near.token(message, now, self._view())
            case KickRound():
                self._kick_rounds.token(message, now, self._view())
            case Names():
                return self._intake.names(neighbour, message)
            case Digests():
                problem = neighbour.exchange.compare_later(message)
            case Summaries():
                problem = neighbour.exchange.answer_later(message)
            case ExchangeDone(compared):
                neighbour.exchange.other_end_is_done(compared)
            case Linked():
                neighbour.linked = True
            case Redirect(member):
                self._ring.redirected(neighbour, MemberId(member), now)
            case Leaving() | Present():
                return self._ring.presence.hear(message, neighbour, now)
        return [] if problem is None else neighbour.close(problem)

    def _token(self, token: Token, now: Now) -> list[Effect]:
        self._barrier.right = self._ring.right.peer if self._ring.right is not None else None
        onward = self._barrier.pass_on(token, now, self._agreement.digest)
        if onward is None or self._ring.right is None:
            return []
        return [Send(self._ring.right.link, [onward])]
