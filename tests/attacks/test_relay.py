"""A relay between two directors can pass frames on, or break the link, and nothing else.

Two real directors; the dials of the first go through the relay.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest

from director.core.placement.addresses import host_id
from director.core.placement.hashing import UserHash
from director.core.placement.users import RECORD
from director.core.protocol.messages import (
    Bye,
    HostRow,
    Hosts,
    Leaving,
    MemberRow,
    Members,
    RingMessage,
    Users,
)
from director.core.ring.dials import SHORT_LIVED
from director.wire.ring_native import SEAL, encode
from tests.attacks.relay import PLAIN, Change, Connection, Relay, TlsRelay, Way
from tests.certificates import Authority
from tests.e2e.processes import Client, Directors, until
from tests.e2e.test_tls import with_tls

FIRST = "127.0.61.11"
USERS = [f"user{number}" for number in range(20)]
EVIL = "192.0.2.66"


class Attacked:
    """Two directors, a relay between them, and checks after an attack."""

    def __init__(self, ring: Directors, relay: Relay) -> None:
        self.ring, self.relay = ring, relay

    def link(self) -> Connection:
        """Return the connection through the relay, once both directors are in one ring over it.

        The link is older than SHORT_LIVED: a link that ends sooner is dialled again with pauses, and from the
        other side.
        """
        until(lambda: (link := self.relay.link) and time.monotonic() > link.since + SHORT_LIVED)
        for director in self.ring.all:
            director.wait_whole(2)
        link = self.relay.link
        assert link is not None
        return link

    def state(self) -> list[object]:
        """Return all records that an attack could have changed."""
        return [
            (director.hosts(), director.users(), sorted(director.get("/v1/ring")["ring"]))
            for director in self.ring.all
        ]

    def counted(self, what: str) -> list[int]:
        """Return how many forged frames or greetings each director has found."""
        pages = [director.request("GET", "/metrics")[1].decode() for director in self.ring.all]
        sample = re.compile(rf'^director_ring_forged_total{{what="{what}"}} (\d+)', re.MULTILINE)
        return [int(number) for page in pages for number in sample.findall(page)]

    def is_refused(self, attack: Callable[[Connection], None], *, by: int, within: float = 8.0) -> None:
        """Check that the attack closes the link, is counted and logged by director `by`, and changes
        nothing."""
        link, before, counted = self.link(), self.state(), self.counted("frame")
        victim = self.ring[by]
        attack(link)
        until(lambda: self.counted("frame")[by] == counted[by] + 1, within=within, what=victim.log[-2000:])
        assert victim.wait_logged("ring_frame_forged", self.ring[1 - by].member)
        until(lambda: not link.open and self.relay.link, what="the link is closed, and opened again")
        until(lambda: self.state() == before, what=str(before))
        assert self.counted("frame")[1 - by] == counted[1 - by]


@contextmanager
def two_directors(folder: Path) -> Iterator[Attacked]:
    ring = Directors(folder, first=FIRST, count=2, state="memory:")
    with Relay(ring[1].member) as relay:
        ring[0].program = ("tests.attacks.rerouted", str(relay.port))
        with ring:
            ring[0].wait_whole(2)
            with Client(ring[0].login) as client:
                client.ask(USERS)
            yield Attacked(ring, relay)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with two_directors(tmp_path_factory.mktemp("relay")) as attacked:
        yield attacked


@pytest.fixture
def not_yet_attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """Directors that have logged few ends of links, so that the log does not leave out the next."""
    with two_directors(tmp_path_factory.mktemp("relay")) as attacked:
        yield attacked


def lies(ring: Directors) -> dict[str, list[RingMessage]]:
    now = int(time.time())
    row = HostRow(EVIL, "", True, now, "", now, 100, now, True, now)
    victim = RECORD.pack(UserHash().key(b"victim"), host_id("127.0.3.1"), now, now, 0)
    other = ring[1].member
    return {
        "hosts": [Hosts([row])],
        "users": [Users(victim)],
        "a good-bye": [Bye("maintenance", routine=True)],
        "a departure": [Leaving(other, time.time_ns() + 10**18)],
        "a removal": [Members([MemberRow(other, False, now)])],
    }


BOTH_WAYS = pytest.mark.parametrize(("way", "victim"), [(Way.RIGHT, 1), (Way.BACK, 0)], ids=["right", "back"])


@pytest.mark.shows("I-39", "A-20")
@pytest.mark.parametrize("kind", ["hosts", "users", "a good-bye", "a departure", "a removal"])
@BOTH_WAYS
def test_data_that_a_relay_adds_to_a_link_closes_the_link_and_changes_nothing(
    attacked: Attacked, kind: str, way: Way, victim: int
) -> None:
    frame = encode(lies(attacked.ring)[kind]) + bytes(SEAL)
    attacked.is_refused(lambda link: link.inject(way, frame), by=victim)


def test_a_plain_frame_behind_the_proof_is_refused_with_the_next_frame(attacked: Attacked) -> None:
    attacked.is_refused(lambda link: link.inject(Way.RIGHT, encode(lies(attacked.ring)["hosts"])), by=1)


def changing(relay: Relay, way: Way, change: Callable[[bytes], list[bytes]]) -> Callable[[Connection], None]:
    """Return an attack on the next frame in this direction."""

    def attack(link: Connection) -> None:
        number = len(link.frames[way])

        def once(at: int, frame: bytes) -> list[bytes]:
            if at < number:
                return [frame]
            del relay.change[way]
            return change(frame)

        relay.change[way] = once

    return attack


def flipped(frame: bytes, at: int) -> bytes:
    return frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]


CHANGES: dict[str, Callable[[bytes], list[bytes]]] = {
    "a byte of a frame": lambda frame: [flipped(frame, 4)],
    "the last byte of a seal": lambda frame: [flipped(frame, len(frame) - 1)],
    "the length of a frame": lambda frame: [flipped(frame, 3)],
    "a frame left out": lambda frame: [],
    "a frame repeated": lambda frame: [frame, frame],
    "a frame without its seal": lambda frame: [frame[:-SEAL]],
}


@pytest.mark.shows("A-21")
@pytest.mark.parametrize("name", CHANGES)
@BOTH_WAYS
def test_a_frame_that_a_relay_changes_closes_the_link(
    attacked: Attacked, name: str, way: Way, victim: int
) -> None:
    attacked.is_refused(changing(attacked.relay, way, CHANGES[name]), by=victim)


@pytest.mark.shows("A-21")
@BOTH_WAYS
def test_an_earlier_frame_of_the_same_link_is_refused(attacked: Attacked, way: Way, victim: int) -> None:
    attacked.is_refused(lambda link: link.inject(way, link.frames[way][PLAIN]), by=victim)


@pytest.mark.shows("A-21")
def test_a_frame_sent_back_to_its_sender_is_refused(attacked: Attacked) -> None:
    attacked.is_refused(lambda link: link.inject(Way.BACK, link.frames[Way.RIGHT][PLAIN]), by=0)


@pytest.mark.shows("A-21")
def test_a_frame_of_an_earlier_link_is_refused(attacked: Attacked) -> None:
    old = attacked.link()
    old.close()
    attacked.is_refused(lambda link: link.inject(Way.RIGHT, old.frames[Way.RIGHT][PLAIN]), by=1)


@pytest.mark.shows("A-21")
def test_frames_that_change_places_are_refused(attacked: Attacked) -> None:
    kept: list[bytes] = []

    def attack(link: Connection) -> None:
        def swap(number: int, frame: bytes) -> list[bytes]:
            kept.append(frame)
            if len(kept) < 2:
                return []
            del attacked.relay.change[Way.RIGHT]
            return kept[::-1]

        attacked.relay.change[Way.RIGHT] = swap

    attacked.is_refused(attack, by=1)


# ---- the handshake


def with_change(attacked: Attacked, way: Way, change: Change, over: Callable[[], object]) -> None:
    """Open the link again, with a change by the relay, until the attack has ended. The ring is as before."""
    link, before = attacked.link(), attacked.state()
    attacked.relay.change[way] = change
    link.close()
    until(over, what=attacked.ring[0].log[-2000:] + attacked.ring[1].log[-2000:])
    del attacked.relay.change[way]
    attacked.link()
    assert attacked.state() == before


def of_frame(number: int, change: Callable[[bytes], bytes]) -> Change:
    return lambda at, frame: [change(frame) if at == number else frame]


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4) + body


@pytest.mark.shows("A-19")
def test_a_greeting_whose_direction_a_relay_has_changed_is_refused(not_yet_attacked: Attacked) -> None:
    attacked = not_yet_attacked

    def swapped(frame: bytes) -> bytes:
        (hello,) = msgspec.msgpack.decode(frame[4:])
        assert hello[9] is False
        hello[9] = True
        return framed(msgspec.msgpack.encode([hello]))

    before = attacked.counted("proof")
    with_change(
        attacked,
        Way.RIGHT,
        of_frame(0, swapped),
        lambda: all(now > then for now, then in zip(attacked.counted("proof"), before, strict=True)),
    )
    for director in attacked.ring.all:
        assert director.wait_logged("ring_link_closed", "wrong ring secret")


@pytest.mark.shows("A-20")
def test_a_message_in_one_frame_with_a_proof_is_refused(not_yet_attacked: Attacked) -> None:
    hosts = encode(lies(not_yet_attacked.ring)["hosts"])[5:]
    with_change(
        not_yet_attacked,
        Way.RIGHT,
        of_frame(1, lambda frame: framed(b"\x92" + frame[5:] + hosts)),
        lambda: not_yet_attacked.ring[1].logged("ring_link_closed", "its proof is not alone in its frame"),
    )


@pytest.mark.shows("A-22")
def test_a_good_bye_before_the_proof_ends_that_link_only(not_yet_attacked: Attacked) -> None:
    with_change(
        not_yet_attacked,
        Way.RIGHT,
        of_frame(1, lambda frame: encode([Bye("not from there", routine=True)])),
        lambda: not_yet_attacked.ring[1].logged(
            "ring_link_closed", "closed by the other end: not from there"
        ),
    )
    assert not_yet_attacked.ring[1].wait_logged("ring_link_closed", "state=proving")


def test_after_a_replacement_links_are_made_anew_with_other_keys(attacked: Attacked) -> None:
    link, before = attacked.link(), attacked.state()
    assert attacked.ring[1].command("reload", "--exec").returncode == 0
    until(lambda: not link.open)
    anew = attacked.link()
    assert attacked.state() == before
    assert anew.frames[Way.BACK][0] != link.frames[Way.BACK][0]
    for frames in anew.frames.values():
        greeting, proof = (msgspec.msgpack.decode(frame[4:]) for frame in frames[:PLAIN])
        assert (len(greeting), greeting[0][0], len(proof), proof[0][0]) == (1, 1, 1, 2)


@pytest.mark.shows("A-23")
def test_a_relay_with_a_certificate_of_the_same_ca_is_refused_by_both_ends(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> None:
    addresses = ["127.0.61.21", "127.0.61.22"]
    each = [with_tls(authority, address) for address in addresses]
    ring = Directors(tmp_path_factory.mktemp("tls"), first=addresses[0], count=2, state="memory:", each=each)
    with (
        TlsRelay(ring[1].member, addresses[0], authority) as right,
        TlsRelay(ring[0].member, addresses[1], authority) as left,
    ):
        for director, relay in zip(ring.all, (right, left), strict=True):
            director.program = ("tests.attacks.rerouted", str(relay.port))
        with ring:
            for director in ring.all:
                refused = "wrong ring secret: ring.secret_file must have the same content on every director"
                until(partial(director.logged, "ring_link_closed", refused), what=director.log)
                assert director.get("/v1/ring")["ring"] in ([], [director.member])
                assert not director.all_logged("ring_tls_failed")
            until(lambda: right.passed > 0 and left.passed > 0)
