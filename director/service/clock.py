"""The time of day, as records can hold it."""

from __future__ import annotations

import time

from director.core.protocol.clock import within_records


def unix_time() -> float:
    """Unix seconds."""
    return within_records(time.time())
