"""The compiled circle is made from the one before it: it must be what one that is made afresh is."""

from __future__ import annotations

import random

import pytest

from director.core.placement.addresses import host_id
from director.core.placement.assign import Assigner, Backend
from director.core.placement.hashing import UserHash
from director.core.placement.users import UserTable
from director.types import Address
from director.wire import hotpath

pytestmark = pytest.mark.skipif(not hotpath.COMPILED, reason="there is no other circle to compare with")
ADDRESSES = [Address(f"10.1.0.{number}") for number in range(1, 30)] + [Address("2001:db8::1")]
HASHES = [random.Random(1).randrange(1 << 32) for _ in range(300)]


def table(chance: random.Random, before: dict[Address, int]) -> dict[Address, int]:
    """Hosts and their weights, most of them as before."""
    after = dict(before)
    for address in chance.sample(ADDRESSES, chance.choice([0, 1, 5, 30])):
        weight = chance.choice([0, 1, 20, 100])
        if weight:
            after[address] = weight
        else:
            after.pop(address, None)
    return after


@pytest.mark.shows("A-27")
@pytest.mark.parametrize("seed", range(20))
def test_a_circle_made_from_the_one_before_is_as_one_made_afresh(seed: int) -> None:
    chance = random.Random(seed)
    compiled = hotpath.Assigner(hotpath.UserTable(900), UserHash())
    hosts: dict[Address, int] = {}
    for _ in range(8):
        hosts = table(chance, hosts)
        backends = [backend(address, weight) for address, weight in hosts.items()]
        chance.shuffle(backends)
        compiled.set_backends(backends)
        readable = Assigner(UserTable(900), UserHash())
        readable.set_backends(backends)
        assert [compiled.place(one, b"") for one in HASHES] == [readable.place(one, b"") for one in HASHES]


def backend(address: Address, weight: int) -> Backend:
    return Backend(id=host_id(address), address=address, hostname="", tag="", weight=weight, up=True, since=0)
