"""Internal errors that were contained: all are counted, some are logged with their traceback."""

from __future__ import annotations

import time
import traceback
from collections import deque

from director.service.log import NOTE, Log

LOGGED, EVERY = 5, 10.0
"""At most `LOGGED` errors are logged in `EVERY` seconds."""


class InternalErrors:
    def __init__(self, log: Log) -> None:
        self.count = 0
        """Number of exceptions in callbacks of the loop and in handlers of clients."""
        self._log = log
        self._logged: deque[float] = deque(maxlen=LOGGED)

    def record(self, text: str, error: BaseException | None, **fields: object) -> None:
        """Count an error, and log it. text: the work that failed."""
        self.count += 1
        now = time.monotonic()
        if len(self._logged) == LOGGED and now < self._logged[0] + EVERY:
            return
        self._logged.append(now)
        trace = None if error is None else "".join(traceback.format_exception(error))
        self._log.error("internal_error", text=text, **fields, count=self.count, note=NOTE, error=trace)
