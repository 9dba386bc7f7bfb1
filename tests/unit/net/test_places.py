"""Which client loses its place, in virtual time."""

from __future__ import annotations

import math

from director.net.places import TAKE_WITHIN, Place, Places


class Listener:
    def __init__(self) -> None:
        self.now = 100.0
        self.places = Places(lambda: self.now)
        self.closed: list[str] = []

    def client(self, name: str, address: str = "") -> Place:
        """It connects a second after the client before."""
        self.now += 1
        place = Place(address, lambda: self.closed.append(name), self.now)
        self.places.add(place)
        return place

    def close_all(self, address: str = "") -> list[str]:
        """Make room until no client can be spared. Returns the clients that were closed, in order."""
        while self.places.make_room(address):
            pass
        return self.closed


def test_the_client_that_was_waited_for_longest_is_closed_first() -> None:
    listener = Listener()
    first, _, _ = (listener.client(name) for name in ("first", "second", "third"))
    first.set_busy()
    listener.now += 1
    first.set_idle(listener.now)
    assert listener.close_all() == ["second", "third", "first"]


def test_bytes_that_are_no_complete_line_do_not_keep_a_place() -> None:
    listener = Listener()
    slow = listener.client("slow")
    listener.client("silent")
    slow.set_idle(listener.now + 10)
    assert listener.close_all() == ["slow", "silent"]


def test_a_client_that_waits_for_the_director_keeps_its_place_however_long() -> None:
    listener = Listener()
    listener.client("waits").set_busy()
    listener.now += 1e6
    assert listener.close_all() == []


def test_a_listing_that_is_read_keeps_its_place_and_one_that_is_not_read_does_not() -> None:
    listener = Listener()
    read, unread = listener.client("read"), listener.client("unread")
    for place in (read, unread):
        place.set_busy()
        place.set_sending(listener.now)
    for _ in range(3):
        listener.now += TAKE_WITHIN / 2
        assert listener.closed == []
        read.set_taken()
        read.set_sending(listener.now)
    assert listener.close_all() == ["unread"]
    read.set_taken()
    assert read.waited_for_since(math.inf) == math.inf


def test_for_a_client_of_an_address_a_client_of_that_address_is_closed() -> None:
    listener = Listener()
    listener.client("other", "127.0.0.2")
    listener.client("same", "127.0.0.1")
    assert listener.close_all("127.0.0.1") == ["same"]
    assert listener.close_all() == ["same", "other"]


def test_a_client_that_has_gone_is_not_closed() -> None:
    listener = Listener()
    listener.places.remove(listener.client("gone"))
    assert listener.close_all() == []
