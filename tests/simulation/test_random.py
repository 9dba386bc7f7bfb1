"""A fixed number of random runs, and every schedule that has ever found a defect. One that fails is printed
with its trace; `python -m tests.simulation.simulate --seed N` repeats it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.minimise import minimised
from tests.simulation.schedule import FAMILIES, Plan, drawn
from tests.simulation.simulate import Run, failure, outcome

SEEDS = int(os.environ.get("SIMULATION_SEEDS", 2 * len(FAMILIES)))
FAILED = sorted((Path(__file__).parent / "failed").glob("*.json"))
"""Schedules that have found a defect, each made short; `found` in the file says what it was."""


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_happens_nobody_is_on_two_hosts_nobody_waits_for_ever_and_at_rest_all_agree(
    seed: int,
) -> None:
    assert failure(drawn(seed)) is None


@pytest.mark.parametrize("path", FAILED, ids=lambda path: path.stem)
def test_what_went_wrong_once_goes_right(path: Path) -> None:
    assert failure(Plan.read(path)) is None


def test_a_seed_replays_exactly_also_from_a_file(tmp_path: Path) -> None:
    drawn(4).write(tmp_path / "plan.json")
    traces = []
    for plan in (drawn(4), Plan.read(tmp_path / "plan.json")):
        run = Run(plan)
        run.run()
        traces.append(run.world.trace())
    assert traces[0] == traces[1]


ABOUT = {
    "moves": ["move", "flush", "moves confirmed"],
    "crashes": ["crashes"],
    "freezes": ["freezes"],
    "cuts": ["cuts"],
    "members": ["member"],
    "failovers": ["failovers"],
    "stores": ["lapses", "failovers"],
    "kicks": ["slow kicks", "kick"],
    "tags": ["retags"],
    "clocks": ["clock steps"],
    "liar": ["lies"],
}


@pytest.mark.parametrize("seed", range(len(FAMILIES)))
def test_each_family_is_full_of_what_it_is_about(seed: int) -> None:
    result = outcome(drawn(seed))
    assert result.family == FAMILIES[seed]
    assert result.counts["answers"] > 10
    assert [name for name in ABOUT.get(result.family, []) if not result.counts[name]] == []


def test_a_schedule_is_made_as_short_as_what_goes_wrong_in_it() -> None:
    def fails(plan: Plan) -> bool:
        whats = [action.what for action in plan.actions]
        return "move" in whats and "flush" in whats

    short = minimised(drawn(2), fails, seconds=5)
    assert sorted(action.what for action in short.actions) == ["flush", "move"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "defect",
    [
        "a merge that changes the host does not kick",
        "the merge of users ignores the stamp",
        "no user is kicked a second time",
        "an exchange loses a record",
        "the store keeps what was written last",
    ],
)
def test_a_defect_put_in_on_purpose_is_found_soon(defect: str) -> None:
    command = [sys.executable, "-m", "tests.simulation.defects", "--seeds", str(2 * len(FAMILIES)), defect]
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
