"""Lines from auth that wait for an answer."""

from __future__ import annotations

import gc
from typing import Any, cast

import pytest

from director.core.placement.assign import Wait
from director.service.heldlogins import HeldLogins
from director.types import RequestId, UserKey
from director.wire.auth import HeldRequest

WAITING = 10_000


class Client:
    def __init__(self) -> None:
        self.waiting: set[int] = set()


@pytest.mark.shows("A-41")
def test_a_collection_of_garbage_looks_at_none_of_the_logins_that_wait() -> None:
    logins, client = HeldLogins(), cast(Any, Client())
    gc.collect()
    gc.disable()
    try:
        for number in range(WAITING):
            name = b"user%d" % number
            held = HeldRequest(b"OK\t1\tuser=" + name, b"1", UserKey(number), b"", name, Wait.RING)
            logins.add(RequestId(number), client, held)
        assert len(gc.get_objects(generation=0)) < WAITING / 10
    finally:
        gc.enable()
    taken = logins.take(RequestId(7))
    assert taken is not None
    assert (taken[0], taken[1].name) == (client, b"user7")
    assert len(logins) == len(client.waiting) == WAITING - 1
