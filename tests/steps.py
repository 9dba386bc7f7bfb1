"""Measures work in steps of the interpreter: the number is the same on every machine, however busy it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")

FIVE_MS = 120_000
"""Steps that take less than 5 ms on a slow machine, where a step takes some 30 ns including the calls it
makes."""


def counted(call: Callable[[], Result]) -> tuple[Result, int]:
    """Return the result of `call` and the number of byte code steps. A call of compiled code is one step."""
    steps = 0

    def step(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal steps
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        steps += event == "opcode"
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        return call(), steps
    finally:
        sys.settrace(before)
