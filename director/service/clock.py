"""The time of day, limited to the range of records."""

from __future__ import annotations

import time

from director.core.protocol.clock import within_records


def unix_time() -> float:
    """Return the time of day in Unix seconds."""
    return within_records(time.time())
