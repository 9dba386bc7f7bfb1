"""Very many users who change hosts at once, in real processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.attacks.many_kicks import measured

USERS = 8000
LONGEST = 1.0
"""Seconds of a login on a machine that is busy with other things."""
TURN = 0.05
"""Seconds of CPU of the longest turn of the loop, ten times what it should take."""


@pytest.mark.shows("A-37")
def test_eight_thousand_users_who_change_hosts_in_one_merge_delay_no_login_and_no_link(
    tmp_path: Path,
) -> None:
    sample = asyncio.run(measured(tmp_path, USERS, timed=True))
    assert sample.longest_login - sample.generator_lag < LONGEST
    while_serving = [seconds for seconds, number, _ in sample.turns if number > 100]
    assert max(while_serving) < TURN
