"""Each target with fixed seeds; `make fuzz` goes on with new ones."""

from __future__ import annotations

import pytest

from tests.fuzz import twins
from tests.fuzz.engine import Target, run

COUNTS = {"twins": 300}


@pytest.mark.parametrize("target", twins.TARGETS, ids=lambda target: target.name)
def test_a_target_stands_whatever_comes(target: Target) -> None:
    failure = run(target, range(COUNTS[target.name]))
    assert failure is None, str(failure)
