"""Shortens a schedule that fails: leaves out parts while it still fails in the same way (ddmin)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from tests.simulation.schedule import FAST, Plan


def minimised(plan: Plan, fails: Callable[[Plan], bool], seconds: float) -> Plan:
    """Return the shortest plan found within `seconds` for which `fails` still holds, as it does for
    `plan`."""
    until = time.monotonic() + seconds

    def still(candidate: Plan) -> bool:
        return time.monotonic() < until and fails(candidate)

    plan = _fewer(plan, still)
    simpler: list[dict[str, Any]] = [
        {"duplicates": 0.0},
        {"skews": [0.0] * plan.directors},
        {"slow": []},
        {"delays": FAST},
        {"on_the_way": 0.0},
        {"starts": [(name, 0.0) for name in plan.names]},
    ]
    for setting in simpler:
        candidate = msgspec.structs.replace(plan, **setting)
        if candidate != plan and still(candidate):
            plan = candidate
    return plan


def _fewer(plan: Plan, still: Callable[[Plan], bool]) -> Plan:
    """Leave out chunks of the actions, from large chunks to small ones."""
    size = max(1, len(plan.actions) // 2)
    while True:
        shorter = _without_chunks(plan, size, still)
        if shorter is plan and size == 1:
            return plan
        if shorter is plan or len(shorter.actions) < 2 * size:
            size = max(1, size // 2)
        plan = shorter


def _without_chunks(plan: Plan, size: int, still: Callable[[Plan], bool]) -> Plan:
    at = 0
    while at < len(plan.actions):
        candidate = msgspec.structs.replace(plan, actions=plan.actions[:at] + plan.actions[at + size :])
        if still(candidate):
            plan = candidate
        else:
            at += size
    return plan
