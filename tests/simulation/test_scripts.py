"""Plays the recorded scripts. `RECORD_SCRIPTS=1 pytest tests/simulation/test_scripts.py` records them anew:
review the difference."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.simulation.scripting import recorded

SCRIPTS = sorted(Path(__file__).with_name("scripts").glob("*.txt"))
RECORD = bool(os.environ.get("RECORD_SCRIPTS"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_has_its_recorded_outcome(script: Path) -> None:
    before = script.read_text()
    now = recorded(before)
    if RECORD:
        script.write_text(now)
    else:
        assert now == before


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_begins_with_the_symptom_and_the_expected_behaviour(script: Path) -> None:
    first, second = script.read_text().splitlines()[:2]
    assert first.startswith("# ")
    assert second.startswith("# ")


def test_a_script_has_the_same_outcome_each_time() -> None:
    text = "ring 3\nlogin alice bob at d1 d2\nmove alice to b4 at d3\nrun 3s\nshow users alice bob\n"
    assert recorded(text) == recorded(recorded(text))


def test_an_unknown_command_is_reported_with_its_line() -> None:
    with pytest.raises(ValueError, match=r"line 2: no such command: 'dance'"):
        recorded("# a comment\ndance\n")


def test_each_regression_has_one_script_at_most() -> None:
    numbers = [re.match(r"R-\d+", script.stem) for script in SCRIPTS]
    names = [number[0] for number in numbers if number]
    assert len(names) == len(set(names)) > 30
