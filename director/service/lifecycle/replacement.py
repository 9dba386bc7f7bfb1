"""`director reload`, SIGHUP: read the file again. `reload --exec`, SIGUSR2: replace the program.

    asked --the other program can--> endpoints closed --operators have their answers, store written-->
    out of the ring --> stopped: all open state goes into one document --> the other program, same process

Until the last step the replacement can be called off. After it the other program continues, or, if it cannot
be started, this program takes over its own state. Logins are answered until the program stops for the last
step.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

import anyio
import anyio.lowlevel
import anyio.to_thread

from director.core.admission import MEMORY
from director.core.director import Director
from director.core.placement.names import NameTable
from director.core.protocol.events import Event, StoredUsers
from director.errors import DirectorError, TryAgain
from director.net.tls import RingTls
from director.records import ReloadInfo
from director.service.configuration.config import Config
from director.service.lifecycle import reexec
from director.service.lifecycle.handover import Inherited, Memory, ReplacementRecord
from director.service.lifecycle.reload import compare, live
from director.service.lifecycle.sysd import Notifier
from director.service.log import Log
from director.version import VERSION

READ_WITHIN = 30.0
"""Seconds to wait for a store that is being read at the start."""
STORE_CHECK_EVERY = 0.05
"""Seconds between two checks whether it has been read."""
FINISH_WITHIN = 5.0
"""Seconds for operators' running commands to end."""
WRITE_WITHIN = 1.0
"""Seconds for the store to take changes. The successor writes the rest."""
NAMES_AT_ONCE = 16
"""Buckets of names taken over in one turn of the loop. With a million users: 4,000 names in 1 ms."""
SIGNALS_WITHIN = 0.01
"""Seconds in which the loop handles a signal that has arrived already."""


def load_users(director: Director, memory: Memory, handle: Callable[[Event], None]) -> None:
    """Take over a predecessor's users. The comparison with the store finds users that are not stored yet."""
    if memory.users:
        handle(StoredUsers(memory.users, MEMORY))
        director.users.take_dirty()
    memory.users = b""


async def load_names(names: NameTable, memory: Memory, sizes: Sequence[int]) -> None:
    """Take over a predecessor's names, some at a time, because they take several times as long as the users.
    Logins are answered meanwhile."""
    for entries in name_parts(memory, sizes):
        take_names(names, entries)
        await anyio.lowlevel.checkpoint()


def name_parts(memory: Memory, sizes: Sequence[int]) -> Iterator[bytes]:
    """Yield the names for one turn of the loop each. sizes: bytes of the names of each bucket."""
    start = 0
    for first in range(0, len(sizes), NAMES_AT_ONCE):
        end = start + sum(sizes[first : first + NAMES_AT_ONCE])
        yield memory.names[start:end]
        start = end
    memory.names = b""


def take_names(names: NameTable, entries: bytes) -> None:
    """Take over some names, not marked as changed: the comparison with the store finds unstored names."""
    dirty = names.take_dirty()
    names.merge(entries)
    names.take_dirty()
    for number in dirty:
        names.mark_dirty(number)


class Replaceable(Protocol):
    """The program that is reloaded and replaced."""

    @property
    def config(self) -> Config: ...

    async def read_again(self) -> tuple[Config, RingTls | None]:
        """Return the configuration in the file now, and the certificates if the ring has TLS.

        Raises DirectorError.
        """
        ...

    async def apply(self, new: Config, tls: RingTls | None) -> list[str]:
        """Apply the settings of another configuration that can change at once.

        Returns the settings whose files have changed.
        """
        ...

    def warnings_of(self, new: Config) -> list[str]:
        """Return warnings about the changed backends of another configuration."""
        ...

    def loading(self) -> float | None:
        """Return how much of the store has been read, 0.0 to 1.0; None if it is not being read."""
        ...

    async def close_endpoints(self, within: float) -> None:
        """Let operators' commands end, for `within` seconds at most; then accept no more commands."""
        ...

    async def write_changes(self, within: float) -> None:
        """Write changes to the store, for `within` seconds at most."""
        ...

    async def leave(self) -> None:
        """Leave the ring, unless the director ends anyway."""
        ...

    def end(self, name: str) -> None:
        """End the director. name: the signal; empty: stop, and be replaced by another program."""
        ...

    def hand_over(self, replacement: ReplacementRecord) -> Inherited:
        """Stop. Returns the state for a successor."""
        ...

    def status_line(self) -> str: ...


class Replacement:
    """Carries out reloads and replacements of one director, one at a time."""

    def __init__(
        self, target: Replaceable, log: Log, notifier: Notifier, inherited: Inherited | None
    ) -> None:
        """inherited: the state that a predecessor in this process has left."""
        self.inherited: Inherited | None = None
        """The state that this program takes over again, because the other program could not be started."""
        self._target, self._log, self._notifier = target, log, notifier
        self._before = inherited.handover.replacement if inherited else None
        self._busy = False
        self._begun = 0.0
        self._backends_warnings: list[str] = []
        """Warnings about the backends in the successor's file."""
        self._info = ReloadInfo(state="never", version=VERSION)

    # ---- requests of operators

    def info(self) -> ReloadInfo:
        return self._info

    async def ask(self, *, exec: bool, dry_run: bool) -> ReloadInfo:
        """Reload, or start a replacement.

        Args:
            exec: replace the program. Returns at once; `info` has the result later.
            dry_run: only check whether it would succeed.

        Raises TryAgain while a replacement is under way.
        """
        if self._busy:
            raise TryAgain("a replacement in place is in progress; try again when it has ended")
        if not exec:
            return await self.reload(dry_run=dry_run)
        if dry_run:
            return await self._try()
        self._info = ReloadInfo(state="under_way", exec=True, version=VERSION, number=self._number)
        os.kill(os.getpid(), signal.SIGUSR2)
        return self._info

    async def _try(self) -> ReloadInfo:
        try:
            await self._probe()
        except reexec.CannotReplace as exc:
            return ReloadInfo(state="failed", exec=True, version=VERSION, problem=str(exc))
        return ReloadInfo(state="done", exec=True, version=VERSION, warnings=await self._warnings())

    # ---- the file

    async def reload(self, *, dry_run: bool = False) -> ReloadInfo:
        """Read the file again and apply the settings that can change at once. A bad file changes nothing."""
        target, begun = self._target, time.monotonic()
        self._notifier.reloading(begun)
        try:
            new, tls = await target.read_again()
        except DirectorError as exc:
            self._log.error(
                "reload_failed",
                reason=str(exc),
                note="nothing has changed; correct the file, then reload again",
            )
            info = ReloadInfo(state="failed", version=VERSION, problem=str(exc), number=self._number)
        else:
            changes, warnings = compare(target.config, new), target.warnings_of(new)
            if not dry_run:
                changes.applied.extend(await target.apply(live(target.config, new), tls))
                note = "needs_exec: these apply after `director reload --exec` or a restart"
                self._log.info(
                    "configuration_reloaded",
                    applied=changes.applied,
                    needs_exec=changes.needs_exec,
                    note=note if changes.needs_exec else None,
                )
            took = round(time.monotonic() - begun, 3)
            info = ReloadInfo(
                state="done",
                version=VERSION,
                number=self._number,
                seconds=took,
                applied=changes.applied,
                needs_exec=changes.needs_exec,
                warnings=warnings,
            )
        if not dry_run:
            self._info = info
        self._notifier.ready(target.status_line())
        return info

    async def _probe(self) -> str:
        """Return the version of the other program, if it can take over.

        Raises CannotReplace, also for a certificate that other directors would refuse. A start only warns of
        it, but a replacement would lose the good certificate in force.
        """
        version = await reexec.probe()
        try:
            await self._target.read_again()
        except DirectorError as exc:
            raise reexec.CannotReplace(str(exc)) from exc
        return version

    async def _warnings(self) -> list[str]:
        """Return warnings about the backends in the file; none if the file cannot be read."""
        with suppress(DirectorError):
            new, _ = await self._target.read_again()
            return self._target.warnings_of(new)
        return []

    # ---- the program

    async def replace(self) -> None:
        """Replace the program, if the other program can take over. One replacement runs at a time."""
        target = self._target
        if self._busy:
            self._log.info("replacement_already_running", note="this request is ignored")
            return
        self._busy, self._begun = True, time.monotonic()
        self._info = ReloadInfo(state="under_way", exec=True, version=VERSION, number=self._number)
        self._notifier.reloading(self._begun)
        try:
            await self._wait_for_store()
            version = await self._probe()
        except reexec.CannotReplace as exc:
            self._refused(str(exc))
            self._notifier.ready(target.status_line())
            self._busy = False
            return
        self._backends_warnings = await self._warnings()
        self._log.info("replacement_begun", version=VERSION, new_version=version)
        await target.close_endpoints(FINISH_WITHIN)
        await target.write_changes(WRITE_WITHIN)
        reexec.defer_signals()
        await anyio.sleep(SIGNALS_WITHIN)
        await target.leave()
        target.end("")

    async def _wait_for_store(self) -> None:
        """Wait until the store has been read. Until then memory may lack an assigned user, and a successor
        would assign the user again. Raises CannotReplace."""
        until = time.monotonic() + READ_WITHIN
        while (part := self._target.loading()) is not None:
            if time.monotonic() > until:
                raise reexec.CannotReplace(f"only {100 * part:.0f} % of the store is read; try again later")
            await anyio.sleep(STORE_CHECK_EVERY)

    def go(self) -> None:
        """Replace the program. Returns only if the other program cannot be started: see `inherited`."""
        replacement = ReplacementRecord(
            version=VERSION,
            begun=self._begun,
            paused_at=time.monotonic(),
            number=self._number + 1,
            warnings=self._backends_warnings,
        )
        inherited = self._target.hand_over(replacement)
        try:
            reexec.replace(inherited.handover, inherited.memory, os.environ)
        except reexec.CannotReplace as exc:
            replacement.problem = str(exc)
            replacement.number -= 1
            self.inherited = inherited

    def served(self) -> None:
        """Record and log the result of the replacement. Called when logins are answered."""
        before = self._before
        if before is None:
            return
        if before.problem:
            self._refused(before.problem)
            return
        now = time.monotonic()
        self._info = ReloadInfo(
            state="done",
            exec=True,
            version=VERSION,
            before=before.version,
            number=before.number,
            seconds=round(now - before.begun, 3),
            paused=round(now - before.paused_at, 3),
            warnings=before.warnings,
        )
        self._log.info(
            "program_replaced",
            version=VERSION,
            previous_version=before.version,
            seconds=self._info.seconds,
            paused=self._info.paused,
            replacements=before.number,
        )

    def _refused(self, problem: str) -> None:
        self._log.error(
            "replacement_failed",
            reason=problem,
            note="the old program continues, with all settings as before",
        )
        self._info = ReloadInfo(
            state="failed", exec=True, version=VERSION, number=self._number, problem=problem
        )

    @property
    def _number(self) -> int:
        return self._before.number if self._before else 0
