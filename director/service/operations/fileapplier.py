"""Applies changes of the configuration file to the cluster, host by host, as if an operator had made them.

It waits until the store has been read and the ring is in sync: only then the director knows the changes that
other directors have made already. The applied state of the file is stored after the changes. A director that
stops in between finds them made at its next start, and has nothing left to do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import anyio

from director.core.backendnames import NamePlan, carried, plan_moves
from director.core.director import Director
from director.core.filechanges import AppliedHost, Difference, Outcome, compare, now_applied
from director.core.tables.hosts import BackendSetting
from director.errors import OperationError
from director.service.clock import unix_time
from director.service.log import Log
from director.service.operations.hosts import HostOperations
from director.service.persistence.persist import Persistence
from director.service.resolution.backendnames import BackendNames
from state.base import AuditEntry

CHECK_EVERY = 0.05
"""Seconds between two checks whether the ring is in sync, at the start."""
AGAIN = 5.0
"""Seconds until a change is retried because the ring did not agree, or the store was unreachable."""
DELAYED_NOTE = f"the change of the file is retried every {AGAIN:g} s"
REASON = "the configuration file has changed"
"""The reason that the audit shows."""


class FileApplier:
    def __init__(
        self,
        director: Director,
        persistence: Persistence,
        operations: HostOperations,
        names: BackendNames,
        log: Log,
        *,
        again: float = AGAIN,
    ) -> None:
        """
        Args:
            names: the hosts of the file, with the addresses of their names.
            again: seconds until a change is retried.
        """
        self._director, self._persistence = director, persistence
        self._operations, self._names, self._log, self._again = operations, names, log, again
        self._settings: Sequence[BackendSetting] = ()
        """The hosts of the file. A host whose name cannot be resolved has its last address."""

    async def run(self) -> None:
        """Apply the file at the start, and after each change of its hosts."""
        while True:
            changed = self._names.changed
            waiting = await self._run()
            with anyio.move_on_after(self._again if waiting else None):
                await changed.wait()

    async def _run(self) -> bool:
        """Apply the file and store what was applied. Returns whether a backend is not moved yet."""
        await self._persistence.documents.wait_read()
        while True:
            if self._director.synced:
                break
            await anyio.sleep(CHECK_EVERY)
        waiting = await self._move()
        if self._persistence.documents.applied is not None:
            await self._apply()
        while not await self._persistence.documents.wait_operators_stored(self._again):
            pass
        applied = now_applied(self._carried() or [], self._settings, self._director.hosts.rows)
        self._persistence.set_applied(applied)
        return waiting

    async def _move(self) -> bool:
        """Move backends to their names' new addresses. Returns whether some backends are not moved yet."""
        while True:
            found = self._plan()
            self._settings = found.settings
            self._director.hosts.set_configured(found.settings)
            if not found.moves:
                return bool(found.waiting)
            try:
                await self._operations.move_hosts(found.moves)
            except OperationError as exc:
                for move in found.moves:
                    fields = {
                        "host": move.before,
                        "what": "address",
                        "before": move.before,
                        "file": move.after,
                    }
                    self._log.warning(
                        "configuration_change_delayed", **fields, reason=str(exc), note=DELAYED_NOTE
                    )
                await anyio.sleep(self._again)

    def _plan(self) -> NamePlan:
        applied, rows = self._persistence.documents.applied, self._director.hosts.rows
        return plan_moves(applied, *self._names.hosts(), rows, int(unix_time()))

    def _carried(self) -> list[AppliedHost] | None:
        applied = self._persistence.documents.applied
        return None if applied is None else carried(applied, self._settings, self._director.hosts.rows)

    async def _apply(self) -> None:
        self._tell_seeded()
        logged: set[str] = set()
        while wanted := self._made():
            for difference in wanted:
                try:
                    await self._operations.apply(difference.change(), _called(difference), REASON)
                except OperationError as exc:
                    if str(exc) not in logged:
                        self._tell(
                            "configuration_change_delayed", difference, reason=str(exc), note=DELAYED_NOTE
                        )
                    logged.add(str(exc))
                    await anyio.sleep(self._again)
                if difference.is_resolved_by(self._director.hosts.rows.get(difference.address)):
                    self._tell("configuration_change_applied", difference)
        for difference in self._differences():
            if difference.outcome is Outcome.KEPT:
                decided = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(difference.decided))
                self._tell(
                    "configuration_change_skipped",
                    difference,
                    note=f"an operator changed it at run time, on {decided}, and that value stays",
                )

    def _tell_seeded(self) -> None:
        """Log and audit new hosts of the file. They are in the table since the start and need no change."""
        listed = {one.address for one in self._carried() or () if one.listed}
        for setting in self._settings:
            row = self._director.hosts.get(setting.address)
            if setting.address in self._director.hosts.seeded and setting.address not in listed and row:
                one = Difference(setting.address, "host", Outcome.MADE, None, setting)
                self._tell("configuration_change_applied", one)
                entry = AuditEntry(
                    at=time.time(),
                    who=self._director.me,
                    what="add",
                    target=str(setting.address),
                    detail=f"weight={row.weight} tag={row.tag} up={row.up} present={row.present}",
                    reason=REASON,
                )
                self._persistence.audit(entry)

    def _differences(self) -> list[Difference]:
        return compare(self._carried(), self._settings, self._director.hosts.rows)

    def _made(self) -> list[Difference]:
        return [difference for difference in self._differences() if difference.outcome is Outcome.MADE]

    def _tell(self, event: str, difference: Difference, **more: object) -> None:
        before, after = difference.values()
        fields = {"host": difference.address, "what": difference.attribute, "before": before, "file": after}
        self._log.warning(event, **fields, **more) if more else self._log.info(event, **fields)


def _called(difference: Difference) -> str:
    """Return the name of the command that makes the same change."""
    if difference.attribute == "host":
        return "add" if difference.setting else "remove"
    return "update" if difference.attribute == "weight" else "tag"
