"""What one change costs a ring, as `python -m tests.bench.traffic` counts it."""

from __future__ import annotations

import pytest

from tests.bench.traffic import CHANGES, Change, cost_of

LAPS = {"a new user": 1, "a host's weight": 3, "a move": 3, "a kick": 2}
"""How often each link is used: a user's record once; a host's record, and two laps of the barrier; a move's
record twice, once while he is moved and once when he is free, and one round between; two rounds of a kick."""


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
@pytest.mark.parametrize("directors", [3, 10])
def test_a_change_uses_every_link_as_often_as_it_must_and_no_more(change: Change, directors: int) -> None:
    cost = cost_of(change, directors)
    laps = LAPS[change.name]
    assert laps * directors <= cost.messages.total() <= laps * directors + 2
