"""Directors that differ from their neighbours in release or configuration."""

from __future__ import annotations

from typing import Any

import pytest

from director.core.protocol.events import LinkOpened
from director.core.protocol.messages import Pong
from director.core.ring.differences import ALL, BACKENDS, EXPIRE, HASH, VERSION, differences
from director.core.ring.link import LinkState
from director.core.ring.ring import Ring
from director.types import Address, LinkId
from tests.unit.core.cores import plain
from tests.unit.core.test_link import D1, D2, acceptor, at, dialler, identity, sent, talk

SAME: dict[str, dict[str, str]] = {what: {} for what in ALL}


def found(theirs: dict[str, Any], **ours: Any) -> dict[str, dict[str, str]]:
    """Return what the dialler finds of the other end after a ping was answered."""
    one, other = dialler(**ours), acceptor(**theirs)
    talk(one, other)
    (ping,) = sent(one.ping(at(1)))
    for answer in sent(other.handle(ping, at(1))):
        one.handle(answer, at(1))
    return {what: dict(members) for what, members in differences(one.me, [one], {}).items()}


def test_directors_that_have_the_same_do_not_differ() -> None:
    same = {"release": "1.0", "backends": 7}
    assert found(same, **same) == SAME


def test_another_release_is_named_with_its_version() -> None:
    assert found({"release": "1.1"}, release="1.0") == SAME | {VERSION: {D2: "1.1"}}


def test_other_backends_are_noticed_with_the_next_ping() -> None:
    assert found({"backends": 8}, backends=7) == SAME | {BACKENDS: {D2: ""}}


def test_a_director_of_an_older_release_says_nothing_and_does_not_differ() -> None:
    assert found({}, release="1.0", backends=7) == SAME


def test_a_neighbour_that_reads_its_configuration_again_says_so_with_the_next_pong() -> None:
    one, other = dialler(backends=7), acceptor(backends=7)
    talk(one, other)
    other.set_identity(identity(D2, backends=8))
    (ping,) = sent(one.ping(at(1)))
    assert sent(other.handle(ping, at(1))) == [Pong(ping.serial, at(1).unix, 8)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ({"expire": 60}, {EXPIRE: {D2: "60 s"}}),
        ({"username_hash": "%u"}, {HASH: {D2: "%u"}}),
        ({"username_hash": "%u", "expire": 60}, {HASH: {D2: "%u"}, EXPIRE: {D2: "60 s"}}),
    ],
)
def test_a_director_that_is_refused_for_settings_is_named_with_all_of_them_until_it_links(
    theirs: dict[str, Any], expected: dict[str, dict[str, str]]
) -> None:
    ring = Ring(identity(D1), [D1, D2])
    ring.start()

    def meets(number: int, **fields: Any) -> LinkState:
        ring.dials(at(number))
        ring.opened(LinkOpened(LinkId(number), b"one", Address("10.0.0.2"), D2), at(number))
        link = ring.links[LinkId(number)]
        other = acceptor(**fields)
        (mine,), (hello,) = sent(link.open()), sent(other.open())
        link.handle(hello, at(0), plain(hello))
        if link.state is LinkState.PROVING:
            (proof,) = sent(other.handle(mine, at(0), plain(mine)))
            link.handle(proof, at(0))
            ring.greeted(link, at(0))
        ring.review(at(number))
        return link.state

    assert meets(1, **theirs) is LinkState.CLOSED
    assert differences(ring.identity, ring.links.values(), ring.refused) == SAME | expected
    assert meets(2) is LinkState.EXCHANGING
    assert differences(ring.identity, ring.links.values(), ring.refused) == SAME


def test_a_director_that_is_no_member_is_not_kept() -> None:
    ring = Ring(identity(D1), [D1, D2])
    ring.opened(LinkOpened(LinkId(1), b"one", Address("10.0.0.2"), D2), at(0))
    (hello,) = sent(acceptor(expire=60).open())
    ring.links[LinkId(1)].handle(hello, at(0), plain(hello))
    ring.review(at(0))
    ring.set_servers([D1])
    assert ring.refused == {}
