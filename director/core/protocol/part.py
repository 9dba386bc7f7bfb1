"""What the parts of the core that need time have in common."""

from __future__ import annotations

from typing import Protocol


class Part(Protocol):
    """A part of the core that waits for times, or spreads work over several turns of the loop."""

    @property
    def has_work(self) -> bool:
        """Whether work is left over for the next turn of the loop."""
        ...

    def next_deadline(self) -> float | None:
        """Monotonic time at which it is to be asked again; None: no time is awaited."""
        ...
