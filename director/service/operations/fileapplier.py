"""What has changed in the configuration file since it was last applied is made a change of the cluster, as if
an operator had made it: once the store has been read and the ring is in sync, one host at a time.

Only then it is known what others have made already. What was applied is written when it has been applied: a
director that dies in between finds it made, and nothing is left to do.
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

LOOK = 0.05
"""Seconds between two looks whether the ring is in sync, at the start."""
AGAIN = 5.0
"""Seconds until a change is tried again that the ring could not agree on, or the store was away for."""
REASON = "the configuration file has changed"
"""In the audit."""


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
        """names: of the file, and what they stand for. again: seconds until a change is tried again."""
        self._director, self._persistence = director, persistence
        self._operations, self._names, self._log, self._again = operations, names, log, again
        self._settings: Sequence[BackendSetting] = ()
        """The hosts of the file, those of unresolved names where they were last."""

    async def run(self) -> None:
        """Apply the file at the start, and whenever its hosts are others."""
        while True:
            changed = self._names.changed
            waiting = await self._run()
            with anyio.move_on_after(self._again if waiting else None):
                await changed.wait()

    async def _run(self) -> bool:
        """Until it is written what was applied. Returns whether something is to be tried again later."""
        await self._persistence.documents.wait_read()
        while True:
            if self._director.synced:
                break
            await anyio.sleep(LOOK)
        waiting = await self._move()
        if self._persistence.documents.applied is not None:
            await self._apply()
        while not await self._persistence.documents.wait_operators_stored(self._again):
            pass
        applied = now_applied(self._carried() or [], self._settings, self._director.hosts.rows)
        self._persistence.set_applied(applied)
        return waiting

    async def _move(self) -> bool:
        """Backends that have other addresses; whether some of them are not moved yet."""
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
                    self._log.warning("configuration_waits", **fields, reason=str(exc))
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
                        self._tell("configuration_waits", difference, reason=str(exc))
                    logged.add(str(exc))
                    await anyio.sleep(self._again)
                if difference.gone_from(self._director.hosts.rows.get(difference.address)):
                    self._tell("configuration_applied", difference)
        for difference in self._differences():
            if difference.outcome is Outcome.KEPT:
                decided = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(difference.decided))
                self._tell(
                    "configuration_kept", difference, note=f"changed at run time on {decided}, that stays"
                )

    def _tell_seeded(self) -> None:
        """New hosts of the file have been in the table since the start: nothing is left to change."""
        listed = {one.address for one in self._carried() or () if one.listed}
        for setting in self._settings:
            row = self._director.hosts.get(setting.address)
            if setting.address in self._director.hosts.seeded and setting.address not in listed and row:
                one = Difference(setting.address, "host", Outcome.MADE, None, setting)
                self._tell("configuration_applied", one)
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
    """As the commands are called that do the same."""
    if difference.attribute == "host":
        return "add" if difference.setting else "remove"
    return "update" if difference.attribute == "weight" else "tag"
