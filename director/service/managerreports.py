"""Reports to the service manager: whether logins are answered, a status line, signs of life."""

from __future__ import annotations

import time

import anyio

from director.core.director import Director
from director.service.lifecycle.replacement import Replacement
from director.service.lifecycle.sysd import Notifier
from director.service.log import Log
from director.service.operations.operations import Operations
from director.service.persistence.persist import Persistence

STATUS_EVERY = 5.0
"""Seconds between two status lines for the service manager."""


class ManagerReports:
    def __init__(
        self,
        director: Director,
        persistence: Persistence,
        operations: Operations,
        replacement: Replacement,
        notifier: Notifier,
        log: Log,
        *,
        begun: float,
    ) -> None:
        """Report nothing yet.

        Args:
            operations: its jobs go on once logins are answered.
            replacement: is told when logins are answered.
            begun: monotonic time at which the start began.
        """
        self.warm_seconds = 0.0
        """Seconds from the start until logins were answered; 0: they are not answered yet."""
        self._director, self._persistence, self._operations = director, persistence, operations
        self._replacement, self._notifier, self._log, self._begun = replacement, notifier, log, begun

    async def run(self) -> None:
        """Send READY once logins are answered, then a status line and a sign of life every few seconds."""
        has_told = False
        while True:
            ready, reason = self._operations.queries.ready()
            if ready and not has_told:
                has_told = True
                self.warm_seconds = time.monotonic() - self._begun
                self._log.info(
                    "ready", seconds=round(self.warm_seconds, 3), users=self._persistence.loaded_users
                )
                self._operations.jobs.go_on()
                self._replacement.served()
                self._notifier.ready(self.status_line())
            elif not has_told:
                self._notifier.status(f"starting: {reason}")
                await anyio.sleep(0.02)
                continue
            else:
                self._notifier.status(self.status_line())
            self._notifier.watchdog()
            self._log.report_left_out()
            await anyio.sleep(min(STATUS_EVERY, self._notifier.watchdog_interval or STATUS_EVERY))

    def status_line(self) -> str:
        """Return the state of the director in one line."""
        ring = self._director.barrier.ring
        store = "store reachable" if self._persistence.up else "STORE UNREACHABLE"
        if self._director.loading:
            store = f"{100 * self._persistence.loaded_part:.0f} % of the store read"
        return (
            f"{len(self._director.users)} users on {len(self._director.hosts.present())} hosts, "
            f"{len(ring)} of {len(self._director.ring.servers)} directors in the ring, {store}"
        )
