"""An answer of Redis is lost: the command has run, and the client must not send it again by itself."""

from __future__ import annotations

from contextlib import suppress

import pytest
from anyio import to_thread

from state.redis import link_to
from state.resolver import Resolver
from tests.lostanswers import CUT, FAILURES, KEY, SILENT, TOPOLOGIES

pytestmark = pytest.mark.anyio
TIMEOUT = 0.5


@pytest.mark.shows("S-90", "S-124")
@pytest.mark.parametrize("topology", TOPOLOGIES)
async def test_a_command_whose_answer_was_lost_has_run_once(topology: str) -> None:
    async with TOPOLOGIES[topology]() as place:
        link = link_to(place.address, TIMEOUT, (), Resolver())
        client = await to_thread.run_sync(place.address.client, TIMEOUT)

        async def by_link() -> None:
            await link.call("test", [("INCR", KEY)])

        async def for_locks() -> None:
            await to_thread.run_sync(client.incr, KEY)

        for send in (by_link, for_locks):
            for how in (CUT, SILENT):
                with suppress(*FAILURES):
                    await send()  # connect again, after the last fault closed the connection
                assert await place.times_run(send, how) == 1, (send.__name__, how)
        await link.close()
        client.close()
