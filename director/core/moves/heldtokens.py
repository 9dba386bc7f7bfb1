"""Tokens of other directors' moves. They are passed on when the kicks of their users have ended here."""

from __future__ import annotations

import msgspec

from director.core.moves.kicks import KICK_TIMEOUT
from director.core.moves.movestate import SUBJECT
from director.core.moves.movingusers import MovingUsers
from director.core.protocol.effects import Effect, Send
from director.core.protocol.kicktypes import MOST_COUNTED
from director.core.protocol.messages import MoveRound
from director.core.protocol.view import RingView
from director.types import MemberId, Now, UserKey


class HeldToken(msgspec.Struct, gc=False):
    """Another director's token that waits for the kicks of this director."""

    token: MoveRound
    until: float
    passed: int = 0
    """How many of its users, from the first, have no kick under way."""


class HeldTokens:
    def __init__(self, me: MemberId, moving: MovingUsers) -> None:
        self._me, self._moving = me, moving
        self._tokens: dict[tuple[str, bytes], HeldToken] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def hold(self, token: MoveRound, now: Now) -> None:
        """Keep a token until `pass_on`. A repeated token replaces the one that waits."""
        held_token = self._tokens.get((token.origin, token.moves))
        if held_token is not None:
            held_token.token = token
        else:
            self._tokens[token.origin, token.moves] = HeldToken(token, now.mono + KICK_TIMEOUT)

    def pass_on(self, now: Now, view: RingView) -> list[Effect]:
        """Pass on the tokens whose users have no session left here."""
        effects: list[Effect] = []
        for name, held_token in list(self._tokens.items()):
            if now.mono < held_token.until and self._waits(held_token):
                continue
            del self._tokens[name]
            token = held_token.token
            late, kicked, parted = self._moving.kicks_of(token.moves)
            if view.right is not None:
                onward = MoveRound(
                    token.origin,
                    token.serial,
                    token.moves,
                    [*token.passed, self._me],
                    [*token.late, self._me] if late else token.late,
                    min(token.kicked + kicked, MOST_COUNTED),
                    token.parted or parted,
                )
                effects.append(Send(view.right, [onward]))
        return effects

    def _waits(self, held_token: HeldToken) -> bool:
        """Whether a kick of one of the token's users has not ended yet."""
        moves = held_token.token.moves
        while held_token.passed * SUBJECT.size < len(moves):
            key, _ = SUBJECT.unpack_from(moves, held_token.passed * SUBJECT.size)
            if self._moving.is_kicking(UserKey(key)):
                return True
            held_token.passed += 1
        return False

    def next_deadline(self) -> float | None:
        return min((held_token.until for held_token in self._tokens.values()), default=None)
