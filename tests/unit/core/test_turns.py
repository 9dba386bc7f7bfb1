"""However many users change hosts at once, one turn of the loop does a bounded part of the work.

Work is counted in steps of the interpreter, so that the tests do not depend on the machine; the time turns
take with 100,000 users: `python -m tests.bench.turns`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from director.core.protocol.effects import Effect
from director.wire import hotpath
from tests.steps import FIVE_MS, counted
from tests.turns import SITUATIONS, Busy

USERS = 1500
OTHERS = {"retagged": 150, "near_expiry": 400, "expired": 90_000}
"""Situations in which a user takes many turns, or little time."""
IN_STEPS = [name for name in SITUATIONS if name != "imported"]
"""All but that in which nearly everything is compiled: `tests.bench.turns` shows its time."""

pytestmark = pytest.mark.skipif(not hotpath.COMPILED, reason="the readable twin takes longer for each user")


@pytest.mark.shows("A-37", "A-39")
@pytest.mark.parametrize("situation", IN_STEPS)
def test_no_turn_of_the_loop_is_long_however_many_users_it_is_about(situation: str) -> None:
    steps = []

    def measure(turn: Callable[[], list[Effect]]) -> list[Effect]:
        effects, took = counted(turn)
        steps.append(took)
        return effects

    SITUATIONS[situation](Busy(measure), OTHERS.get(situation, USERS))
    assert max(steps) < FIVE_MS
    assert sum(steps) > 2 * FIVE_MS, "all of it would have fitted into two turns: use more users"
