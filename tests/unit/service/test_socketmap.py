"""The answers to Postfix about the host that gets a user's mail."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from director.core.placement.users import MOVING, User
from director.service.endpoints.socketmap import Socketmap
from director.wire.socketmap import Request
from tests.unit.service.parts import HOSTS, Node, key_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node().start()
    yield node
    node.driver.stop()


@pytest.fixture
async def impatient() -> AsyncIterator[Node]:
    """A node whose look-ups wait for 0.05 s only."""
    node = Node(lookup_timeout=0.05).start()
    yield node
    node.driver.stop()


def ask(node: Node) -> Socketmap:
    return Socketmap(node.lookups, 2424)


async def test_a_users_mail_goes_to_the_users_host_by_lmtp(node: Node) -> None:
    node.put("alice", HOSTS[1])
    assert await ask(node)(Request(b"lmtp", b"Alice")) == b"OK lmtp:inet:[127.0.3.2]:2424"
    assert node.counts.counts == {("answered", "socketmap"): 1}


async def test_the_mail_of_a_moving_user_waits_and_then_stays_in_the_queue(impatient: Node) -> None:
    impatient.put("alice", HOSTS[1])
    record = impatient.director.users.get(key_of("alice"))
    assert record is not None
    impatient.director.users.put(User(record.key, record.host, record.decided, record.seen, MOVING))
    reply = await ask(impatient)(Request(b"lmtp", b"alice"))
    assert reply == b"TEMP kill waiting; not answered within 0.05 s"


async def test_the_pool_of_a_tag_without_hosts_is_waited_for_like_a_logins(impatient: Node) -> None:
    reply = await ask(impatient)(Request(b"lmtp@gold", b"alice"))
    assert reply == b"TEMP no hosts; not answered within 0.05 s"


@pytest.mark.parametrize("key", [b"*", b""])
async def test_a_key_that_is_no_user_is_not_found_and_assigns_no_user(node: Node, key: bytes) -> None:
    assert await ask(node)(Request(b"lmtp", key)) == b"NOTFOUND "
    assert len(node.director.users) == 0


async def test_an_unknown_map_is_refused_permanently_with_the_names_of_the_maps(node: Node) -> None:
    reply = await ask(node)(Request(b"smtp", b"alice"))
    assert reply == b"PERM no map smtp; the maps are lmtp, and lmtp@TAG for the pool of a tag"
    assert len(node.director.users) == 0
