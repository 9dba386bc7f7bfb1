"""Errors in the program that were contained: all are counted, some are logged with their traceback."""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable

from director.service.log import Log

LOGGED, EVERY = 5, 10.0
"""At most so many are logged in so many seconds."""


class Bugs:
    def __init__(self, log: Log, count: Callable[[], int]) -> None:
        """count: adds one to the number of bugs, and returns it."""
        self._log, self._count = log, count
        self._logged: deque[float] = deque(maxlen=LOGGED)

    def met(self, text: str, error: BaseException | None, **fields: object) -> None:
        """text: what was being done."""
        number, now = self._count(), time.monotonic()
        if len(self._logged) == LOGGED and now < self._logged[0] + EVERY:
            return
        self._logged.append(now)
        trace = None if error is None else "".join(traceback.format_exception(error))
        self._log.error("bug", text=text, **fields, bugs=number, error=trace)
