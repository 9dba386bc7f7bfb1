"""A fixed number of random runs. One that fails is printed with its trace; `simulate --seed N --trace`
repeats it."""

from __future__ import annotations

import pytest

from tests.simulation.simulate import FAMILIES, Run, failure

SEEDS = 60
FAILED_ONCE = [296, 600, 1150]
"""Seeds that have found a defect: they stay."""


@pytest.mark.parametrize("seed", [*range(SEEDS), *FAILED_ONCE])
def test_whatever_happens_nobody_is_on_two_hosts_nobody_waits_for_ever_and_at_rest_all_agree(
    seed: int,
) -> None:
    assert failure(seed) is None


def test_a_seed_replays_exactly() -> None:
    traces = []
    for _ in range(2):
        run = Run(4)
        run.run()
        traces.append(run.world.trace())
    assert traces[0] == traces[1]


def test_the_seeds_come_from_all_families_of_faults_and_are_not_empty() -> None:
    runs = [Run(seed) for seed in range(len(FAMILIES))]
    for run in runs:
        run.run()
    assert {run.family for run in runs} == set(FAMILIES)
    assert min(run.counts["answers"] for run in runs) > 10
    assert sum(run.counts["changes"] for run in runs) > 10
