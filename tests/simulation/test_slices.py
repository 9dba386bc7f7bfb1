"""Random runs in which the share of each turn of the loop is a few users."""

from __future__ import annotations

import pytest

from tests.simulation.schedule import FAMILIES, drawn
from tests.simulation.simulate import failure
from tests.simulation.slices import small_slices


@pytest.mark.shows("rule 5")
@pytest.mark.parametrize("seed", range(len(FAMILIES)))
def test_what_does_not_fit_into_one_turn_of_the_loop_is_done_in_the_next_and_in_order(seed: int) -> None:
    with small_slices():
        assert failure(drawn(seed)) is None
