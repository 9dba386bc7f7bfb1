"""The messages of one change in a ring, as `python -m tests.bench.traffic` counts them."""

from __future__ import annotations

import pytest

from tests.bench.traffic import CHANGES, Change, cost_of

LAPS = {"a new user": 1, "a host's weight": 3, "a move": 3, "a kick": 2}
"""How often each link is used: a user's record once; a host's record, and two laps of the barrier; a move's
record twice, at its beginning and at its end, and one round between; two rounds of a kick."""


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
@pytest.mark.parametrize("directors", [3, 10])
def test_a_change_uses_every_link_no_more_often_than_necessary(change: Change, directors: int) -> None:
    cost = cost_of(change, directors)
    laps = LAPS[change.name]
    assert laps * directors <= cost.messages.total() <= laps * directors + 2
