"""Plays the recorded scripts. `RECORD_SCRIPTS=1 pytest tests/simulation/test_scripts.py` records them anew:
then read the difference, for it is the review."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.simulation.scripting import recorded

SCRIPTS = sorted(Path(__file__).with_name("scripts").glob("*.txt"))
RECORD = bool(os.environ.get("RECORD_SCRIPTS"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_goes_as_it_was_recorded(script: Path) -> None:
    before = script.read_text()
    now = recorded(before)
    if RECORD:
        script.write_text(now)
    else:
        assert now == before


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_says_first_what_went_wrong_once_and_what_must_hold(script: Path) -> None:
    first, second = script.read_text().splitlines()[:2]
    assert first.startswith("# ")
    assert second.startswith("# ")


def test_a_script_is_played_the_same_way_each_time() -> None:
    text = "ring 3\nlogin alice bob at d1 d2\nmove alice to b4 at d3\nrun 3s\nshow users alice bob\n"
    assert recorded(text) == recorded(recorded(text))


def test_what_is_no_command_is_named_with_its_line() -> None:
    with pytest.raises(ValueError, match=r"line 2: no such command: 'dance'"):
        recorded("# a comment\ndance\n")


def test_no_two_scripts_are_about_one_regression() -> None:
    numbers = [re.match(r"R-\d+", script.stem) for script in SCRIPTS]
    names = [number[0] for number in numbers if number]
    assert len(names) == len(set(names)) > 30
