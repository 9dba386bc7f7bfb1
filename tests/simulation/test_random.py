"""A fixed number of random runs, and every schedule that has ever found a defect. A run that fails is printed
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
"""Shortened schedules that have found a defect; `found` in the file is the violation."""


@pytest.mark.parametrize("seed", range(SEEDS))
def test_all_invariants_hold_in_a_random_run(
    seed: int,
) -> None:
    assert failure(drawn(seed)) is None


@pytest.mark.parametrize("path", FAILED, ids=lambda path: path.stem)
def test_all_invariants_hold_in_a_schedule_that_once_failed(path: Path) -> None:
    assert failure(Plan.read(path)) is None


def test_a_seed_and_its_file_replay_exactly(tmp_path: Path) -> None:
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
    "suspensions": ["suspensions"],
    "partitions": ["partitions"],
    "members": ["member"],
    "failovers": ["failovers"],
    "stores": ["lapses", "failovers"],
    "kicks": ["slow kicks", "kick"],
    "tags": ["retags"],
    "clocks": ["clock steps"],
    "liar": ["lies"],
}


@pytest.mark.parametrize("seed", range(len(FAMILIES)))
def test_the_runs_of_each_family_have_its_faults(seed: int) -> None:
    result = outcome(drawn(seed))
    assert result.family == FAMILIES[seed]
    assert result.counts["answers"] > 10
    assert [name for name in ABOUT.get(result.family, []) if not result.counts[name]] == []


def test_a_schedule_is_shortened_to_the_actions_that_make_it_fail() -> None:
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
        "the store keeps the last write",
    ],
)
def test_a_deliberate_defect_is_found_within_two_runs_of_each_family(defect: str) -> None:
    command = [sys.executable, "-m", "tests.simulation.defects", "--seeds", str(2 * len(FAMILIES)), defect]
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
