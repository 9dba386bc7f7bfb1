"""What has changed in the configuration file since it was last applied is made a change of the cluster, as if
an operator had made it: once the store has been read and the ring is in sync, one host at a time.

Only then it is known what others have made already. What was applied is written when it has been applied: a
director that dies in between finds it made, and nothing is left to do.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

import anyio

from director.core.configured import Difference, Outcome, compare, now_applied
from director.core.director import Director
from director.core.events import HostChange
from director.core.hosts import BackendSetting
from director.errors import OperationError
from director.service.log import Log
from director.service.persist import Persistence
from state.base import AuditEntry

LOOK = 0.05
"""Seconds between two looks whether the ring is in sync, at the start."""
AGAIN = 5.0
"""Seconds until a change is tried again that the ring could not agree on, or the store was away for."""
REASON = "the configuration file has changed"
"""In the audit."""


class Configuring:
    def __init__(
        self,
        director: Director,
        persistence: Persistence,
        change: Callable[[HostChange, str, str], Awaitable[object]],
        log: Log,
        *,
        again: float = AGAIN,
    ) -> None:
        """change: have one carried out by the ring: the change, what the audit calls it, and why.

        again: seconds until one is tried again."""
        self._director, self._persistence = director, persistence
        self._change, self._log, self._again = change, log, again
        self._settings: Sequence[BackendSetting] = list(director.hosts.configured.values())
        self._work = anyio.Event()

    async def run(self) -> None:
        """Apply the file at the start, and whenever `changed` says that it is another one."""
        while True:
            self._work = anyio.Event()
            await self._run()
            await self._work.wait()

    def changed(self, settings: Sequence[BackendSetting]) -> None:
        """The file names these hosts now."""
        self._settings = list(settings)
        self._director.hosts.configured = {setting.address: setting for setting in settings}
        self._work.set()

    async def _run(self) -> None:
        """Until it is written what was applied."""
        await self._persistence.documents.were_read.wait()
        while True:
            if self._director.synced:
                break
            await anyio.sleep(LOOK)
        if self._persistence.documents.applied is not None:
            await self._apply()
        while not await self._persistence.documents.wait_operators_stored(self._again):
            pass
        applied = now_applied(
            self._persistence.documents.applied or [], self._settings, self._director.hosts.rows
        )
        self._persistence.set_applied(applied)

    async def _apply(self) -> None:
        self._tell_seeded()
        told: set[str] = set()
        while wanted := self._made():
            for one in wanted:
                try:
                    await self._change(one.change(), _called(one), REASON)
                except OperationError as exc:
                    if str(exc) not in told:
                        self._tell("configuration_waits", one, reason=str(exc))
                    told.add(str(exc))
                    await anyio.sleep(self._again)
                if one.gone_from(self._director.hosts.rows.get(one.address)):
                    self._tell("configuration_applied", one)
        for one in self._differences():
            if one.outcome is Outcome.KEPT:
                decided = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.decided))
                self._tell("configuration_kept", one, note=f"changed at run time on {decided}, that stays")

    def _tell_seeded(self) -> None:
        """New hosts of the file have been in the table since the start: nothing is left to change."""
        listed = {one.address for one in self._persistence.documents.applied or () if one.listed}
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
        return compare(self._persistence.documents.applied, self._settings, self._director.hosts.rows)

    def _made(self) -> list[Difference]:
        return [one for one in self._differences() if one.outcome is Outcome.MADE]

    def _tell(self, event: str, one: Difference, **more: object) -> None:
        before, after = one.values()
        fields = {"host": one.address, "what": one.attribute, "before": before, "file": after}
        self._log.warning(event, **fields, **more) if more else self._log.info(event, **fields)


def _called(one: Difference) -> str:
    """As the commands are called that do the same."""
    if one.attribute == "host":
        return "add" if one.setting else "remove"
    return "update" if one.attribute == "weight" else "tag"
