"""Work in steps, each in its own turn of the loop."""

from __future__ import annotations

from typing import TypeVar

import anyio
import anyio.lowlevel

from director.core.protocol.steps import Steps

Result = TypeVar("Result")


async def in_turns(steps: Steps[Result]) -> Result:
    """Run all steps. Returns their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        await anyio.lowlevel.checkpoint()
