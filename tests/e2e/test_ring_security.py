"""Peers that try to enter a ring of real directors: two run, the test uses the address of the third."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from director.core.ring.ring import UNPROVED
from director.wire.ring_native import LIMIT
from tests.e2e.conftest import new_folder
from tests.e2e.peers import Stranger
from tests.e2e.processes import Client, Directors, Load, until

FIRST = "127.0.55.11"
TAKEN = "127.0.55.13"
USERS = [f"user{number}" for number in range(100)]


@pytest.fixture(scope="module")
def ring() -> Iterator[Directors]:
    with new_folder() as folder, Directors(folder, first=FIRST, state="memory:") as directors:
        directors.wait_whole()
        directors[2].kill()
        for director in directors.all[:2]:
            director.wait_whole(2)
        yield directors


def members(ring: Directors) -> list[list[str]]:
    return [director.get("/v1/ring")["ring"] for director in ring.all[:2]]


@pytest.mark.shows("A-17")
def test_a_greeting_and_its_proof_are_accepted_once(ring: Directors) -> None:
    with Stranger(ring[0].member, source=TAKEN) as neighbour:
        neighbour.greet(ring[2].member)
        until(lambda: kinds(ring, ring[2].member), what="the ring member is accepted")
        recording = neighbour.sent
    with Stranger(ring[0].member, source=TAKEN) as again:
        again.send(recording)
        again.wait_closed()  # the reason follows the proof, sealed
    until(partial(ring[0].logged, "ring_link_closed", "wrong ring secret"), what=ring[0].log)
    until(lambda: not kinds(ring, ring[2].member), what="no peer uses that name")


def kinds(ring: Directors, member: str) -> list[str]:
    """Return the kinds of the links between the first director and `member`."""
    shown = ring[0].get("/v1/ring")["members"]
    return [link["kind"] for link in shown if f"{link['address']}:{link['port']}" == member and link["kind"]]


@pytest.mark.parametrize(
    ("source", "reason"),
    [("127.0.55.12", "connects from 127.0.55.12"), ("127.0.55.99", "127.0.55.99 is not in ring.servers")],
    ids=["of another member", "of no member"],
)
def test_a_peer_with_the_secret_at_a_wrong_address_is_refused(
    ring: Directors, source: str, reason: str
) -> None:
    with Stranger(ring[0].member, source=source) as stranger:
        stranger.greet(ring[2].member)
        reasons = stranger.good_bye()
    assert reason in reasons
    until(partial(ring[0].logged, "ring_link_closed", reason), what=ring[0].log)
    assert members(ring) == [[ring[0].member, ring[1].member]] * 2


def test_a_frame_over_the_limit_ends_its_link_alone(ring: Directors) -> None:
    with Load({ring[0].member: ring[0].login, ring[1].member: ring[1].login}, USERS) as load:
        with Stranger(ring[0].member, source=TAKEN) as neighbour:
            neighbour.greet(ring[2].member)
            neighbour.send((LIMIT + 1).to_bytes(4) + b"x" * 100_000)
            reasons = neighbour.good_bye()
        until(partial(ring[0].logged, "ring_link_closed", f"frame of {LIMIT + 1} bytes"), what=ring[0].log)
        until(
            lambda: members(ring) == [[ring[0].member, ring[1].member]] * 2,
            what="the two directors stay linked",
        )
        seen = len(load.logins)
        until(lambda: len(load.logins) > seen + 100, what="logins go on")
    assert f"frame of {LIMIT + 1} bytes, at most {LIMIT} are accepted" in reasons
    assert load.failures == []
    assert load.on_two_hosts() == {}


def test_connections_that_prove_nothing_do_not_keep_the_ring_member_out(ring: Directors) -> None:
    with ExitStack() as stack:
        silent = [
            stack.enter_context(Stranger(ring[0].member, source=TAKEN)).socket for _ in range(UNPROVED + 100)
        ]
        poll = select.poll()
        for sock in silent[:100]:
            poll.register(sock, select.POLLRDHUP)
        closed: set[int] = set()
        until(lambda: closed.update(number for number, _ in poll.poll(0)) or len(closed) == 100, within=1.5)
        with Stranger(ring[0].member, source=TAKEN) as neighbour:
            neighbour.greet(ring[2].member)
            until(lambda: kinds(ring, ring[2].member), what="the ring member is accepted")
    until(lambda: not kinds(ring, ring[2].member), what="no peer uses that name")


def test_the_ring_member_is_accepted_after_strangers_used_its_name(ring: Directors) -> None:
    with Client(ring[1].login) as client:
        before = client.ask(USERS)
    ring[2].start().wait_whole(3)
    with Client(ring[2].login) as client:
        assert client.ask(USERS) == before
