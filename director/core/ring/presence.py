"""The word of each director about itself: that it is present, or that it leaves.

Every word has a number. The word with the higher number counts; of two words with the same number, the
departure. Only the director that a word is about raises the number. A director takes the first number of a
run from its clock, so that the number is above those of earlier runs. If the clock was set back meanwhile, it
is not: then a neighbour that has a higher number proposes the next one. After the first number only numbers
are compared, never times.

A director speaks for itself: while a proved link with it works, its presence does not end because another
director reports it. The director that is reported to leave gets the report, and announces itself again with a
higher number.
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
"""The highest number. With this number a presence counts before a departure that other directors report,
because there is no higher number with which to deny it."""
ANNOUNCE_EVERY = 1.0
"""Seconds between two announcements of a director at least, however often it is reported to leave."""


def next_incarnation(unix: float, last: int = 0) -> int:
    """Return the incarnation of a director that starts now: the microseconds of its clock, but higher than
    `last`.

    Args:
        unix: the clock, in Unix seconds.
        last: the highest incarnation that the director knows of itself.
    """
    return min(max(int(unix * 1_000_000), last + 1), LAST)


class Word(NamedTuple):
    """The latest announcement about a director: that it is present, or that it leaves."""

    number: int
    leaves: bool
    doubted: str = ""
    """The neighbour that reported a departure while a link with the director itself worked; empty: none."""


class Presence:
    def __init__(
        self,
        me: MemberId,
        incarnation: int,
        members: Collection[MemberId],
        links: Mapping[LinkId, Neighbour],
        counters: Counters,
    ) -> None:
        """Begin a run of this director.

        Args:
            incarnation: the number of the first announcement.
            members: the directors of the ring. The collection may change; it is read again each time.
            links: all links. The mapping may change; it is read again each time.
            counters: where false departures are counted.
        """
        self.number = min(incarnation, LAST)
        """The number of this director's own words."""
        self.leaving = False
        """Whether this director leaves."""
        self._me, self._members, self._links, self._counters = me, members, links, counters
        self._words: dict[MemberId, Word] = {}
        self._announced_at = float("-inf")
        self._announce_at: float | None = None

    def departed(self) -> set[MemberId]:
        """Return the directors that have announced that they leave, and have not announced since that they
        are present."""
        departed = {member for member, word in self._words.items() if word.leaves}
        departed |= {n.peer for n in self._links.values() if n.live and n.leaves and n.peer is not None}
        return departed - self._linked() if departed else departed

    def say(self, neighbour: Neighbour) -> list[Effect]:
        """Tell a neighbour that this director is present, or that it leaves."""
        kind = Leaving if self.leaving else Present
        return [Send(neighbour.link, [kind(self._me, self.number)])]

    def introduce(self, neighbour: Neighbour) -> list[Effect]:
        """Tell a new neighbour that this director is present, or leaves, and which other directors are
        present.

        Without a link, the neighbour could not hear that a director has returned.
        """
        present = [(member, word.number) for member, word in self._words.items() if not word.leaves]
        words = [Present(member, number) for member, number in present if member != neighbour.peer]
        return self.say(neighbour) + ([Send(neighbour.link, words)] if words else [])

    def leave(self) -> list[Effect]:
        """Tell all neighbours that this director leaves."""
        self.leaving, self._announce_at = True, None
        return self._tell(Leaving(self._me, self.number))

    def returned(self, member: MemberId) -> None:
        """Note that a director is present: it does what only a present director does."""
        word = self._words.get(member)
        if word is not None and word.leaves:
            self._words[member] = Word(word.number, False)

    def forget_others(self, members: Iterable[MemberId]) -> None:
        """Forget what all directors except these have announced."""
        kept = self._words.keys() & set(members)
        self._words = {member: self._words[member] for member in kept}

    def next_deadline(self) -> float | None:
        return self._announce_at

    def turn(self, now: Now) -> list[Effect]:
        """Announce this director (again) if that is due."""
        if self._announce_at is None or now.mono < self._announce_at:
            return []
        self._announced_at, self._announce_at = now.mono, None
        return self._tell(Present(self._me, self.number))

    def hear(self, message: Leaving | Present, source: Neighbour, now: Now) -> list[Effect]:
        """Handle an announcement of a director, from the director itself or passed on by another."""
        member, number, leaves = MemberId(message.member), message.incarnation, isinstance(message, Leaving)
        if member == self._me:
            return self._hear_about_this_director(number, leaves, source, now)
        if member not in self._members:
            return []
        before = self._words.get(member, Word(-1, False))
        if member != source.peer:
            return self._passed_on(message, before, source)
        if leaves:
            for neighbour in self._links.values():
                if neighbour.peer == member and neighbour.peer_incarnation == source.peer_incarnation:
                    neighbour.leaves = True
            number = max(number, before.number)  # the word of the director itself counts, whatever its number
        elif _rank(number, False) < _rank(*before[:2]):
            return [Send(source.link, [Present(member, min(before.number + 1, LAST))])]
        self._words[member] = Word(number, leaves)
        if before[:2] == (number, leaves):
            return []
        effects = self._tell(Leaving(member, number) if leaves else Present(member, number), source)
        if before.doubted and not leaves:
            self._counters.false_departures += 1
            note = "the director runs and has announced itself again; check the program at the peer"
            fields = {"director": member, "peer": before.doubted, "note": note}
            effects.append(LogEvent(Level.WARNING, "false_departure_reported", fields))
        return effects

    def _passed_on(self, message: Leaving | Present, before: Word, source: Neighbour) -> list[Effect]:
        """Handle a word of a director that another director has passed on."""
        member, number, leaves = MemberId(message.member), message.incarnation, isinstance(message, Leaving)
        if _rank(number, leaves) < _rank(*before[:2]):
            kind = Leaving if before.leaves else Present
            return [Send(source.link, [kind(member, before.number)])]
        if (number, leaves) == before[:2]:
            return []
        if not leaves or member not in self._linked():
            self._words[member] = Word(number, leaves)
            return self._tell(message, source)
        # The director itself has not announced that it leaves. So the word goes to that director only, which
        # can deny it, and to no other.
        self._words[member] = Word(number, True, before.doubted or source.name())
        return [Send(n.link, [message]) for n in self._links.values() if n.live and n.peer == member]

    def _hear_about_this_director(
        self, number: int, leaves: bool, source: Neighbour, now: Now
    ) -> list[Effect]:
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
            note = "this director runs and announces itself again; check the program at the peer"
            fields = {"director": self._me, "peer": source.name(), "note": note}
            effects.append(LogEvent(Level.WARNING, "false_departure_reported", fields))
        return effects

    def _linked(self) -> set[MemberId]:
        """Return the directors that have a proved, working link with this one and do not leave."""
        return {n.peer for n in self._links.values() if n.live and not n.leaves and n.peer is not None}

    def _tell(self, message: Leaving | Present, but: Neighbour | None = None) -> list[Effect]:
        return [Send(n.link, [message]) for n in self._links.values() if n.live and n is not but]


def _rank(number: int, leaves: bool) -> tuple[int, bool]:
    """Return the sort key of words: the higher of two words counts."""
    return number, leaves is not (number == LAST)
