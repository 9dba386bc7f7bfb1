"""Two halves of a cut ring, and the same users at both at once: real directors, a real Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.e2e.halves import HalvedRing, log_in_everywhere, on_two_hosts

USERS = [f"user{number}" for number in range(2000)]


def test_users_who_log_in_at_both_halves_of_a_cut_ring_at_once_get_one_backend_each(folder: Path) -> None:
    """All the while the halves place users differently: an operator of one of them changes a weight."""
    with HalvedRing(folder) as ring:
        ring.cut()
        ring.wait_until_noticed()
        before = ring.total("director_claims_total")
        with ring.changing_weights(0.1):
            logins = asyncio.run(log_in_everywhere(ring, USERS, 64))
        claims = ring.total("director_claims_total") - before
        ring.heal()
        after = asyncio.run(log_in_everywhere(ring, USERS, 64))
        conflicts = ring.total("director_conflicts_total")
    assert [login for login in logins + after if login.failed] == []
    assert on_two_hosts(logins + after) == {}
    assert claims >= len(USERS)
    assert conflicts == 0


def test_users_who_log_in_while_nobody_has_noticed_the_cut_get_one_backend_each(folder: Path) -> None:
    """What was chosen by hash in the last moments is written at once by whoever finds itself cut off, and
    taken from the store by the other half (ring-rules 39)."""
    with HalvedRing(folder) as ring:
        ring.cut()
        early = asyncio.run(log_in_everywhere(ring, USERS[::2], 64))
        ring.wait_until_noticed()
        with ring.changing_weights(0.1):
            late = asyncio.run(log_in_everywhere(ring, USERS, 64))
        ring.heal()
        conflicts = ring.total("director_conflicts_total")
    assert [login for login in early + late if login.failed] == []
    assert on_two_hosts(early + late) == {}
    assert conflicts == 0
