"""The interface of the core's parts that need time."""

from __future__ import annotations

from typing import Protocol


class Part(Protocol):
    """A part of the core that waits for times, or spreads its work over several turns of the loop."""

    @property
    def has_work(self) -> bool:
        """Whether work is left for the next turn of the loop."""
        ...

    def next_deadline(self) -> float | None:
        """Return the monotonic time at which the part has something to do; None: it waits for no time."""
        ...
