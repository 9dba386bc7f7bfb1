"""The same users log in on both sides of a partition at once: real directors, a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.e2e.conftest import new_folder
from tests.e2e.halves import HELD, HalvedRing, log_in, on_two_hosts
from tests.e2e.processes import until
from tests.logins import Login

WINDOW = 64
EARLY = [f"early{number}" for number in range(2000)]
USERS = [[f"turn{turn}user{number}" for number in range(400)] for turn in range(5)]


class Story(NamedTuple):
    """The logins before, during and after one partition."""

    early: list[Login]
    """Logins on one side, before any director has noticed the partition."""
    late: list[Login]
    """Logins of the same users on the other side, whose host table differs by then."""
    crossing: list[Login]
    """Logins of other users on both sides at once, while a weight changes all the time."""
    after: list[Login]
    """Logins of all users on all directors, after the partition."""
    claims: float
    conflicts: float


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    with new_folder() as folder, HalvedRing(folder) as ring:
        first_side, second_side = ring.halves
        all_directors = ring.directors.all
        ring.cut()
        early = asyncio.run(log_in(first_side, EARLY, WINDOW))
        ring.wait_until_noticed()
        ring.set_weight(0)
        until(
            lambda: [d.hosts()[0][2] for d in second_side] == [0, 0],
            what="the other side has read the weight",
        )
        late = asyncio.run(log_in(second_side, EARLY, WINDOW))
        time.sleep(HELD)
        before = ring.total("director_claims_total")
        with ring.changing_weights(0.1):
            crossing = [
                login for users in USERS for login in asyncio.run(log_in(all_directors, users, WINDOW))
            ]
        claims = ring.total("director_claims_total") - before
        ring.heal()
        all_users = [*EARLY, *(user for users in USERS for user in users)]
        after = asyncio.run(log_in(all_directors, all_users, WINDOW))
        yield Story(early, late, crossing, after, claims, ring.total("director_conflicts_total"))


@pytest.mark.shows("rule 12", "S-45")
def test_users_who_log_in_on_both_sides_of_a_partition_at_once_get_one_backend_each(story: Story) -> None:
    assert on_two_hosts(story.crossing) == {}
    assert story.claims >= sum(map(len, USERS))


@pytest.mark.shows("rule 39", "S-45")
def test_users_assigned_before_the_partition_is_noticed_keep_their_backend_on_the_other_side(
    story: Story,
) -> None:
    """A director that finds itself in an incomplete ring writes its recent assignments at once, also those in
    buckets of other directors (docs/ring.md, rule 39). The other side of the partition reads them from the
    store, although by then the hash would select other hosts for a quarter of the users."""
    assert len({login.host for login in story.late}) == 4
    assert on_two_hosts(story.early + story.late) == {}


def test_when_the_partition_ends_no_user_is_moved_and_no_login_has_failed(story: Story) -> None:
    logins = [*story.early, *story.late, *story.crossing, *story.after]
    assert on_two_hosts(logins) == {}
    assert [login for login in logins if login.failed] == []
    assert story.conflicts == 0
