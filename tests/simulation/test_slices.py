"""Random runs in which each turn of the loop handles a few users only."""

from __future__ import annotations

import pytest

from tests.simulation.schedule import FAMILIES, drawn
from tests.simulation.simulate import failure
from tests.simulation.slices import small_slices


@pytest.mark.shows("rule 5")
@pytest.mark.parametrize("seed", range(len(FAMILIES)))
def test_all_invariants_hold_when_a_turn_of_the_loop_handles_a_few_users_only(seed: int) -> None:
    with small_slices():
        assert failure(drawn(seed)) is None
