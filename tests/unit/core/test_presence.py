"""The words of directors about themselves, the words that others pass on, and which of them count."""

from __future__ import annotations

from itertools import permutations

import pytest

from director.core.protocol.counters import Counters
from director.core.protocol.effects import Effect, LogEvent, Send
from director.core.protocol.messages import Leaving, Present, RingMessage
from director.core.ring.link import LinkState, Neighbour
from director.core.ring.presence import LAST, Presence, next_incarnation
from director.types import Address, LinkId, MemberId
from tests.unit.core.cores import at, identity, of

D1, D2, D3, D4 = (MemberId(f"10.0.0.{number}:9090") for number in (1, 2, 3, 4))
"""d1 is asked; it is linked with d2 and d3."""


class Played:
    def __init__(self) -> None:
        self.links: dict[LinkId, Neighbour] = {}
        self.counters = Counters()
        self.presence = Presence(D1, 100, [D1, D2, D3, D4], self.links, self.counters)
        self.d2, self.d3 = self.link(D2), self.link(D3)

    def link(self, peer: MemberId, incarnation: int = 1) -> Neighbour:
        number = LinkId(len(self.links) + 1)
        address = Address(peer.rpartition(":")[0])
        neighbour = self.links[number] = Neighbour(number, identity(D1), address, peer, b"", at(0))
        neighbour.state, neighbour.peer_incarnation = LinkState.FULL, incarnation
        return neighbour

    def hear(self, source: Neighbour, message: Leaving | Present, mono: float = 0.0) -> list[Effect]:
        return self.presence.hear(message, source, at(mono))


def sent(effects: list[Effect]) -> list[tuple[int, RingMessage]]:
    return [(send.link, message) for send in of(Send, effects) for message in send.messages]


@pytest.mark.shows("rule 44")
def test_an_incarnation_is_the_clock_in_microseconds_but_above_the_last_one() -> None:
    assert next_incarnation(1_700_000_000.5) == 1_700_000_000_500_000
    assert next_incarnation(1_700_000_000.5, 1_800_000_000_000_000) == 1_800_000_000_000_001
    assert next_incarnation(1_700_000_000.5, LAST) == LAST
    assert next_incarnation(-10.0) == 1


def test_a_departure_told_by_another_counts_where_no_link_with_the_member_works() -> None:
    played = Played()
    assert sent(played.hear(played.d2, Leaving(D4, 5))) == [(played.d3.link, Leaving(D4, 5))]
    assert played.presence.departed() == {D4}
    assert sent(played.hear(played.d3, Leaving(D4, 5))) == []


@pytest.mark.shows("rule 43")
def test_a_departure_told_by_another_does_not_count_while_a_link_with_the_member_works() -> None:
    played = Played()
    effects = played.hear(played.d2, Leaving(D3, 5))
    assert sent(effects) == [(played.d3.link, Leaving(D3, 5))]
    assert played.presence.departed() == set()
    played.d3.close("gone")
    assert played.presence.departed() == {D3}


def test_a_member_that_denies_a_departure_is_believed_and_the_link_it_came_over_is_named() -> None:
    played = Played()
    played.hear(played.d2, Leaving(D3, 5))
    effects = played.hear(played.d3, Present(D3, 6))
    assert sent(effects) == [(played.d2.link, Present(D3, 6))]
    assert [(log.event, log.fields["director"], log.fields["peer"]) for log in of(LogEvent, effects)] == [
        ("false_departure_reported", D3, D2)
    ]
    assert played.counters.false_departures == 1
    played.d3.close("gone")
    assert played.presence.departed() == set()


def test_a_member_that_says_itself_that_it_leaves_has_left_over_all_its_links_whatever_its_number() -> None:
    played = Played()
    played.hear(played.d3, Present(D3, 9))
    second = played.link(D3)
    assert sent(played.hear(played.d3, Leaving(D3, 2))) == [
        (played.d2.link, Leaving(D3, 9)),
        (second.link, Leaving(D3, 9)),
    ]
    assert played.presence.departed() == {D3}
    played.link(D3, incarnation=2)
    assert played.presence.departed() == set()


@pytest.mark.shows("rule 44")
def test_a_working_link_ends_a_departure_with_a_higher_number_and_the_member_is_told_it() -> None:
    played = Played()
    played.hear(played.d2, Leaving(D4, 50))
    d4 = played.link(D4)
    assert played.presence.departed() == set()
    assert sent(played.hear(d4, Present(D4, 7))) == [(d4.link, Present(D4, 51))]
    effects = played.hear(d4, Present(D4, 51))
    assert sorted(sent(effects)) == sorted([(n.link, Present(D4, 51)) for n in (played.d2, played.d3)])
    assert of(LogEvent, effects) == []


def test_a_member_that_was_killed_while_its_clock_was_ahead_is_told_the_number_too() -> None:
    played = Played()
    played.hear(played.d2, Present(D4, 50))
    d4 = played.link(D4)
    assert sent(played.hear(d4, Present(D4, 7))) == [(d4.link, Present(D4, 51))]


def test_a_director_denies_its_own_departure_with_a_higher_number_and_names_the_link() -> None:
    played = Played()
    effects = played.hear(played.d2, Leaving(D1, 500))
    assert sent(effects) == [(n.link, Present(D1, 501)) for n in (played.d2, played.d3)]
    assert [(log.event, log.fields["peer"]) for log in of(LogEvent, effects)] == [
        ("false_departure_reported", D2)
    ]
    assert (played.presence.number, played.counters.false_departures) == (501, 1)


@pytest.mark.shows("rule 43")
def test_a_director_announces_itself_at_most_once_a_second_whatever_is_told_of_it() -> None:
    played = Played()
    announced = []
    for step in range(300):
        effects = played.hear(played.d2, Leaving(D1, 500 + 2 * step), step / 100)
        effects += played.presence.turn(at(step / 100))
        announced += [message for link, message in sent(effects) if link == played.d3.link]
    assert len(announced) == 3
    assert played.presence.next_deadline() == 3.0
    assert sent(played.presence.turn(at(3)))[0][1] == Present(D1, 500 + 2 * 299 + 1)
    assert played.presence.next_deadline() is None


def test_a_word_that_is_old_is_answered_with_the_later_one() -> None:
    played = Played()
    played.hear(played.d2, Present(D4, 9))
    assert sent(played.hear(played.d3, Leaving(D4, 8))) == [(played.d3.link, Present(D4, 9))]
    assert sent(played.hear(played.d3, Leaving(D1, 8))) == [(played.d3.link, Present(D1, 100))]
    assert sent(played.hear(played.d3, Present(D1, 100))) == []
    assert (played.presence.departed(), played.presence.number) == (set(), 100)


def test_a_director_that_leaves_denies_nothing_and_says_so_to_new_neighbours() -> None:
    played = Played()
    played.presence.leave()
    assert played.hear(played.d2, Leaving(D1, 500)) == []
    assert sent(played.presence.say(played.d3)) == [(played.d3.link, Leaving(D1, 100))]


def test_at_the_highest_number_a_presence_counts_before_what_others_tell() -> None:
    played = Played()
    assert sent(played.hear(played.d2, Leaving(D1, LAST)))[0][1] == Present(D1, LAST)
    played.hear(played.d2, Leaving(D4, LAST))
    assert played.presence.departed() == {D4}
    played.hear(played.d3, Present(D4, LAST))
    played.hear(played.d2, Leaving(D4, LAST))
    assert played.presence.departed() == set()


def test_a_new_neighbour_hears_which_others_are_there_and_not_what_it_says_itself() -> None:
    played = Played()
    played.hear(played.d2, Present(D4, 7))
    played.hear(played.d3, Present(D3, 8))
    assert sent(played.presence.introduce(played.d3)) == [
        (played.d3.link, Present(D1, 100)),
        (played.d3.link, Present(D4, 7)),
    ]
    played.hear(played.d2, Leaving(D4, 9))
    assert sent(played.presence.introduce(played.d3)) == [(played.d3.link, Present(D1, 100))]


def test_words_about_directors_that_are_not_of_the_ring_are_not_kept() -> None:
    played = Played()
    stranger = MemberId("10.9.9.9:9090")
    assert played.hear(played.d2, Leaving(stranger, 5)) == []
    assert played.presence.departed() == set()


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_words_come_to_the_same_whatever_their_order(order: tuple[int, ...]) -> None:
    words = [Present(D4, 5), Leaving(D4, 5), Present(D4, 6), Leaving(D4, 4)]
    played = Played()
    for number in order:
        played.hear(played.d2, words[number])
    assert played.presence.departed() == set()
    assert sent(played.hear(played.d3, Leaving(D4, 5))) == [(played.d3.link, Present(D4, 6))]
