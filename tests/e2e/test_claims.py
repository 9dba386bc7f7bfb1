"""Two halves of a cut ring, and the same users at both at once: real directors, a real Redis."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.e2e.halves import HELD, HalvedRing, log_in, on_two_hosts
from tests.e2e.processes import until

WINDOW = 64
USERS = [f"user{number}" for number in range(2000)]


def test_users_who_log_in_at_both_halves_of_a_cut_ring_at_once_get_one_backend_each(folder: Path) -> None:
    """All the while the halves place users differently: an operator of one of them changes a weight."""
    logins = []
    with HalvedRing(folder) as ring:
        ring.cut()
        ring.wait_until_noticed()
        time.sleep(HELD)
        before = ring.total("director_claims_total")
        with ring.changing_weights(0.1):
            for turn in range(5):
                users = [f"{turn}{user}" for user in USERS[::5]]
                logins += asyncio.run(log_in(ring.directors.all, users, WINDOW))
        claims = ring.total("director_claims_total") - before
        ring.heal()
        for turn in range(5):
            users = [f"{turn}{user}" for user in USERS[::5]]
            logins += asyncio.run(log_in(ring.directors.all, users, WINDOW))
        conflicts = ring.total("director_conflicts_total")
    assert [login for login in logins if login.failed] == []
    assert on_two_hosts(logins) == {}
    assert claims >= len(USERS)
    assert conflicts == 0


def test_users_placed_while_nobody_had_noticed_the_cut_keep_their_backend_on_the_other_side(
    folder: Path,
) -> None:
    """Whoever finds itself cut off writes its last choices at once, whosever bucket they are in (ring-rules
    39). The other half takes them from the store, though by then it would place a quarter elsewhere."""
    with HalvedRing(folder) as ring:
        here, there = ring.halves
        ring.cut()
        early = asyncio.run(log_in(here, USERS, WINDOW))
        ring.wait_until_noticed()
        ring.set_weight(0)
        until(lambda: [d.hosts()[0][2] for d in there] == [0, 0], what="the other half has read it")
        late = asyncio.run(log_in(there, USERS, WINDOW))
        ring.heal()
        conflicts = ring.total("director_conflicts_total")
    assert [login for login in early + late if login.failed] == []
    assert len({login.host for login in late}) == 4
    assert on_two_hosts(early + late) == {}
    assert conflicts == 0
