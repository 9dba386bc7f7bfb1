"""What each director says of itself: that it is there, or that it leaves.

A lattice: every word has a number that only the director it is about raises, and the word with the higher
number counts; of two with the same number the departure. The first number of a life is read from the clock,
so that it is above those of earlier lives. Where the clock was set back meanwhile it is not: a neighbour that
knows a higher number proposes the next one. From then on numbers are compared, never times.

A director speaks for itself: while a proved link with it works, no other director's word ends its presence.
It hears what is told of it, and announces itself again with a higher number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from director.core.protocol.counters import Counters
from director.core.protocol.effects import Effect, Level, LogEvent, Send
from director.core.protocol.messages import Leaving, Present
from director.core.ring.link import NUMBER_LIMIT, Neighbour
from director.types import LinkId, MemberId, Now

LAST = NUMBER_LIMIT - 1
"""The highest number. There a presence counts before a departure that others tell of: no higher number could
deny it."""
ANNOUNCE_EVERY = 1.0
"""Seconds between two announcements of the same director at least, whatever is told of it."""


def next_incarnation(unix: float, last: int = 0) -> int:
    """The incarnation of a director that starts now: microseconds of its clock, but above `last`, the highest
    that it knows of itself."""
    return min(max(int(unix * 1_000_000), last + 1), LAST)


class Word(NamedTuple):
    """The last word about a director."""

    number: int
    leaves: bool
    doubted: str = ""
    """The neighbour that told of a departure although a link with the director itself worked."""


class Presence:
    def __init__(
        self,
        me: MemberId,
        incarnation: int,
        members: Collection[MemberId],
        links: Mapping[LinkId, Neighbour],
        counters: Counters,
    ) -> None:
        """Begin a life of this director.

        Args:
            me: this director.
            incarnation: the number of the first announcement.
            members: the directors of the ring, as they are whenever they are read.
            links: all links, as they are whenever they are read.
            counters: where false departures are counted.
        """
        self.number = min(incarnation, LAST)
        """Of our own words."""
        self.leaving = False
        """We leave."""
        self._me, self._members, self._links, self._counters = me, members, links, counters
        self._words: dict[MemberId, Word] = {}
        self._announced_at = float("-inf")
        self._announce_at: float | None = None

    def departed(self) -> set[MemberId]:
        """The directors that have said that they leave, and have not said since that they are there."""
        departed = {member for member, word in self._words.items() if word.leaves}
        departed |= {n.peer for n in self._links.values() if n.live and n.leaves and n.peer is not None}
        return departed - self._linked() if departed else departed

    def say(self, neighbour: Neighbour) -> list[Effect]:
        """Our own word."""
        kind = Leaving if self.leaving else Present
        return [Send(neighbour.link, [kind(self._me, self.number)])]

    def introduce(self, neighbour: Neighbour) -> list[Effect]:
        """Our own word, and which others are there: while there was no link it could not hear of a return."""
        present = [(member, word.number) for member, word in self._words.items() if not word.leaves]
        words = [Present(member, number) for member, number in present if member != neighbour.peer]
        return self.say(neighbour) + ([Send(neighbour.link, words)] if words else [])

    def leave(self) -> list[Effect]:
        """Tell all neighbours that we leave."""
        self.leaving, self._announce_at = True, None
        return self._tell(Leaving(self._me, self.number))

    def returned(self, member: MemberId) -> None:
        """The director is in the ring, by what it does."""
        word = self._words.get(member)
        if word is not None and word.leaves:
            self._words[member] = Word(word.number, False)

    def forget_others(self, members: Iterable[MemberId]) -> None:
        """Forget all that was said of directors other than these."""
        kept = self._words.keys() & set(members)
        self._words = {member: self._words[member] for member in kept}

    def next_deadline(self) -> float | None:
        return self._announce_at

    def turn(self, now: Now) -> list[Effect]:
        """Announce ourselves (again) where that is due."""
        if self._announce_at is None or now.mono < self._announce_at:
            return []
        self._announced_at, self._announce_at = now.mono, None
        return self._tell(Present(self._me, self.number))

    def hear(self, message: Leaving | Present, source: Neighbour, now: Now) -> list[Effect]:
        """Take the word of a director, by itself or passed on."""
        member, number, leaves = MemberId(message.member), message.incarnation, isinstance(message, Leaving)
        if member == self._me:
            return self._told_of_us(number, leaves, source, now)
        if member not in self._members:
            return []
        before = self._words.get(member, Word(-1, False))
        if member != source.peer:
            return self._passed_on(message, before, source)
        if leaves:
            for neighbour in self._links.values():
                if neighbour.peer == member and neighbour.peer_incarnation == source.peer_incarnation:
                    neighbour.leaves = True
            number = max(number, before.number)  # it counts, whatever its number
        elif _rank(number, False) < _rank(*before[:2]):
            return [Send(source.link, [Present(member, min(before.number + 1, LAST))])]
        self._words[member] = Word(number, leaves)
        if before[:2] == (number, leaves):
            return []
        effects = self._tell(Leaving(member, number) if leaves else Present(member, number), source)
        if before.doubted and not leaves:
            self._counters.false_departures += 1
            note = "it is there, and has said so: look at what the peer runs"
            fields = {"director": member, "peer": before.doubted, "note": note}
            effects.append(LogEvent(Level.WARNING, "false_departure", fields))
        return effects

    def _passed_on(self, message: Leaving | Present, before: Word, source: Neighbour) -> list[Effect]:
        """The word of a director that another one has passed on."""
        member, number, leaves = MemberId(message.member), message.incarnation, isinstance(message, Leaving)
        if _rank(number, leaves) < _rank(*before[:2]):
            kind = Leaving if before.leaves else Present
            return [Send(source.link, [kind(member, before.number)])]
        if (number, leaves) == before[:2]:
            return []
        if not leaves or member not in self._linked():
            self._words[member] = Word(number, leaves)
            return self._tell(message, source)
        # It says nothing of that itself: it is asked, and no other director is told.
        self._words[member] = Word(number, True, before.doubted or source.name())
        return [Send(n.link, [message]) for n in self._links.values() if n.live and n.peer == member]

    def _told_of_us(self, number: int, leaves: bool, source: Neighbour, now: Now) -> list[Effect]:
        if self.leaving:
            return []
        if _rank(number, leaves) < _rank(self.number, False):
            return self.say(source)
        if (number, leaves) == (self.number, False):
            return []
        self.number = min(number + leaves, LAST)
        self._announce_at = max(now.mono, self._announced_at + ANNOUNCE_EVERY)
        effects = self.turn(now)
        if leaves:
            self._counters.false_departures += 1
            note = "this director is there, and announces itself again"
            fields = {"director": self._me, "peer": source.name(), "note": note}
            effects.append(LogEvent(Level.WARNING, "false_departure", fields))
        return effects

    def _linked(self) -> set[MemberId]:
        """The directors with which a proved link works, and that do not leave."""
        return {n.peer for n in self._links.values() if n.live and not n.leaves and n.peer is not None}

    def _tell(self, message: Leaving | Present, but: Neighbour | None = None) -> list[Effect]:
        return [Send(n.link, [message]) for n in self._links.values() if n.live and n is not but]


def _rank(number: int, leaves: bool) -> tuple[int, bool]:
    """What counts of two words: the higher."""
    return number, leaves is not (number == LAST)
