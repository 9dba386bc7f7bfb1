"""The measurements of the state layer (`python -m tests.bench.state`) run and find no lost user."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.e2e.processes import ROOT
from tests.needs import needs

COLUMNS = 80


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("measure", "shown"),
    [
        ("sizes", ["10000 ", "yes", "no"]),
        ("start", ["redis", "sqlite"]),
        ("writes", ["memory", "redis", "sqlite"]),
        ("outages", ["up", "killed", "failed over", "slow"]),
    ],
)
def test_a_small_measurement_of_the_state_layer_runs_and_fits_on_a_screen(
    measure: str, shown: Sequence[str]
) -> None:
    needs("gcc")
    needs("redis-server")
    command = [sys.executable, "-m", "tests.bench.state", measure, "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [text for text in shown if text not in done.stdout] == []
    assert [line for line in done.stdout.splitlines() if len(line) > COLUMNS] == []
