"""Waits until a condition holds, instead of sleeping as long as it may take."""

from __future__ import annotations

from collections.abc import Callable

import anyio


async def until(condition: Callable[[], object], *, within: float = 30.0) -> None:
    """Return as soon as `condition` holds. Raises TimeoutError after `within` seconds."""
    with anyio.fail_after(within):
        while not condition():  # noqa: ASYNC110 - what is waited for is outside of this process, or has no event
            await anyio.sleep(0.001)
